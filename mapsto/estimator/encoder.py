"""Where features come from: weights shipped with mapsto, a finished run, others' networks, or a module of one's own."""

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mapsto import build
from mapsto.applied import norm_of
from mapsto.checkpoint import write_atomically, write_json
from mapsto.errors import MapstoError
from mapsto.finished import read_config
from mapsto.learner import MetaLearner
from mapsto.models.pretrained import FAMILIES, Backbone, pretrained

ASSETS = Path(__file__).parents[1] / "assets"
SHIPPED = "features-v1"
SAVED = "encoder"
"""The files of an encoder that was saved, without suffix."""


@dataclass(frozen=True)
class Encoder:
    """An embedding, and what is known of it.

    Attributes:
        model: a `Backbone` takes pictures, `Sentences` takes texts, `nn.Identity` and any other take arrays.
        name: for people to read, and to have it again: None for a module of the user's.
        recipe: how to make the model: `model` and `options` as in `build.MODELS`, and `size`, `channels`, `mean` and
            `std` of a `Backbone` around it; None where mapsto can't make it.
        temperatures: by examples a class, those that calibrate the default classifier on its features.
    """

    model: nn.Module
    name: str | None = None
    recipe: Mapping[str, Any] | None = None
    temperatures: Mapping[int, float] = field(default_factory=dict)


Source = str | Path | nn.Module | Encoder | None


def encoder(source: Source) -> Encoder:
    """Find an embedding.

    Args:
        source: None for the weights shipped with mapsto; "identity" for none (the data are the features); the folder of
            a finished run or of a saved classifier; a name as in `mapsto.models.pretrained`; a meta-learner whose model
            embeds; or any module.

    Raises:
        MapstoError: there is no such thing, or its features of one example would depend on the others.
    """
    found = _found(source)
    norm = norm_of(found.model)
    if norm not in ("none", "running"):
        raise MapstoError(
            f"the batch norm of {found.name or 'the model'} takes {norm} statistics, so that an example's features "
            "would depend on those beside it: train it with --model-options.stats running"
        )
    return found


def _found(source: Source) -> Encoder:
    if isinstance(source, Encoder):
        return source
    if isinstance(source, MetaLearner):
        model = dict(source.named_children()).get("model")
        if not source.headless or model is None:
            raise MapstoError(f"{type(source).__name__} has no embedding: take a learner that has, or a module")
        return Encoder(model)
    if isinstance(source, nn.Module):
        return Encoder(source)
    if source is None:
        return read(ASSETS, SHIPPED)
    if source == "identity":
        return Encoder(nn.Identity(), "identity")
    if isinstance(source, str) and source.partition(":")[0] in FAMILIES:
        return Encoder(pretrained(source), source)
    folder = Path(source)
    if (folder / f"{SAVED}.json").exists():
        return read(folder, SAVED)
    if (folder / "config.json").exists():
        return from_run(folder)
    names = ", ".join(f"{family}:NAME" for family in FAMILIES)
    raise MapstoError(f"there are no features to be had from {str(source)!r}: give a run folder, 'identity' or {names}")


def from_run(folder: Path) -> Encoder:
    """The embedding of a finished run; of a run on a frozen embedding, that embedding.

    Raises:
        MapstoError: the folder holds no finished run, or its learner's model has a head.
    """
    config, settings = read_config(folder)
    if settings.model.startswith(build.RUN):
        return from_run(Path(settings.model.removeprefix(build.RUN)))
    inputs = tuple(config.get("inputs") or build.sizes(build.sources(settings, ("test",))["test"])[0])
    body = build.backbone(folder, inputs).model
    known = {"outputs": 0, "inputs": math.prod(inputs), "channels": inputs[0], "size": inputs[-1]}
    asked = inspect.signature(build.MODELS[settings.model]).parameters
    options = {name: value for name, value in known.items() if name in asked} | dict(settings.model_options)
    recipe: dict[str, Any] = {"model": settings.model, "options": options, "size": None}
    if len(inputs) == 3:
        recipe |= {"size": inputs[-1], "channels": inputs[0], "mean": [0.0] * inputs[0], "std": [1.0] * inputs[0]}
    return Encoder(_around(body, recipe), str(folder), recipe)


def _around(body: nn.Module, recipe: Mapping[str, Any]) -> nn.Module:
    if recipe["size"] is None:
        return body.eval()
    return Backbone(body, recipe["size"], recipe["mean"], recipe["std"], recipe["channels"]).eval()


def write(found: Encoder, folder: Path, stem: str, half: bool = False, about: Mapping[str, Any] | None = None) -> None:
    """Keep an encoder that mapsto can make as `<stem>.json` and `<stem>.safetensors`.

    Args:
        found: one with a `recipe`.
        folder: where to.
        stem: the files' name.
        half: store weights in 16 bits, which costs a network of this size no accuracy.
        about: what else to write into the JSON, for people to read.
    """
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in found.model.state_dict().items()}
    if half:
        tensors = {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}
    temperatures = {str(shot): value for shot, value in found.temperatures.items()}
    assert found.recipe is not None
    config = {"name": found.name, **found.recipe, "temperatures": temperatures, **(about or {})}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{stem}.safetensors", lambda draft: save_file(tensors, draft))
    write_json(folder / f"{stem}.json", config)


def read(folder: Path, stem: str) -> Encoder:
    """What `write` kept; the weights in 32 bits.

    Raises:
        MapstoError: a file is missing or damaged.
    """
    path = folder / f"{stem}.json"
    if not path.exists():
        raise MapstoError(f"there are no features in {folder} ({path.name} is missing): name others")
    try:
        config = json.loads(path.read_text())
        with torch.random.fork_rng(devices=[]):
            body = build.MODELS[config["model"]](**config["options"])
        model = _around(body, config)
        tensors = load_file(path.with_suffix(".safetensors"))
        model.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in tensors.items()})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise MapstoError(f"{path} or its weights are damaged ({reason}): restore or make them again") from None
    recipe = {n: config[n] for n in ("model", "options", "size", "channels", "mean", "std") if n in config}
    temperatures = {int(shot): float(value) for shot, value in config["temperatures"].items()}
    return Encoder(model.requires_grad_(False), config["name"], recipe, temperatures)
