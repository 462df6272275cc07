"""Omniglot by the optimization-based family."""

from dataclasses import replace

from mapsto.episode import Shape
from mapsto.recipes.settings import Paper, Recipe, Settings

FINN = Paper("Finn, Abbeel & Levine", "ICML 2017", "https://arxiv.org/abs/1703.03400")
NICHOL = Paper("Nichol, Achiam & Schulman", "2018", "https://arxiv.org/abs/1803.02999")
RAGHU = Paper("Raghu, Raghu, Bengio & Vinyals", "ICLR 2020", "https://arxiv.org/abs/1909.09157")
LI = Paper("Li, Zhou, Chen & Li", "2017", "https://arxiv.org/abs/1707.09835")
ANTONIOU = Paper("Antoniou, Edwards & Storkey", "ICLR 2019", "https://arxiv.org/abs/1810.09502")
RAJESWARAN = Paper("Rajeswaran, Finn, Kakade & Levine", "NeurIPS 2019", "https://arxiv.org/abs/1909.04630")
ZINTGRAF = Paper("Zintgraf, Shiarlis, Kurin et al.", "ICML 2019", "https://arxiv.org/abs/1810.03642")
TRIANTAFILLOU = Paper("Triantafillou, Zhu, Dumoulin et al.", "ICLR 2020", "https://arxiv.org/abs/1903.03096")
RAVI = Paper("Ravi & Larochelle", "ICLR 2017", "https://openreview.net/forum?id=rJY0-Kcll")
RUSU = Paper("Rusu, Rao, Sygnowski et al.", "ICLR 2019", "https://arxiv.org/abs/1807.05960")
OH = Paper("Oh, Yoo, Kim & Yun", "ICLR 2021", "https://arxiv.org/abs/2008.08882")

MAML = Settings(
    algorithm="maml",
    model="conv4",
    data="omniglot",
    options={"lr": 2.0, "steps": 1, "first_order": False},
    model_options={"filters": 64, "down": "stride", "stats": "transductive"},
    data_options={"split": "random"},
    train=Shape(5, 1, 1),
    test=Shape(5, 1, 15),
    test_steps=3,
    steps=8000,
    batch=32,
    schedule="late",
    validate=200,
)
SHORT = replace(MAML, batch=8)
_HERE = (
    "Here MAML's settings of this job (Finn et al. 2017) but for what follows: {steps} meta-steps of 8 tasks, some "
    "minutes of one core"
)
_GAP = "{steps} meta-steps of 8 tasks, some minutes of one core, are a small part of the paper's training."
_REPTILE = replace(
    MAML,
    algorithm="reptile",
    options={"lr": 1e-3, "steps": 5, "batch": 10, "test_batch": 5, "carry": True},
    train=Shape(5, 10, 1),
    test=Shape(5, 5, 1),
    test_steps=50,
    steps=700,
    batch=5,
    optimizer="sgd",
    lr=1.0,
    schedule="linear",
)
_MAML_PROTOCOL = (
    "Finn et al. 2017: 60,000 meta-steps of 32 tasks, one inner step of rate 0.4 of a loss summed over 5 classes (2.0 "
    "of the mean), 3 steps at test, one query a class, 600 test tasks, transductive batch norm. Here: {steps} "
    "meta-steps and 15 queries a class at test; batch norm's shift and scale adapt too."
)
_LATE = " Adam's rate is brought to 0 over the last quarter."
_REPTILE_PROTOCOL = (
    "Nichol et al. 2018: 100,000 meta-steps of 5 tasks, 5 inner Adam steps (beta1 = 0, 1e-3) on 10 of 10 x 5 "
    "examples, outer step 1 to 0; 50 inner steps of 5 examples at test, one query a class, 10,000 test tasks. Here: "
    "{steps} meta-steps, 1,000 test tasks, test characters rotated as well."
)

