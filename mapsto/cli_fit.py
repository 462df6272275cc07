"""`mapsto fit` and `mapsto predict`: photographs in folders, from the command line."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Fit:
    """Fit a classifier to a folder of pictures, one sub-folder a class; five pictures a class will do."""

    folder: tyro.conf.Positional[Path]
    """The folder: FOLDER/CLASS/PICTURE."""
    out: Path
    """The folder that the classifier goes to."""
    backbone: str | None = None
    """The features: a run folder, or a network such as timm:resnet18; by default those shipped with mapsto."""
    strict: bool = False
    """Refuse a picture that can't be read, in place of leaving it out."""


@dataclass
class Predict:
    """Say which class pictures belong to."""

    model: tyro.conf.Positional[Path]
    """The folder that `mapsto fit` made."""
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGES")]
    """Pictures, or folders of them."""
    reject: float | None = None
    """The least probability; below it the answer is "none of these"."""
    strict: bool = False
    """Refuse a picture that can't be read, in place of leaving it out."""
    json: bool = False
    """Print one JSON object."""


def fit(words: list[str]) -> None:
    """`mapsto fit`."""
    asked = tyro.cli(Fit, args=words, prog="mapsto fit")
    from mapsto.photographs import learn  # which wants scikit-learn; --help does not

    learned = learn(asked.folder, asked.out, asked.backbone, asked.strict)
    counts = ", ".join(f"{name} {count}" for name, count in learned.counts.items())
    total = sum(learned.counts.values())
    print(f"{len(learned.counts)} classes, {total} pictures: {counts}")
    if learned.left_out is not None:
        share = learned.left_out / total
        print(f"left out in turn, {learned.left_out} of {total} are recognised by the others ({share:.0%})")
    print(f"Classifier: {asked.out}. Next: mapsto predict {asked.out} PICTURES")
    for note in learned.notes:
        print(f"mapsto: {note}", file=sys.stderr)
    _say_skipped(learned.skipped)


def predict(words: list[str]) -> None:
    """`mapsto predict`."""
    asked = tyro.cli(Predict, args=words, prog="mapsto predict")
    from mapsto.photographs import recognise

    found = recognise(asked.model, asked.images, asked.strict, asked.reject)
    rows = list(zip(found.files, found.labels, found.probabilities, strict=True))
    if asked.json:
        predictions = [
            {
                "image": str(file),
                "class": label,
                "probability": round(float(p.max()), 6),
                "probabilities": {name: round(float(share), 6) for name, share in zip(found.classes, p, strict=True)},
            }
            for file, label, p in rows
        ]
        print(json.dumps({"predictions": predictions, "calibrated": found.calibrated, "skipped": found.skipped}))
    else:
        shown = [label or "(none of these)" for label in found.labels]
        width = max(map(len, shown))
        for (file, _, p), label in zip(rows, shown, strict=True):
            print(f"{label:{width}}  {p.max():6.1%}  {file}")
    _say_skipped(found.skipped)


def _say_skipped(skipped: list[str]) -> None:
    for line in skipped:
        print(f"mapsto: skipped: {line}", file=sys.stderr)
