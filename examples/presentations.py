"""How often the n-th example of a class is named rightly: `python examples/presentations.py RUN...`.

The runs are of learners that read a sequence (MANN, LSTM). Writes results/studies/presentations.json,
docs/presentations.md and docs/presentations.png. In each test sequence five classes of characters never seen come ten
times each, in random order; every example is named before its label is told.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mapsto import over_tasks, plots
from mapsto.algorithms.model_based.sequence import RecurrentLearner
from mapsto.errors import MapstoError
from mapsto.evaluate import interval
from mapsto.finished import load

ROOT = Path(__file__).parent.parent
RESULT, PAGE = ROOT / "results" / "studies" / "presentations.json", ROOT / "docs" / "presentations.md"
PICTURE = PAGE.with_suffix(".png")
TASKS, TIMES = 400, 10
TEXT = """<!-- Written by examples/presentations.py: change that file. -->
# By presentation

Five classes of characters never seen come ten times each, in random order, and every example is named before its label
is told: the first can only be guessed, the second must be remembered (Santoro et al. 2016). In training the classes
came as often as the second column says; what lies beyond was never practised. Accuracy in per cent at the
n-th presentation, {tasks} test sequences, ± half the 95 % interval; made by `python examples/presentations.py RUN...`.
Protocols and lengths of training are in [algorithms](algorithms.md).

{table}

![Accuracy by presentation](presentations.png)
"""


def judged(folder: Path) -> dict[str, Any]:
    """A run's accuracy at each presentation, with half its 95 % interval.

    Raises:
        MapstoError: its learner does not read a sequence.
    """
    run = load(folder)
    if not isinstance(run.learner, RecurrentLearner):
        raise MapstoError(f"{folder} holds {run.settings.algorithm}, which does not answer as it reads")
    sequences = run.test.replace(shot=TIMES, query=1).batch(0, TASKS)
    with torch.no_grad():
        right = over_tasks(run.learner.by_presentation, sequences).double()
    return {
        "recipe": run.config["recipe"],
        "train_steps": run.settings.steps,
        "trained_to": int(np.max(run.settings.train.shot)) + run.settings.train.query,
        "accuracy": [round(x, 4) for x in right.mean(0).tolist()],
        "interval": [round(x, 4) for x in interval(right).tolist()],
        "command": run.config["command"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A row a run."""
    numbers = " | ".join(str(n + 1) for n in range(TIMES))
    lines = [f"| run | times in training | {numbers} |", "| --- | --- |" + " --- |" * TIMES]
    for row in rows:
        pairs = zip(row["accuracy"], row["interval"], strict=True)
        cells = " | ".join(f"{100 * mean:.1f} ± {100 * half:.1f}" for mean, half in pairs)
        lines.append(f"| {row['recipe']} ({row['train_steps']:,} meta-steps) | {row['trained_to']} | {cells} |")
    return "\n".join(lines)


def main(folders: list[str]) -> None:
    if not folders:
        raise SystemExit("usage: python examples/presentations.py RUN...")
    try:
        rows = [judged(Path(folder)) for folder in folders]
    except MapstoError as error:
        raise SystemExit(f"presentations: {error}") from None
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(TEXT.format(table=table(rows), tasks=TASKS))
    curves = {row["recipe"].partition("/")[0]: torch.tensor(row["accuracy"]) for row in rows}
    plots.by_presentation(curves, 1 / 5).savefig(PICTURE, dpi=110)
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
