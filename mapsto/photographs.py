"""A folder of photographs in, a classifier out; photographs in, classes out: `mapsto fit` and `mapsto predict`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mapsto.data.folder import class_folders, image_files, read_image
from mapsto.errors import DataError, MapstoError
from mapsto.estimator import FeatureExtractor, FewShotClassifier
from mapsto.estimator.encoder import encoder
from mapsto.estimator.heads import fit_head
from mapsto.models.pretrained import Backbone

MANY = 200
"""Photographs above which each is no longer left out once to see whether the others recognise it."""


@dataclass(frozen=True)
class Learned:
    """What came of a folder.

    Attributes:
        classifier: fitted, and kept in the folder asked for.
        counts: photographs of each class.
        left_out: how many of the photographs are recognised by a classifier of all the others; None where that can't be
            said, because a class has one only, or would take long.
        notes: what the user should know, a sentence each.
        skipped: what could not be read and why, a sentence each.
    """

    classifier: FewShotClassifier
    counts: dict[str, int]
    left_out: int | None
    notes: list[str]
    skipped: list[str]


@dataclass(frozen=True)
class Recognised:
    """What the photographs show.

    Attributes:
        files: those that could be read.
        labels: a class each; None for none of them, where a least probability was given.
        probabilities: `[n, k]`, columns in the order of `classes`.
        classes: the names.
        calibrated: the probabilities were made right on tasks whose answers were known.
        skipped: what could not be read and why, a sentence each.
    """

    files: list[Path]
    labels: list[str | None]
    probabilities: np.ndarray
    classes: list[str]
    calibrated: bool
    skipped: list[str]


def learn(folder: Path, out: Path, backbone: str | None = None, strict: bool = False) -> Learned:
    """Fit a classifier to a folder of photographs, one sub-folder a class, and keep it.

    Photographs may differ in size, and be grey, coloured or transparent: they are resized and converted.

    Args:
        folder: `folder/<class>/<photograph>`.
        out: where the classifier goes; a classifier that is there is replaced.
        backbone: the features, as for `FeatureExtractor`; by default those shipped with mapsto.
        strict: raise for a photograph that can't be read, in place of leaving it out.

    Raises:
        DataError: the folder has no sub-folders or one only, or of a class no photograph (if `strict`, not every one)
            can be read.
        MapstoError: there is no such backbone, it takes no pictures, or `out` is a folder of other things.
    """
    classes = class_folders(folder)
    if len(classes) < 2:
        raise DataError(f"{folder} holds one class only, {next(iter(classes))!r}: add a sub-folder for another")
    if out.is_dir() and any(out.iterdir()) and not (out / "classifier.json").exists():
        raise MapstoError(f"{out} holds other things than a classifier: choose another folder with --out")
    found = encoder(backbone)
    if not isinstance(found.model, Backbone):
        raise MapstoError(f"{found.name} does not take pictures: choose another --backbone")
    images, labels, counts, skipped = [], [], {}, []
    for name, files in classes.items():
        pictures, _, unread = _read(files, found.model, strict)
        if not pictures:
            raise DataError(f"no picture of class {name!r} can be read: {unread[0]}")
        images += pictures
        labels += [name] * len(pictures)
        counts[name] = len(pictures)
        skipped += unread
    classifier = FewShotClassifier(FeatureExtractor(found)).fit(np.stack(images), labels)
    classifier.save(out)
    return Learned(classifier, counts, _left_out(classifier), _notes(folder, classes, counts, classifier), skipped)


def recognise(model: Path, images: Sequence[Path], strict: bool = False, reject: float | None = None) -> Recognised:
    """Say which class photographs belong to.

    Args:
        model: the folder that `learn` made.
        images: files, or folders, all of whose photographs are taken.
        strict: raise for a photograph that can't be read, in place of leaving it out.
        reject: the least probability; below it a photograph belongs to none of the classes.

    Raises:
        DataError: a file or folder does not exist, or no photograph can be read; if `strict`, not all.
        MapstoError: the folder holds no classifier of pictures, no files are named, or `reject` is no probability.
    """
    if not images:
        raise MapstoError("no pictures are named: give files, or folders of them")
    classifier = FewShotClassifier.load(model)
    if reject is not None and not 0 <= reject <= 1:
        raise MapstoError(f"the least probability should lie between 0 and 1, not be {reject}")
    network = classifier.extractor_.encoder_.model
    if not isinstance(network, Backbone):
        raise MapstoError(f"the classifier in {model} does not take pictures")
    pictures, files, skipped = _read([file for path in images for file in _files(path)], network, strict)
    if not pictures:
        raise DataError(skipped[0] if skipped else f"there are no pictures in {', '.join(map(str, images))}")
    probabilities = classifier.predict_proba(np.stack(pictures))
    sure = probabilities.max(1) >= (reject or 0)
    names = classifier.classes_.tolist()
    labels = [names[best] if keep else None for best, keep in zip(probabilities.argmax(1), sure, strict=True)]
    return Recognised(files, labels, probabilities, names, _calibrated(classifier), skipped)


def _read(files: Sequence[Path], network: Backbone, strict: bool) -> tuple[list[np.ndarray], list[Path], list[str]]:
    """The pictures, the files that they are of, and a complaint for each that can't be read."""
    pictures, kept, skipped = [], [], []
    for file in files:
        try:
            pictures.append(read_image(file, network.size, network.channels))
            kept.append(file)
        except DataError as error:
            if strict:
                raise
            skipped.append(str(error))
    return pictures, kept, skipped


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"there is no file or folder {path}: mind its name")
    if not path.is_dir():
        return [path]
    inner = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return image_files(path) + [file for folder in inner for file in _files(folder)]


def _left_out(classifier: FewShotClassifier) -> int | None:
    z, labels = classifier.features_, classifier.labels_
    if len(z) > MANY or np.bincount(labels).min() < 2:
        return None
    rows = np.arange(len(z))
    way = len(classifier.classes_)
    others = (fit_head(classifier.base, z[rows != i], labels[rows != i], way).logits(z[[i]]).argmax() for i in rows)
    return sum(int(guess == truth) for guess, truth in zip(others, labels, strict=True))


def _notes(
    folder: Path, classes: dict[str, list[Path]], counts: dict[str, int], classifier: FewShotClassifier
) -> list[str]:
    notes = [
        f"class {name!r} has a single picture, which can't show how much its pictures differ: add some if you can"
        for name, count in counts.items()
        if count == 1
    ]
    used = {file for files in classes.values() for file in files}
    places = [folder, *(folder / name for name in classes)]
    unused = sorted(
        entry
        for place in places
        for entry in place.iterdir()
        if entry not in used and not (place == folder and entry.is_dir()) and not entry.name.startswith(".")
    )
    if unused:
        some = ", ".join(str(path.relative_to(folder)) for path in unused[:3])
        more = f" and {len(unused) - 3} others" if len(unused) > 3 else ""
        notes.append(f"not used, because they are no pictures by name or lie in no class's own folder: {some}{more}")
    if not _calibrated(classifier):
        name = classifier.extractor_.encoder_.name
        notes.append(f"probabilities are not calibrated for {name}: take them for an order, not for shares")
    return notes


def _calibrated(classifier: FewShotClassifier) -> bool:
    return classifier.temperature is not None or bool(classifier.extractor_.encoder_.temperatures)
