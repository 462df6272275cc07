"""Which learner for what: time each one's adaptation, and write docs/choosing.md: `python examples/choosing.py`.

One 5-way 1-shot task of 28 x 28 images with 75 queries, one thread, the network and settings of each learner's Omniglot
recipe with weights as drawn: times do not depend on what was learned. Accuracies are those of `results/`.
"""

import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mapsto import build
from mapsto.data import Labelled, Tasks
from mapsto.learner import MetaLearner
from mapsto.listing import FAMILIES, family, learners, measured, score
from mapsto.recipes import RECIPES

ROOT = Path(__file__).parent.parent
TIMES, PAGE = ROOT / "results" / "studies" / "adaptation.json", ROOT / "docs" / "choosing.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
IMAGE, ROUNDS = (1, 28, 28), 20


def candidates() -> dict[str, str]:
    """Each learner's Omniglot recipe for five classes and one example."""
    chosen: dict[str, str] = {}
    for learner, names in learners().items():
        fits = [n for n in names if RECIPES[n].settings.data == "omniglot" and RECIPES[n].settings.test.way == 5]
        if fits:
            chosen[learner] = fits[0]
    return chosen


def timed(recipe: str) -> dict[str, Any]:
    """Milliseconds to adapt to a task and to answer its queries, medians; whether adapting takes gradients."""
    settings = RECIPES[recipe].settings
    if settings.model.startswith(build.RUN):  # any network of that size will do
        settings = replace(settings, model="conv4", model_options={"filters": 64, "stats": "running"})
    learner = build.learner(settings, IMAGE).eval()
    if settings.test_steps is not None:
        learner.steps = settings.test_steps
    support, query = _tasks()[0]
    adapting, answering = [], []
    for _ in range(ROUNDS + 2):
        with torch.no_grad():
            start = time.perf_counter()
            fast = learner.adapt(support)
            middle = time.perf_counter()
            learner.predict(fast, query.x)
            adapting.append(1e3 * (middle - start))
            answering.append(1e3 * (time.perf_counter() - middle))
    return {
        "recipe": recipe,
        "adapt_ms": round(statistics.median(adapting[2:]), 2),
        "answer_ms": round(statistics.median(answering[2:]), 2),
        "gradient_steps": learner.steps,
        "any_way": any_way(learner),
    }


def any_way(learner: MetaLearner) -> bool:
    """Whether it can be tested with other numbers of classes than it was trained with."""
    return learner.headless and learner.way is None


def _tasks() -> Tasks:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (5 * 16, *IMAGE), generator=generator, dtype=torch.uint8)
    return Tasks(Labelled(x, torch.arange(5).repeat_interleave(16).numpy(), list("abcde")), 5, 1, 15)


def table(times: list[dict[str, Any]]) -> str:
    """The page's table."""
    runs = {}
    for run in measured():
        if run["way"] == RECIPES[run["recipe"]].settings.test.way and run["shot"] == 1:
            runs.setdefault(run["recipe"], run)
    head = ["learner", "family", "accuracy", "training", "gradient steps at test", "adapt", "75 answers", "other way"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    for row in times:
        run = runs.get(row["recipe"])
        cells = [
            row["recipe"].partition("/")[0],
            FAMILIES[family(row["recipe"])],
            score(run) if run else "not run yet",
            f"{run['train_seconds'] / 60:.0f} min" if run and "train_seconds" in run else "–",
            "none" if row["gradient_steps"] is None else str(row["gradient_steps"]),
            f"{row['adapt_ms']:.1f} ms",
            f"{row['answer_ms']:.1f} ms",
            "yes" if row["any_way"] else "no",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    times = [timed(recipe) for recipe in candidates().values()]
    TIMES.parent.mkdir(exist_ok=True)
    TIMES.write_text(json.dumps(times, indent=1) + "\n")
    text = PAGE.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(times)}\n{END}{after}")
    print(table(times))


if __name__ == "__main__":
    main()
