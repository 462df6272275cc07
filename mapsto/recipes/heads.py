"""Closed-form heads, attention among prototypes, and the baselines that need no tasks to train on."""

from dataclasses import replace

from mapsto.episode import Shape
from mapsto.recipes.metric import PROTONET
from mapsto.recipes.settings import Paper, Recipe

BERTINETTO = Paper("Bertinetto, Henriques, Torr & Vedaldi", "ICLR 2019", "https://arxiv.org/abs/1805.08136")
LEE = Paper("Lee, Maji, Ravichandran & Soatto", "CVPR 2019", "https://arxiv.org/abs/1904.03758")
YE = Paper("Ye, Hu, Zhan & Sha", "CVPR 2020", "https://arxiv.org/abs/1812.03664")
CHEN = Paper("Chen, Liu, Kira, Wang & Huang", "ICLR 2019", "https://arxiv.org/abs/1904.04232")
WANG = Paper("Wang, Chao, Weinberger & van der Maaten", "arXiv 2019", "https://arxiv.org/abs/1911.04623")
TIAN = Paper("Tian, Wang, Krishnan, Tenenbaum & Isola", "ECCV 2020", "https://arxiv.org/abs/2003.11539")

# ------------------------------------------------------------------------------------------------ Omniglot

_R2D2_OMNIGLOT = replace(
    PROTONET,
    algorithm="r2d2",
    options={"penalty": 50.0, "scale": 10.0, "learn_penalty": True},
    lr=5e-3,
    steps=600,
)
_METAOPTNET_OMNIGLOT = replace(
    PROTONET,
    algorithm="metaoptnet",
    options={"head": "svm", "cost": 0.1, "smooth": 1.0, "scale": 5.0},
    train=Shape(20, 1, 5),
    steps=800,
)
_FEAT_OMNIGLOT = replace(
    PROTONET,
    algorithm="feat",
    options={"temperature": 64.0, "contrast": 1.0, "contrast_temperature": 16.0, "dropout": 0.5},
    train=Shape(20, 1, 5),
    steps=1000,
)

_R2D2_OMNIGLOT_PROTOCOL = (
    "Bertinetto et al. 2019, released code: 60-way training with 1 to 10 shots, Adam 5e-3 halved every 2,000 "
    "episodes, 96-192-384-512 filters with the last two blocks joined, lambda 50 (learned in the paper, fixed in the "
    "released configuration), output scale 10; 10,000 test episodes. Here: 60-way 1-shot, Conv4 of 64 filters, "
    "{steps} episodes, the rate brought to 0 by a cosine."
)
_METAOPTNET_OMNIGLOT_PROTOCOL = (
    "The paper has no Omniglot. 20-way 1-shot training of {steps} episodes, Adam 1e-3 brought to 0 by a cosine; C = "
    "0.1, the identity added to the kernel, learned scale, as for the paper's data sets."
)
_FEAT_OMNIGLOT_PROTOCOL = (
    "The paper has no Omniglot; the settings are those of the CIFAR-FS recipe, with {steps} episodes of 20 ways."
)

OMNIGLOT: dict[str, Recipe] = {
    "r2d2/omniglot-5way-1shot": Recipe(
        "ridge regression in closed form", _R2D2_OMNIGLOT, BERTINETTO, None, _R2D2_OMNIGLOT_PROTOCOL
    ),
    "metaoptnet/omniglot-5way-1shot": Recipe(
        "a support vector machine, differentiated", _METAOPTNET_OMNIGLOT, LEE, None, _METAOPTNET_OMNIGLOT_PROTOCOL
    ),
    "feat/omniglot-5way-1shot": Recipe(
        "prototypes that attend to each other", _FEAT_OMNIGLOT, YE, None, _FEAT_OMNIGLOT_PROTOCOL
    ),
}

# ------------------------------------------------------------------------------------------------ CIFAR-FS

