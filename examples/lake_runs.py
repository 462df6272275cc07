"""Judge finished runs on Lake's 20 one-shot runs, beside people: `python examples/lake_runs.py RUN...`.

Prints a table, and writes results/studies/lake-runs.json and docs/lake-runs.md. The runs are of learners that can tell
20 classes apart and were trained on grey images of 28 x 28, best of all on Lake's background set alone (`--data-
options.split background`).
People: B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum. Human-level concept learning through probabilistic program
induction. Science 350(6266), 2015. The modified Hausdorff distance is the demo of
https://github.com/brendenlake/omniglot, on pictures of 105 x 105.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mapsto import build
from mapsto.algorithms import ProtoNet
from mapsto.data import Omniglot
from mapsto.data.lake import LakeRuns
from mapsto.errors import MapstoError
from mapsto.evaluate import Scores, evaluate
from mapsto.finished import check_tasks, load

ROOT = Path(__file__).parent.parent
RESULT, PAGE = ROOT / "results" / "studies" / "lake-runs.json", ROOT / "docs" / "lake-runs.md"
TEXT = """<!-- Written by examples/lake_runs.py: change that file. -->
# Beside people: Lake's one-shot runs

Someone is shown 20 characters of an alphabet never seen before, one drawing each, and must find those 20 among drawings
by another hand. `python examples/lake_runs.py RUN...` gives finished runs the same 20 tests that people had (Lake,
Salakhutdinov & Tenenbaum, Science 2015).

"""
WAY, SHAPE = 20, (1, 28, 28)
PUBLISHED = {"people": 0.045, "modified Hausdorff distance": 0.388}
"""Published error rates."""


def characters() -> set[str]:
    """The names of the runs' characters, told by their pictures."""
    data = Omniglot("background", rotations=False).test
    known = {image.numpy().tobytes(): data.names[c] for image, c in zip(data.x, data.y, strict=True)}
    pictures = LakeRuns().batch(0, len(LakeRuns())).support.x.flatten(0, 1)
    return {known[(255 * picture).round().byte().numpy().tobytes()] for picture in pictures}


def judged(folder: Path) -> dict[str, Any]:
    """A finished run's error rate, and how many of the runs' characters were among its training classes.

    Raises:
        MapstoError: its learner can't do such tasks, or was trained on other images.
    """
    run = load(folder)
    check_tasks(run.settings, run.learner, WAY, None)
    if (shape := build.sizes(run.test)[0]) != SHAPE:
        raise MapstoError(f"{folder} was trained on inputs of shape {shape}, and the runs are {SHAPE}")
    asked = characters()
    classes = build.images(run.settings)["train"].names
    seen = asked & {"/".join(name.split("/")[:2]) for name in classes}  # without the rotation
    scores = evaluate(run.learner, LakeRuns(run.config["device"]), tasks=len(LakeRuns()), steps=run.settings.test_steps)
    return {
        "recipe": run.config["recipe"],
        **_errors(scores),
        "seen": len(seen),
        "characters": len(asked),
        "train_steps": run.settings.steps,
        "seed": run.settings.seed,
        "command": run.config["command"],
    }


def _errors(scores: Scores) -> dict[str, Any]:
    return {"error": 1 - scores.mean, "interval": scores.interval, "norm": scores.norm}


def study(folders: Sequence[Path]) -> dict[str, Any]:
    """All that is published or measured here."""
    pixels = _errors(evaluate(ProtoNet(torch.nn.Flatten()), LakeRuns(), tasks=len(LakeRuns())))
    return {"published": PUBLISHED, "pixels": pixels, "runs": [judged(folder) for folder in folders]}


def table(found: dict[str, Any]) -> str:
    """The study as a table in Markdown, and what is to be known about the rows."""
    rows = [(name, f"{100 * error:.1f} %", "–", "–") for name, error in found["published"].items()]
    rows.append(("nearest picture, pixel by pixel", _percent(found["pixels"]), "–", found["pixels"]["norm"]))
    for run in found["runs"]:
        rows.append((run["recipe"], _percent(run), f"{run['seen']} of {run['characters']}", run["norm"]))
    head = [("learner", "error rate", "characters seen in training", "norm statistics"), ("---",) * 4]
    lines = [f"| {' | '.join(cells)} |" for cells in head + rows]
    lines += [
        "",
        "20 runs, 20-way 1-shot, within an alphabet; ± is half the 95 % interval over runs. The first two rows",
    ]
    lines += ["are published. A learner that has seen characters of the runs in training has an advantage over people:"]
    lines += ["only rows with none are a fair comparison."]
    return "\n".join(lines)


def _percent(row: dict[str, Any]) -> str:
    return f"{100 * row['error']:.1f} ± {100 * row['interval']:.1f} %"


def main(words: Sequence[str]) -> None:
    if not words:
        raise SystemExit("usage: python examples/lake_runs.py RUN...")
    try:
        found = study([Path(word) for word in words])
    except MapstoError as error:
        raise SystemExit(f"lake_runs: {error}") from None
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(TEXT + table(found) + "\n")
    print(table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
