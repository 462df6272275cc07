"""From knowing tasks by heart to learning: GPICL trained on more and more tasks (`python examples/gpicl_growth.py`).

Each model has the same size and training; only the number of different tasks (random projections and shuffled labels of
handwritten digits) grows. Judged on held-out images, of the tasks trained on and of new ones. What is done already is
read back from runs/gpicl-growth, so it can be stopped and started again; all of it takes about 20 minutes on one core.
"""

import json
from pathlib import Path

import torch
from tqdm import tqdm

from mapsto import Scores, evaluate, fit
from mapsto.algorithms.model_based.gpicl import GPICL
from mapsto.checkpoint import write_json
from mapsto.data.projections import Digits, Projections
from mapsto.plots import style

ROOT = Path(__file__).parents[1]
RUNS, RESULT = ROOT / "runs/gpicl-growth", ROOT / "results/studies/gpicl-growth.json"
PICTURE, PAGE = ROOT / "docs/gpicl-growth.png", ROOT / "docs/gpicl-growth.md"
NUMBERS = [2**k for k in range(2, 15, 2)]
SHAPE = (10, 5, 5)
"""Way, shot and query."""
SETTINGS = {"width": 64, "depth": 2, "heads": 4}
STEPS, BATCH, RATE, TASKS = 1500, 16, 1e-3, 200


def one(number: int, digits: Digits) -> dict[str, float]:
    """Train on so many tasks and judge."""
    torch.manual_seed(0)
    train = Projections(digits.train, *SHAPE, tasks=number, seed=1)
    learner = GPICL(64, 10, **SETTINGS)
    optimizer = torch.optim.Adam(learner.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    with tqdm(total=STEPS, desc=f"{number} tasks") as bar:

        def on_step(step: int, loss: float) -> None:
            bar.update()

        fit(learner, train, optimizer, steps=STEPS, batch=BATCH, schedule=schedule, on_step=on_step)
    seen = evaluate(learner, Projections(digits.test, *SHAPE, tasks=number, seed=1), tasks=TASKS)
    unseen = evaluate(learner, Projections(digits.test, *SHAPE, seed=2), tasks=TASKS)
    return {"tasks": number, **_numbers("seen", seen), **_numbers("unseen", unseen)}


def _numbers(name: str, scores: Scores) -> dict[str, float]:
    return {name: scores.mean, f"{name}_interval": scores.interval}


def draw(rows: list[dict[str, float]]) -> None:
    """Accuracy against the number of training tasks."""
    figure, (axis,) = style.canvas(1, 1, height=3.6)
    for name, colour, label in (("seen", style.BLUE, "tasks trained on"), ("unseen", style.RED, "new tasks")):
        x, y, half = ([row[key] for row in rows] for key in ("tasks", name, f"{name}_interval"))
        axis.errorbar(x, y, half, color=colour, marker="o", markersize=4, linewidth=2, elinewidth=0.8, label=label)
    axis.axhline(1 / SHAPE[0], color=style.FAINT, linestyle="--", linewidth=1, label="chance")
    axis.set_xscale("log", base=2)
    axis.set_xlabel("different tasks in training")
    style.score_axis(axis, "accuracy on new images", "accuracy")
    axis.legend(frameon=False)
    figure.savefig(PICTURE, dpi=110)


def page(rows: list[dict[str, float]]) -> str:
    """docs/gpicl-growth.md."""
    way, shot, _ = SHAPE
    lines = [
        "<!-- Written by examples/gpicl_growth.py: change that file. -->",
        "# From knowing tasks by heart to learning",
        "",
        f"The same transformer (GPICL, {STEPS:,} meta-steps of {BATCH} tasks), trained on more and more different "
        f"{way}-way {shot}-shot tasks: random projections of handwritten digits, with shuffled labels. With few tasks "
        "it knows them by heart and fails on new ones; with many it has to learn how to learn, and new tasks cost it "
        f"nothing. Accuracy on held-out images, {TASKS} tasks each; made by `python examples/gpicl_growth.py`.",
        "",
        "| different tasks in training | tasks trained on | new tasks |",
        "| --- | --- | --- |",
    ]
    for row in rows:
        cells = (f"{100 * row[key]:.1f} ± {100 * row[f'{key}_interval']:.1f} %" for key in ("seen", "unseen"))
        lines.append(f"| {row['tasks']:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n![Accuracy against the number of training tasks](gpicl-growth.png)\n"


def main() -> None:
    torch.set_num_threads(1)
    for folder in (RUNS, RESULT.parent):
        folder.mkdir(parents=True, exist_ok=True)
    digits, rows = Digits(), []
    for number in NUMBERS:
        file = RUNS / f"{number}.json"
        if not file.exists():
            write_json(file, one(number, digits))
        rows.append(json.loads(file.read_text()))
    protocol = {
        "data": "scikit-learn's digits, 1,197 images to train, the last 300 to test",
        **dict(zip(("way", "shot", "query"), SHAPE, strict=True)), **SETTINGS,
        "steps": STEPS, "batch": BATCH, "optimizer": "adam", "lr": RATE, "schedule": "cosine", "test_tasks": TASKS,
    }  # fmt: skip
    PAGE.write_text(page(rows))
    write_json(RESULT, {"protocol": protocol, "rows": rows, "command": "python examples/gpicl_growth.py"})
    draw(rows)


if __name__ == "__main__":
    main()
