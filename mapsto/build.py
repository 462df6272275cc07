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
    Batches,
    Completion,
    Digits,
    Folder,
    GaussianProcess,
    Glyphs,
    Labelled,
    MiniImageNet,
    Omniglot,
    Presentations,
    Projections,
    Sinusoid,
    Tables,
    Tasks,
    TieredImageNet,
)
from mapsto.episode import Episode, Reshapable, Shape
from mapsto.errors import MapstoError
from mapsto.learner import MetaLearner
from mapsto.losses import mse
from mapsto.models import MLP, Conv4
from mapsto.models.frozen import Frozen
from mapsto.models.pixels import Pixels
from mapsto.models.relation import ConvMaps
from mapsto.models.resnet12 import ResNet12
from mapsto.recipes import Settings

ALGORITHMS: dict[str, type[MetaLearner]] = {
    name.lower(): thing
    for name, thing in vars(algorithms).items()
    if isinstance(thing, type) and issubclass(thing, MetaLearner) and thing is not algorithms.Refined  # of a learner
}
"""What mapsto/algorithms/__init__.py exports, by the class's name in lower case. Each may ask for the `model`; for its
`features`, the size of the model's outputs; for the `way` of the training tasks, or the number of training `classes`;
and for the `inputs` and `outputs` of an example, if it makes a network of its own."""

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "conv4": Conv4,
    "convmaps": ConvMaps,
    "resnet12": ResNet12,
    "pixels": Pixels,
}
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
    "digits": Digits,
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
    if not trained.headless or "model" not in dict(trained.named_children()):
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
    make = _maker(settings, device)
    return {part: make(part, shapes[part], seeds[part]) for part in parts}


def _maker(settings: Settings, device: str) -> Callable[[str, Shape, int], Reshapable]:
    """From a part's name, the shape of its tasks and their seed to their source."""
    options: dict[str, Any] = dict(settings.data_options)
    if settings.data in FUNCTIONS:
        function = FUNCTIONS[settings.data]
        return lambda part, shape, seed: function(
            shot=shape.shot, query=shape.query, seed=seed, device=device, **options
        )
    if settings.data == "tables":
        return lambda part, shape, seed: Tables(shape.way, shape.shot, shape.query, seed=seed, device=device, **options)
    if settings.data == "completion":
        data = images(replace(settings, data=options.pop("of", "glyphs"), data_options=options))
        return lambda part, shape, seed: Completion(data[part], shape.shot, shape.query, seed=seed, device=device)
    if settings.data == "projections":
        number, features = options.pop("tasks", None), options.pop("features", None)
        data = images(replace(settings, data=options.pop("of", "digits"), data_options=options))
        return lambda part, shape, seed: Projections(
            data[part], shape.way, shape.shot, shape.query,
            tasks=number if part == "train" else None, features=features, seed=seed, device=device,
        )  # fmt: skip
    data, make = images(settings), _named(ALGORITHMS, settings.algorithm, "algorithm")
    if make.supervised and (wanted := len(data["train"].names)) != settings.train.way:
        raise MapstoError(
            f"{settings.algorithm} is trained on all classes at once: the training way must be their number, {wanted}"
        )

    def source(part: str, shape: Shape, seed: int) -> Reshapable:
        if make.supervised and part == "train":
            return Batches(data[part], shape.query, seed=seed, device=device)
        return tasks(data[part], shape, seed, device, make.ordered)

    return source


def images(settings: Settings) -> dict[str, Labelled]:
    """The three parts of an image data set."""
    loaded = _named(IMAGES, settings.data, "data set")(**settings.data_options)
    return {"train": loaded.train, "val": loaded.val, "test": loaded.test}


def tasks(data: Labelled, shape: Shape, seed: int, device: str = "cpu", ordered: bool = False) -> Tasks | Presentations:
    """Tasks of that shape; `ordered`, for learners that mind the order, which is then random."""
    made = Tasks(data, shape.way, shape.shot, shape.query, seed=seed, device=device)
    return Presentations(made, seed) if ordered else made


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
