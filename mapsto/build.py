"""From settings to objects: the tables of algorithms, models and data sets."""

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mapsto import algorithms
from mapsto.checkpoint import load_weights
from mapsto.data import (
    CIFARFS,
    FC100,
    Completion,
    Folder,
    GaussianProcess,
    Glyphs,
    Labelled,
    MiniImageNet,
    Omniglot,
    Sinusoid,
    Tasks,
    TieredImageNet,
)
from mapsto.episode import Episode, Reshapable, Shape
from mapsto.errors import MapstoError
from mapsto.learner import MetaLearner
from mapsto.losses import mse
from mapsto.models import MLP, Conv4
from mapsto.models.frozen import Frozen
from mapsto.models.relation import ConvMaps
from mapsto.models.resnet12 import ResNet12
from mapsto.recipes import Settings

ALGORITHMS: dict[str, type[MetaLearner]] = {
    name.lower(): thing
    for name, thing in vars(algorithms).items()
    if isinstance(thing, type) and issubclass(thing, MetaLearner)
}
"""What mapsto/algorithms/__init__.py exports, by the class's name in lower case. Each may ask for the `model`; for its
`features`, the size of the model's outputs; for the `way` of the training tasks, or the number of training `classes`;
and for the `inputs` and `outputs` of an example, if it makes a network of its own."""

MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "conv4": Conv4, "convmaps": ConvMaps, "resnet12": ResNet12}
"""Each takes `outputs` (0 for an embedding), and may ask for the `inputs` of an example, all axes together, or for the
`channels` and `size` of images."""

RUN = "run:"
"""Before a folder: the embedding that was trained there, frozen."""

IMAGES: dict[str, Callable[..., Any]] = {
    "omniglot": Omniglot,
    "glyphs": Glyphs,
    "cifar-fs": CIFARFS,
    "fc100": FC100,
    "mini-imagenet": MiniImageNet,
    "tiered-imagenet": TieredImageNet,
    "folder": Folder,
}
"""Data sets with `train`, `val` and `test`, each `Labelled`."""

FUNCTIONS: dict[str, Callable[..., Reshapable]] = {"sinusoid": Sinusoid, "gaussian-process": GaussianProcess}
"""Tasks of regression; each takes `shot`, `query`, `seed` and `device`. "completion" makes some of a set of images."""


def learner(settings: Settings, inputs: tuple[int, ...], outputs: int = 1) -> MetaLearner:
    """The learner that the settings describe, its weights drawn from their seed.

    Args:
        settings: all but the data decide.
        inputs: the shape of one input, as from `sizes`.
        outputs: how many numbers one target of a regression has, as from `sizes`.

    Raises:
        MapstoError: an unknown name, or an option that the thing named does not have.
    """
    make = _named(ALGORITHMS, settings.algorithm, "algorithm")
    asked = inspect.signature(make).parameters
    way = settings.train.way
    if not isinstance(way, int) and ("way" in asked or not make.headless):
        raise MapstoError(f"{settings.algorithm} has a head of fixed size: give training tasks one way, not {way}")
    torch.manual_seed(settings.seed)
    try:
        known: dict[str, Any] = {"way": way, "classes": way, "inputs": math.prod(inputs), "outputs": outputs}
        if "model" in asked:
            model = _model(settings, 0 if make.headless or not isinstance(way, int) else way, inputs)
            known["model"] = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster
            if "features" in asked:
                known["features"] = _features(model, inputs)
        if settings.metric == "mse":
            known["criterion"] = mse
        return make(**{name: value for name, value in known.items() if name in asked} | dict(settings.options))
    except (TypeError, ValueError) as error:
        raise MapstoError(f"{settings.algorithm} with {settings.model}: {error}") from None


