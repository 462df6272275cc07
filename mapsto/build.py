"""From settings to objects: the tables of algorithms, models and data sets."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mapsto.algorithms import MAML, ProtoNet, Reptile
from mapsto.data import Folder, Glyphs, Labelled, Omniglot, Sinusoid, Tasks
from mapsto.episode import Episode, Reshapable, Shape
from mapsto.errors import MapstoError
from mapsto.learner import MetaLearner
from mapsto.losses import mse
from mapsto.models import MLP, Conv4
from mapsto.recipes import Settings

ALGORITHMS: dict[str, Callable[..., MetaLearner]] = {"maml": MAML, "protonet": ProtoNet, "reptile": Reptile}
"""By name; each takes the model first."""

HEADLESS = {"protonet"}
"""Algorithms whose model is an embedding, without a head of `way` outputs."""

IMAGES: dict[str, Callable[..., Any]] = {"omniglot": Omniglot, "glyphs": Glyphs, "folder": Folder}
"""Data sets with `train`, `val` and `test`, each `Labelled`."""


def learner(settings: Settings, channels: int = 1) -> MetaLearner:
    """The learner that the settings describe, its weights drawn from their seed.

    Raises:
        MapstoError: an unknown name, or an option that the thing named does not have.
    """
    make = _named(ALGORITHMS, settings.algorithm, "algorithm")
    way = settings.train.way
    if not isinstance(way, int) and settings.algorithm not in HEADLESS:
        raise MapstoError(f"{settings.algorithm} has a head of fixed size: give training tasks one way, not {way}")
    outputs = 0 if settings.algorithm in HEADLESS else way
    torch.manual_seed(settings.seed)
    try:
        if settings.model == "mlp":
            model = MLP(1, outputs, **settings.model_options)  # type: ignore[arg-type]
        else:
            model = _named({"conv4": Conv4}, settings.model, "model")(outputs, channels, **settings.model_options)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster convolutions
        extra = {"criterion": mse} if settings.metric == "mse" else {}
        return make(model, **settings.options, **extra)
    except (TypeError, ValueError) as error:
        raise MapstoError(f"{settings.algorithm} with {settings.model}: {error}") from None


def sources(
    settings: Settings, parts: tuple[str, ...] = ("train", "val", "test"), device: str = "cpu"
) -> Mapping[str, Reshapable]:
    """The task sources named, each with a sequence of its own: training tasks never recur in validation or test.

    Raises:
        MapstoError: an unknown data set, or data that can't make such tasks.
    """
    shapes = {"train": settings.train, "val": settings.test, "test": settings.test}
    seeds = {part: settings.seed * 3 + i for i, part in enumerate(("train", "val", "test"))}
    if settings.data == "sinusoid":
        return {p: Sinusoid(shapes[p].shot, shapes[p].query, seed=seeds[p], device=device) for p in parts}
    data = images(settings)
    return {p: tasks(data[p], shapes[p], seeds[p], device) for p in parts}


def images(settings: Settings) -> dict[str, Labelled]:
    """The three parts of an image data set."""
    loaded = _named(IMAGES, settings.data, "data set")(**settings.data_options)
    return {"train": loaded.train, "val": loaded.val, "test": loaded.test}


def tasks(data: Labelled, shape: Shape, seed: int, device: str = "cpu") -> Tasks:
    """Tasks of that shape."""
    return Tasks(data, shape.way, shape.shot, shape.query, seed=seed, device=device)


def channels(source: Reshapable) -> int:
    """The channels of a source's images (1 for other inputs)."""
    episode = source.batch(0, 1)
    first = episode if isinstance(episode, Episode) else episode[0]
    return first.query.x.shape[-3] if first.query.x.ndim > 3 else 1


def _named(table: dict[str, Any], name: str, kind: str) -> Any:
    if name not in table:
        raise MapstoError(f"there is no {kind} {name!r}; there are {', '.join(table)}")
    return table[name]
