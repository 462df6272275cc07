"""What a recipe is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mapsto.episode import Shape

Value = bool | int | float | str


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's numbers; each field is a flag of `mapsto train`."""

    algorithm: str
    """A learner that mapsto.algorithms exports, in lower case."""
    model: str
    """A name of the table of models, or run:FOLDER, the frozen embedding of a finished run."""
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
    metric: Literal["accuracy", "mse", "log_likelihood", "loss"] = "accuracy"
    """One task's score; "loss" is the learner's own criterion."""
    tasks: int = 1000
    """Test tasks."""
    validate: int = 500
    """Meta-steps between two looks at 100 validation tasks."""
    seed: int = 0
    """Of the initial weights, of dropout and of the tasks drawn."""


@dataclass(frozen=True)
class Paper:
    """Where a learner comes from: "Finn, Abbeel & Levine", "ICML 2017", and the address of the text."""

    authors: str
    venue: str
    link: str


@dataclass(frozen=True)
class Recipe:
    """Settings with a name and a reference. The name is LEARNER/JOB, as in "maml/omniglot-5way-1shot".

    Attributes:
        about: one line.
        settings: what to run.
        origin: the learner's paper.
        paper: the number reported for the same job, by inner steps for regression; None where there is none.
        protocol: how that number was made, by whom where not in the learner's paper, and what differs here.
        elsewhere: what the paper reports for other test tasks, by shape as in "20way-5shot".
        gap: why the measured number is more than 1.5 points from the paper's, where it is.

    In the last two `{steps}` stands for the meta-steps taken.
    """

    about: str
    settings: Settings
    origin: Paper
    paper: str | None
    protocol: str
    gap: str = ""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