_CIFAR = replace(PROTONET, data="cifar-fs", data_options={}, train=Shape(20, 1, 5), test=Shape(5, 1, 15))
_R2D2 = replace(
    _CIFAR, algorithm="r2d2", options={"penalty": 50.0, "scale": 10.0, "learn_penalty": True}, lr=5e-3, steps=1500
)
_R2D2_FIVE = replace(_R2D2, train=Shape(20, 5, 5), test=Shape(5, 5, 15), steps=1000)
_METAOPTNET = replace(
    _CIFAR,
    algorithm="metaoptnet",
    options={"head": "svm", "cost": 0.1, "smooth": 1.0, "scale": 5.0},
    train=Shape(5, 5, 6),
    batch=4,
    steps=500,
)
_FEAT = replace(
    _CIFAR,
    algorithm="feat",
    options={"temperature": 64.0, "contrast": 1.0, "contrast_temperature": 16.0, "dropout": 0.5},
    steps=1500,
)
_SIMPLESHOT = replace(
    _CIFAR,
    algorithm="baseline",
    options={"head": "linear", "classifier": "centroid"},
    train=Shape(64, 1, 64),
    steps=3000,
    validate=600,
)
_LOGISTIC = replace(_SIMPLESHOT, options={"head": "linear", "classifier": "logistic", "cost": 1.0})
_BASELINE = replace(
    _SIMPLESHOT, options={"head": "cosine", "classifier": "cosine", "steps": 100, "lr": 0.01}, test_steps=100
)

_R2D2_PROTOCOL = (
    "Bertinetto et al. 2019, released code: 20-way training with 1 to 10 shots, Adam 5e-3 halved every 2,000 episodes"
    " until validation stops improving, 96-192-384-512 filters with dropout 0.4 and the last two blocks joined, "
    "lambda 50 (learned in the paper, fixed in the released configuration), output scale 10. Here: the test's shot in"
    " training, Conv4 of 64 filters without dropout, {steps} episodes, the rate brought to 0 by a cosine."
)
_METAOPTNET_PROTOCOL = (
    "Lee et al. 2019: ResNet-12 with DropBlock and augmentation, 5-way 5-shot training with 6 queries a class, 8 "
    "episodes a step, 60,000 steps of SGD from 0.1; C = 0.1, the identity added to the kernel, learned scale, 1 at "
    "first. Here: Conv4 of 64 filters, a scale of 5 at first (Adam moves it slowly), no augmentation, 4 episodes a "
    "step, {steps} steps of Adam from 1e-3 to 0 by a cosine."
)
_FEAT_PROTOCOL = (
    "The paper has no CIFAR-FS. Temperatures and auxiliary loss are those of its Conv4 on mini-ImageNet; there the "
    "embedding is first trained as a classifier and then for 20,000 episodes of 5 ways. Here: from scratch, {steps} "
    "episodes of 20 ways, Adam from 1e-3 to 0 by a cosine."
)
_BASELINE_PROTOCOL = (
    "No number of a four-block network on CIFAR-FS is known to us. {steps} minibatches of 64 of all 64 training "
    "classes, Adam from 1e-3 to 0 by a cosine, no augmentation; then a classifier for each test task on frozen "
    "features."
)

_GAP = "A smaller network, {steps} meta-steps and no augmentation."

CIFAR: dict[str, Recipe] = {
    "r2d2/cifar-fs-5way-1shot": Recipe(
        "ridge regression in closed form", _R2D2, BERTINETTO, "65.3 ± 0.2 %", _R2D2_PROTOCOL, _GAP
    ),
    "r2d2/cifar-fs-5way-5shot": Recipe(
        "the same with five examples", _R2D2_FIVE, BERTINETTO, "79.4 ± 0.1 %", _R2D2_PROTOCOL, _GAP
    ),
    "metaoptnet/cifar-fs-5way-1shot": Recipe(
        "a support vector machine, differentiated",
        _METAOPTNET,
        LEE,
        "72.0 ± 0.7 %",
        _METAOPTNET_PROTOCOL,
        gap=_GAP,
        elsewhere={"5way-5shot": "84.2 ± 0.5 %"},
    ),
    "feat/cifar-fs-5way-1shot": Recipe("prototypes that attend to each other", _FEAT, YE, None, _FEAT_PROTOCOL),
    "simpleshot/cifar-fs-5way-1shot": Recipe(
        "an ordinary classifier's features, nearest class mean", _SIMPLESHOT, WANG, None, _BASELINE_PROTOCOL
    ),
    "good-embedding/cifar-fs-5way-1shot": Recipe(
        "the same features, logistic regression", _LOGISTIC, TIAN, None, _BASELINE_PROTOCOL
    ),
    "baseline++/cifar-fs-5way-1shot": Recipe(
        "cosines in training, fine-tuned at test", _BASELINE, CHEN, None, _BASELINE_PROTOCOL
    ),
}

RECIPES: dict[str, Recipe] = {**OMNIGLOT, **CIFAR}