def _model(settings: Settings, outputs: int, inputs: tuple[int, ...]) -> nn.Module:
    if settings.model.startswith(RUN):
        body = backbone(Path(settings.model.removeprefix(RUN)), inputs)
        features = _features(body, inputs)
        return nn.Sequential(OrderedDict(body=body, head=nn.Linear(features, outputs))) if outputs else body
    make = _named(MODELS, settings.model, "model")
    asked = inspect.signature(make).parameters
    if "channels" in asked and len(inputs) != 3:
        raise MapstoError(f"{settings.model} wants images, but an input of {settings.data} has shape {inputs}")
    known = {"outputs": outputs, "inputs": math.prod(inputs), "channels": inputs[0], "size": inputs[-1]}
    return make(**{name: value for name, value in known.items() if name in asked} | dict(settings.model_options))


def backbone(folder: Path, inputs: tuple[int, ...]) -> Frozen:
    """The embedding of a finished run, frozen, for inputs of that shape.

    Raises:
        MapstoError: the folder holds no finished run or one of other inputs, or its learner's model has a head.
    """
    from mapsto.finished import read_config  # which needs this module for the rest of it

    if not (folder / "weights.safetensors").exists():
        raise MapstoError(f"{folder} holds no finished run to build on: train it first, or give another as run:FOLDER")
    _, settings = read_config(folder)
    with torch.random.fork_rng(devices=[]):  # else that run's seed would decide what is drawn next
        trained = learner(settings, inputs)
    if not trained.headless:
        raise MapstoError(f"the model of {folder} has a head: take the run of a learner that embeds, such as protonet")
    load_weights(folder / "weights.safetensors", trained)
    return Frozen(trained.get_submodule("model"))


def _features(model: nn.Module, inputs: tuple[int, ...]) -> int:
    """The size of the model's outputs."""
    training = model.training
    try:
        with torch.no_grad():
            return model.eval()(torch.zeros(1, *inputs)).shape[1]
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise MapstoError(f"the model can't take inputs of shape {inputs} ({reason}): choose other data") from None
    finally:
        model.train(training)


def sources(
    settings: Settings, parts: tuple[str, ...] = ("train", "val", "test"), device: str = "cpu"
) -> Mapping[str, Reshapable]:
    """The task sources named, each with a sequence of its own: training tasks never recur in validation or test.

    Raises:
        MapstoError: an unknown data set, or data that can't make such tasks.
    """
    shapes = {"train": settings.train, "val": settings.test, "test": settings.test}
    seeds = {part: settings.seed * 3 + i for i, part in enumerate(("train", "val", "test"))}
    if settings.data in FUNCTIONS:
        make, options = FUNCTIONS[settings.data], settings.data_options
        return {
            p: make(shot=shapes[p].shot, query=shapes[p].query, seed=seeds[p], device=device, **options) for p in parts
        }
    if settings.data == "completion":
        rest = dict(settings.data_options)
        data = images(replace(settings, data=str(rest.pop("of", "glyphs")), data_options=rest))
        return {p: Completion(data[p], shapes[p].shot, shapes[p].query, seed=seeds[p], device=device) for p in parts}
    data = images(settings)
    return {p: tasks(data[p], shapes[p], seeds[p], device) for p in parts}


def images(settings: Settings) -> dict[str, Labelled]:
    """The three parts of an image data set."""
    loaded = _named(IMAGES, settings.data, "data set")(**settings.data_options)
    return {"train": loaded.train, "val": loaded.val, "test": loaded.test}


def tasks(data: Labelled, shape: Shape, seed: int, device: str = "cpu") -> Tasks:
    """Tasks of that shape."""
    return Tasks(data, shape.way, shape.shot, shape.query, seed=seed, device=device)


def sizes(source: Reshapable) -> tuple[tuple[int, ...], int]:
    """The shape of one input of a source's tasks (channels, height and width of images), and the size of a target."""
    episodes = source.batch(0, 1)
    query = episodes.query if isinstance(episodes, Episode) else episodes[0].query
    axes = 2 if isinstance(episodes, Episode) else 1  # tasks and examples, or examples alone
    return tuple(query.x.shape[axes:]), math.prod(query.y.shape[axes:])


def _named(table: dict[str, Any], name: str, kind: str) -> Any:
    if name not in table:
        raise MapstoError(f"there is no {kind} {name!r}; there are {', '.join(table)}")
    return table[name]
