"""Recipes are data: a name, the settings, and what the paper reports for the same job."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mapsto.episode import Shape
from mapsto.errors import MapstoError

Value = bool | int | float | str


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's numbers; each field is a flag of `mapsto train`."""

    algorithm: str
    """A name of the table of algorithms (mapsto/build.py)."""
    model: str
    """A name of the table of models."""
    data: str
    """A name of the table of data sets."""
    options: Mapping[str, Value] = field(default_factory=dict)
    """The algorithm's own settings."""
    model_options: Mapping[str, Value] = field(default_factory=dict)
    """The model's own settings."""
    data_options: Mapping[str, Value] = field(default_factory=dict)
    """The data set's own settings."""
    train: Shape = Shape()
    """Way, shot and query of the training tasks."""
    test: Shape = Shape()
    """Way, shot and query of the validation and test tasks."""
    test_steps: int | None = None
    """Inner steps at test, where not those of training."""
    steps: int = 1000
    """Meta-steps."""
    batch: int = 1
    """Tasks a meta-step."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """The meta-optimizer."""
    lr: float = 1e-3
    """Its learning rate at the start."""
    schedule: Literal["constant", "late", "linear", "cosine"] = "constant"
    """Over all steps: constant, constant and over the last quarter linearly to 0, or to 0 linearly or by a cosine."""
    clip: float | None = None
    """The largest norm of the meta-gradient."""
    metric: Literal["accuracy", "mse"] = "accuracy"
    """One task's score."""
    tasks: int = 1000
    """Test tasks."""
    validate: int = 500
    """Meta-steps between two looks at 100 validation tasks."""
    seed: int = 0
    """Of the initial weights, of dropout and of the tasks drawn."""


@dataclass(frozen=True)
class Recipe:
    """Settings with a name and a reference.

    Attributes:
        about: one line.
        settings: what to run.
        paper: what the paper reports, by inner steps for regression; None where there is no paper for the job.
        protocol: how the paper's number was made, and what differs here.
    """

    about: str
    settings: Settings
    paper: str | None
    protocol: str


_PROTONET = Settings(
    algorithm="protonet",
    model="conv4",
    data="omniglot",
    options={"distance": "euclidean", "temperature": 1.0},
    model_options={"filters": 64, "down": "pool", "stats": "running"},
    data_options={"split": "vinyals"},
    train=Shape(60, 1, 5),
    test=Shape(5, 1, 15),
    steps=4000,
    schedule="cosine",
    validate=200,
)
_MAML = Settings(
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
_REPTILE = replace(
    _MAML,
    algorithm="reptile",
    options={"lr": 1e-3, "steps": 5, "batch": 10, "carry": True},
    train=Shape(5, 10, 1),
    test=Shape(5, 5, 1),
    test_steps=50,
    steps=8000,
    batch=5,
    optimizer="sgd",
    lr=1.0,
    schedule="linear",
)
_OMNIGLOT_PROTONET = (
    "Snell et al. 2017: 60-way training with 5 queries a class, Vinyals' split, rotations as classes, Adam 1e-3 "
    "halved every 2,000 episodes until validation stops improving, then again on train and validation; 1,000 test "
    "episodes with 15 queries a class, running batch statistics. Here: {steps} episodes, the rate brought to 0 by a "
    "cosine, no second training on the validation classes."
)
_OMNIGLOT_MAML = (
    "Finn et al. 2017: 60,000 meta-steps of 32 tasks, one inner step of rate 0.4 of a loss summed over 5 classes (2.0 "
    "of the mean), 3 steps at test, one query a class, 600 test tasks, transductive batch norm. Here: {steps} "
    "meta-steps and 15 queries a class at test; batch norm's shift and scale adapt too."
)

RECIPES: dict[str, Recipe] = {
    "maml/sinusoid": Recipe(
        "regression of sine waves with a small network",
        Settings(
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
        ),
        "0.67 / 0.38 / 0.35 after 1 / 5 / 10 steps",
        "Finn et al. 2017, table 2: trained with K = 10 and one step of rate 0.01, tested with K = 5; 70,000 "
        "meta-steps of 25 tasks, Adam 1e-3. Here: {steps} meta-steps, the rate brought to 0 by a cosine (a constant "
        "one leaves a network sharp enough for a test task in a thousand to diverge after 5 steps); 100 query points.",
    ),
    "protonet/omniglot-5way-1shot": Recipe(
        "characters never seen, one example of each", _PROTONET, "98.8 %", _OMNIGLOT_PROTONET
    ),
    "protonet/omniglot-20way-1shot": Recipe(
        "the same among 20", replace(_PROTONET, test=Shape(20, 1, 15)), "96.0 %", _OMNIGLOT_PROTONET
    ),
    "maml/omniglot-5way-1shot": Recipe(
        "fine-tuning in one step",
        _MAML,
        "98.7 ± 0.4 %",
        _OMNIGLOT_MAML + " Adam's rate is brought to 0 over the last quarter.",
    ),
    "fomaml/omniglot-5way-1shot": Recipe(
        "the same without second derivatives",
        replace(_MAML, options={"lr": 0.4, "steps": 1, "first_order": True}, steps=3500, schedule="constant"),
        "98.3 ± 0.5 %",
        _OMNIGLOT_MAML
        + " The first-order number is the Reptile paper's (Nichol et al. 2018); here an inner rate of 0.4 "
        "of the mean, since without second derivatives 2.0 learns far slower (seen on validation tasks).",
    ),
    "reptile/omniglot-5way-5shot": Recipe(
        "no meta-gradient at all",
        _REPTILE,
        "99.48 ± 0.06 % (transductive)",
        "Nichol et al. 2018: 100,000 meta-steps of 5 tasks, 5 inner Adam steps (beta1 = 0, 1e-3) on 10 of 10 x 5 "
        "examples, outer step 1 to 0; 50 inner steps of 5 examples on 5 x 5 at test, one query a class, 10,000 test "
        "tasks. Here: {steps} meta-steps, inner minibatches of 10 at test too, test characters rotated as well.",
    ),
    "protonet/glyphs-5way-1shot": Recipe(
        "letters of scripts never seen; needs no download",
        replace(
            _PROTONET,
            data="glyphs",
            data_options={},
            train=Shape(20, 1, 5),
            steps=700,
            lr=2e-3,
            validate=100,
        ),
        None,
        "Trained on Latin and Greek, tested on Armenian and Georgian.",
    ),
    "maml/glyphs-5way-1shot": Recipe(
        "the same by fine-tuning",
        replace(_MAML, data="glyphs", data_options={}, steps=2000),
        None,
        "Trained on Latin and Greek, tested on Armenian and Georgian.",
    ),
}
DEFAULT = "protonet/glyphs-5way-1shot"


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        MapstoError: there is none; the message names the nearest.
    """
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.3)
    hint = f"the nearest are {', '.join(near)}" if near else "`mapsto list` shows them all"
    raise MapstoError(f"there is no recipe {name!r}; {hint}")