RECIPES: dict[str, Recipe] = {
    "maml/omniglot-5way-1shot": Recipe("fine-tuning in one step", MAML, FINN, "98.7 ± 0.4 %", _MAML_PROTOCOL + _LATE),
    "fomaml/omniglot-5way-1shot": Recipe(
        "the same without second derivatives",
        replace(MAML, options={"lr": 0.4, "steps": 1, "first_order": True}, steps=3500, schedule="constant"),
        FINN,
        "98.3 ± 0.5 %",
        _MAML_PROTOCOL
        + " The first-order number is the Reptile paper's (Nichol et al. 2018); here an inner rate of 0.4 "
        "of the mean, since without second derivatives 2.0 learns far slower (seen on validation tasks).",
        gap="{steps} meta-steps against 60,000: the validation score was still rising at the end.",
    ),
    "anil/omniglot-5way-1shot": Recipe(
        "only the head is fine-tuned",
        replace(SHORT, options={**MAML.options, "adapts": "head."}, steps=2500),
        RAGHU,
        None,
        f"The paper has Omniglot 20-way only. {_HERE}.{_LATE}",
    ),
    "boil/omniglot-5way-1shot": Recipe(
        "all but the head is fine-tuned",
        replace(SHORT, options={**MAML.options, "adapts": "body."}, steps=1200),
        OH,
        None,
        f"No number for this job at hand. {_HERE}.{_LATE}",
    ),
    "meta-sgd/omniglot-5way-1shot": Recipe(
        "a learned rate for every weight",
        replace(SHORT, algorithm="metasgd", options={"lr": 0.5, "steps": 1}, test_steps=1, steps=1200),
        LI,
        "99.53 ± 0.26 %",
        f"Li et al. 2017: one inner step, in training and at test. {_HERE}, rates that begin at 0.5 of the mean "
        f"loss, one step at test.{_LATE}",
        gap=_GAP,
    ),
    "maml++/omniglot-5way-1shot": Recipe(
        "MAML with learned rates and norms a step, and a loss after each",
        replace(
            SHORT,
            algorithm="mamlplusplus",
            options={"lr": 0.1, "steps": 5, "multi_step": 40},
            test_steps=5,
            steps=400,
            schedule="cosine",
        ),
        ANTONIOU,
        "99.47 %",
        "Antoniou et al. 2019: 50,000 meta-steps of 8 tasks, 5 inner steps of learned rates that begin at 0.1, the "
        "losses of all steps weighed for 5,000 meta-steps, a cosine, max-pooling; the score is that of an ensemble of "
        f"the five best checkpoints. {_HERE}, 5 inner steps, all losses weighed for 40, a cosine; strided convolutions "
        "as in MAML, one network.",
        gap=_GAP,
    ),
    "imaml/omniglot-5way-1shot": Recipe(
        "the meta-gradient of the solution, not of the path",
        replace(
            SHORT,
            algorithm="imaml",
            options={"lr": 0.4, "steps": 5, "lam": 0.5, "cg_steps": 3},
            test_steps=5,
            steps=300,
        ),
        RAJESWARAN,
        "99.16 ± 0.35 %",
        "Rajeswaran et al. 2019, with gradient descent inside: 16 inner steps of rate 0.1, lambda 2, 5 conjugate "
        "gradient steps, at least 20,000 meta-steps of 32 tasks, 600 test tasks without the regulariser. "
        f"{_HERE}, 5 inner steps of rate 0.4, lambda 0.5 and 3 conjugate gradient steps (the paper's learn too slowly "
        f"for so short a training, as seen on validation tasks), the regulariser at test too.{_LATE}",
        gap=_GAP,
    ),
    "cavia/omniglot-5way-1shot": Recipe(
        "a context vector is adapted, the network is shared",
        replace(
            SHORT,
            algorithm="cavia",
            options={"context": 100, "lr": 1.0, "steps": 2, "at": "body.2.norm", "film": True},
            test_steps=2,
            steps=2500,
        ),
        ZINTGRAF,
        None,
        f"The paper has no Omniglot. {_HERE}, a context of 100 that modulates the third block, 2 inner steps of rate "
        f"1, as the paper's on mini-ImageNet.{_LATE}",
    ),
    "protomaml/omniglot-5way-1shot": Recipe(
        "fine-tuning from a head made of prototypes",
        replace(SHORT, algorithm="protomaml", options={"lr": 0.01, "steps": 1}, test_steps=3, steps=1200),
        TRIANTAFILLOU,
        None,
        f"The paper has other tasks of Omniglot (any way, any shot). {_HERE}, an inner rate of 0.01.{_LATE}",
    ),
    "meta-lstm/omniglot-5way-1shot": Recipe(
        "the optimizer is an LSTM",
        replace(
            MAML,
            algorithm="metalstm",
            options={"steps": 5, "hidden": 20},
            model_options={**MAML.model_options, "filters": 32},
            train=Shape(5, 1, 5),
            test_steps=5,
            steps=800,
            batch=1,
            clip=0.25,
            lr=3e-3,
        ),
        RAVI,
        None,
        "The paper has no Omniglot; on mini-ImageNet it takes 12 inner steps, 15 queries a class and Adam 1e-3. Here 5 "
        "inner steps of the whole support set, 32 filters, 5 queries a class, Adam 3e-3, the gradient's norm at most "
        f"0.25; {{steps}} meta-steps of one task, transductive batch norm.{_LATE}",
    ),
    "leo/omniglot-5way-1shot": Recipe(
        "a class's latent code is adapted; train protonet/omniglot-5way-1shot first",
        replace(
            MAML,
            algorithm="leo",
            model="run:runs/protonet-omniglot-5way-1shot",
            options={"latents": 64, "steps": 5, "finetune": 5, "dropout": 0.3},
            model_options={},
            data_options={"split": "vinyals"},
            train=Shape(5, 1, 5),
            test_steps=5,
            steps=500,
            batch=12,
            clip=0.1,
            schedule="cosine",
        ),
        RUSU,
        None,
        "The paper has mini- and tiered-ImageNet only, on features of a wide residual network. Here the frozen "
        "embedding of our prototypical network (700 episodes), 64 features; 64 latents, 5 + 5 inner steps, {steps} "
        "meta-steps of 12 tasks, the gradient's norm at most 0.1, the rate brought to 0 by a cosine.",
    ),
    "reptile/omniglot-5way-1shot": Recipe(
        "no meta-gradient at all",
        replace(_REPTILE, test=Shape(5, 1, 1)),
        NICHOL,
        "97.68 ± 0.04 % (transductive)",
        _REPTILE_PROTOCOL,
        gap="{steps} meta-steps against 100,000.",
    ),
    "reptile/omniglot-5way-5shot": Recipe(
        "the same with five examples of each",
        _REPTILE,
        NICHOL,
        "99.48 ± 0.06 % (transductive)",
        _REPTILE_PROTOCOL,
        gap="{steps} meta-steps against 100,000.",
    ),
}
