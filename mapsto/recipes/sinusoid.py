"""Regression of sine waves, by every family."""

from collections.abc import Mapping
from dataclasses import replace

from mapsto.episode import Shape
from mapsto.recipes.optimization import ANTONIOU, FINN, LI, NICHOL, RAGHU, RAJESWARAN, ZINTGRAF
from mapsto.recipes.settings import Recipe, Settings, Value

_MAML = Settings(
    algorithm="maml",
    model="mlp",
    data="sinusoid",
    options={"lr": 0.01, "steps": 1, "first_order": False},
    train=Shape(1, 10, 10),
    test=Shape(1, 5, 100),
    test_steps=10,
    steps=70_000,
    batch=25,
    schedule="cosine",
    metric="mse",
    validate=2000,
)
_HERE = (
    "No number of the paper's to compare with at hand. Here MAML's settings (Finn et al. 2017, table 2: trained with "
    "K = 10, tested with K = 5) but for what follows: {steps} meta-steps of 25 tasks, 100 query points, the rate "
    "brought to 0 by a cosine"
)


def _of(algorithm: str, options: Mapping[str, Value], test_steps: int, steps: int) -> Settings:
    return replace(_MAML, algorithm=algorithm, options=options, test_steps=test_steps, steps=steps)


RECIPES: dict[str, Recipe] = {
    "maml/sinusoid": Recipe(
        "regression of sine waves with a small network",
        _MAML,
        FINN,
        "0.67 / 0.38 / 0.35 after 1 / 5 / 10 steps",
        "Finn et al. 2017, table 2: trained with K = 10 and one step of rate 0.01, tested with K = 5; 70,000 "
        "meta-steps of 25 tasks, Adam 1e-3. Here: {steps} meta-steps, the rate brought to 0 by a cosine (a constant "
        "one leaves a network sharp enough for a test task in a thousand to diverge after 5 steps); 100 query points.",
    ),
    "fomaml/sinusoid": Recipe(
        "the same without second derivatives",
        replace(_MAML, options={**_MAML.options, "first_order": True}, steps=10_000),
        FINN,
        None,
        _HERE + ".",
    ),
    "anil/sinusoid": Recipe(
        "only the head is fine-tuned",
        replace(_MAML, options={**_MAML.options, "steps": 5, "adapts": "head."}, train=Shape(1, 5, 10), steps=5000),
        RAGHU,
        None,
        _HERE + ", trained with K = 5 and 5 inner steps (trained with one, some test tasks diverge after 10).",
    ),
    "meta-sgd/sinusoid": Recipe(
        "a learned rate for every weight",
        _of("metasgd", {"lr": 0.01, "steps": 1}, 1, 8000),
        LI,
        None,
        _HERE + ", one step at test (beyond the one trained it diverges).",
    ),
    "maml++/sinusoid": Recipe(
        "learned rates a step, and a loss after each",
        replace(_of("mamlplusplus", {"lr": 0.01, "steps": 5, "multi_step": 300}, 5, 2000), lr=3e-4, clip=1.0),
        ANTONIOU,
        None,
        _HERE
        + ", 5 inner steps, all losses weighed for 300 meta-steps, Adam 3e-4 and the gradient's norm at most 1 (at "
        "1e-3 the learned rates outgrow what the inner loop bears), 5 steps at test: trained with K = 10, a few "
        "test tasks of K = 5 diverge.",
    ),
    "imaml/sinusoid": Recipe(
        "the meta-gradient of the solution, not of the path",
        replace(_of("imaml", {"lr": 0.01, "steps": 10, "lam": 5.0, "cg_steps": 5}, 10, 1000), clip=10.0),
        RAJESWARAN,
        None,
        _HERE + ", 10 inner steps, lambda 5, 5 conjugate gradient steps, the gradient's "
        "norm at most 10; longer trainings diverged, once the inner curvature had outgrown the rate.",
    ),
    "cavia/sinusoid": Recipe(
        "five context parameters are adapted",
        _of("cavia", {"context": 5, "lr": 1.0, "steps": 1}, 10, 8000),
        ZINTGRAF,
        None,
        _HERE + ", a context of 5 beside the input, one step of rate 1.",
    ),
    "reptile/sinusoid": Recipe(
        "no meta-gradient at all",
        replace(_of("reptile", {"lr": 0.01, "steps": 10}, 10, 2500), optimizer="sgd", lr=1.0),
        NICHOL,
        None,
        "The paper shows curves, no number. Here {steps} meta-steps of 25 tasks, K = 10: 10 inner steps of Adam (beta1 "
        "= 0, 0.01), outer step 1 brought to 0 by a cosine; tested with K = 5 and 100 query points.",
    ),
}
