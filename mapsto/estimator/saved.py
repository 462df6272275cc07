"""A fitted classifier as a folder: classifier.json, classifier.safetensors, and the network if mapsto can make it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import mapsto
from mapsto.checkpoint import write_atomically, write_json
from mapsto.errors import MapstoError
from mapsto.estimator import encoder
from mapsto.estimator.extractor import FeatureExtractor
from mapsto.estimator.heads import BASES, Linear, fit_head

if TYPE_CHECKING:
    from mapsto.estimator.classifier import FewShotClassifier

NAME = "classifier"


def save(classifier: "FewShotClassifier", folder: Path) -> None:
    """As `FewShotClassifier.save`."""
    extractor, network = classifier.extractor_, classifier.extractor_.encoder_
    labels = classifier.classes_.tolist()
    if not all(isinstance(label, (str, int, float)) for label in labels):  # a bool is an int
        raise MapstoError(f"labels of type {type(labels[0]).__name__} can't be kept: use strings or numbers")
    config = {
        "classes": labels,
        "type": classifier.classes_.dtype.str,
        "base": classifier.base if classifier.base in BASES else None,
        "temperature": classifier.temperature,
        "temperature_in_use": classifier.temperature_,
        "reject": classifier.reject,
        "features": encoder.SAVED if network.recipe else network.name,
        "normalise": extractor.normalise,
        "batch": extractor.batch,
        "mapsto": mapsto.__version__,
    }
    tensors = {"features": classifier.features_, "labels": classifier.labels_}
    if isinstance(classifier.head_, Linear):
        tensors |= {"weight": classifier.head_.weight, "bias": classifier.head_.bias}
    folder.mkdir(parents=True, exist_ok=True)
    if network.recipe:
        encoder.write(network, folder, encoder.SAVED)
    whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_atomically(folder / f"{NAME}.safetensors", lambda draft: save_file(whole, draft))
    write_json(folder / f"{NAME}.json", config)


def load(cls: type, folder: Path, extractor: Any, base: Any) -> Any:
    """As `FewShotClassifier.load`, of which `cls` is the class."""
    path = folder / f"{NAME}.json"
    if not path.exists():
        raise MapstoError(f"{folder} holds no classifier ({path.name} is missing): make one with `mapsto fit`")
    try:
        config = json.loads(path.read_text())
        tensors = load_file(path.with_suffix(".safetensors"))
        base, features = config["base"] or base, config["features"]
        if base is None:
            raise MapstoError(f"{folder} holds a classifier of scikit-learn's: say which, as in load(path, base=SVC())")
        if extractor is None:
            if features is None:
                raise MapstoError(f"{folder} lacks its network, a module of yours: load(path, extractor=that module)")
            source = str(folder) if features == encoder.SAVED else features
            extractor = FeatureExtractor(source, config["normalise"], config["batch"])
        made = cls(extractor, base, config["temperature"], config["reject"])
        made.classes_ = np.array(config["classes"], dtype=config["type"])
        made.features_, made.labels_ = tensors["features"], tensors["labels"]
        made.temperature_ = config["temperature_in_use"]
        linear = "weight" in tensors
        made.head_ = (
            Linear(tensors["weight"], tensors["bias"])
            if linear
            else fit_head(base, made.features_, made.labels_, len(made.classes_))
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise MapstoError(f"{path} or its tensors are damaged ({error}): restore or make them again") from None
    found: Any = made._extractor()
    found.encoder_ = encoder.encoder(found.source)
    found._n_features_out = width = made.features_.shape[1]
    made.extractor_ = found
    if made._numbers():
        made.n_features_in_ = found.n_features_in_ = width
    return made
