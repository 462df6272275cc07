"""How far neural processes are from the exact posterior: `python examples/gp_gap.py RUN...`.

The runs are of learners trained on Gaussian processes. Prints a table and writes results/studies/gp-gap.json, docs/gp-
gap.md and docs/gp-bands.png. The exact posterior knows each task's kernel, which a learner must tell from the context
points; and a learner whose deviations have a floor (0.1 in the papers) can't score beyond that of the posterior with
its floor.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mapsto.data.gaussian_process import GaussianProcess
from mapsto.data.points import given
from mapsto.episode import unstack
from mapsto.errors import MapstoError
from mapsto.evaluate import Scores, evaluate
from mapsto.finished import Run, load
from mapsto.metrics import log_likelihood
from mapsto.plots.functions import regression_bands

ROOT = Path(__file__).parent.parent
RESULT, PICTURE = ROOT / "results" / "studies" / "gp-gap.json", ROOT / "docs" / "gp-bands.png"
TASKS, SHOWN, GRID = 1000, 3, torch.linspace(-2, 2, 200)


TEXT = """<!-- Written by examples/gp_gap.py: change that file. -->
# How far from the exact posterior

Neural processes learn to tell a function from a few of its points. For functions drawn from a Gaussian process the
best answer is known, so `python examples/gp_gap.py RUN...` takes both, in nats a query point, on the same {tasks}
tasks; ± is half the 95 % interval. The exact posterior is told each task's kernel; a learner must tell it from the
points. Learners whose deviations are at least 0.1, as in the papers, can't do better than the posterior with that
floor.

{table}

![Bands of two deviations over a few points](gp-bands.png)
"""


def source(run: Run) -> GaussianProcess:
    """Its test tasks.

    Raises:
        MapstoError: they are not drawn from Gaussian processes.
    """
    if not isinstance(run.test, GaussianProcess):
        raise MapstoError(f"{run.folder} was trained on {run.settings.data}: take a run on gaussian-process")
    return run.test


def exact(tasks: GaussianProcess, number: int, least: float = 0.0) -> Tensor:
    """The exact posterior's log-likelihood of each task, its deviations no smaller than `least`; `[number]`."""
    mean, deviation = tasks.posterior(0, number).chunk(2, 2)
    found = torch.cat([mean, deviation.clamp(min=least)], 2)
    return torch.vmap(log_likelihood)(found, tasks.batch(0, number).query.y).double()


def judged(run: Run, number: int = TASKS) -> dict[str, Any]:
    """A run's log-likelihood beside the exact posterior's, on the same tasks; each with half its 95 % interval."""
    tasks = source(run)
    scores = evaluate(run.learner, tasks, log_likelihood, tasks=number)
    best = exact(tasks, number)
    parts = {
        "learner": scores.values,
        "exact": best,
        "exact_with_floor": exact(tasks, number, float(run.settings.options.get("least", 0.1))),
        "gap": best - scores.values,
    }
    rows = {name: Scores(values, None, "none") for name, values in parts.items()}
    return {
        "recipe": run.config["recipe"],
        "kernel": tasks.kernel,
        "tasks": number,
        "train_steps": run.settings.steps,
        **{name: [row.mean, row.interval] for name, row in rows.items()},
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a run, in nats a query point."""
    columns = ("learner", "exact", "exact_with_floor", "gap")
    lines = [
        "| run | log-likelihood | exact posterior | the same with the floor | gap |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = " | ".join(f"{mean:.2f} ± {interval:.2f}" for mean, interval in (row[name] for name in columns))
        lines.append(f"| {row['recipe']} | {cells} |")
    return "\n".join(lines)


def picture(runs: Sequence[Run], path: Path) -> None:
    """The bands of the runs that share the first one's kernel, on its first test tasks."""
    tasks = source(runs[0])
    episodes = unstack(tasks.batch(0, SHOWN))
    bands: dict[str, Tensor] = {}
    for run in runs:
        if source(run).kernel == tasks.kernel:
            with torch.no_grad():
                found = [run.learner.predict(run.learner.adapt(e.support), GRID[:, None]) for e in episodes]
            bands[type(run.learner).__name__] = torch.stack(found)
    points = [given(e.support) for e in episodes]
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = regression_bands(points, GRID, bands, tasks.posterior(0, SHOWN, GRID))
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main(folders: Sequence[str], number: int = TASKS, result: Path = RESULT, drawn: Path = PICTURE) -> None:
    """Judge all, print the table, write the results and the picture."""
    if not folders:
        raise MapstoError("name the folders of finished runs: python examples/gp_gap.py RUN...")
    runs = [load(Path(folder), "cpu") for folder in folders]
    rows = [judged(run, number) for run in runs]
    print(table(rows))
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(rows, indent=2) + "\n")
    picture(runs, drawn)
    drawn.with_name("gp-gap.md").write_text(TEXT.format(table=table(rows), tasks=number))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MapstoError as error:
        sys.exit(str(error))
