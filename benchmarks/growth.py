"""How time and memory grow with tasks, inner steps and width: each point in a fresh process, drawn into docs/."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contest import Contest
from benchmarks.gradients import MAKERS, mapsto
from benchmarks.race import Worker
from benchmarks.works import Work, mini, omniglot, sine


@dataclass(frozen=True)
class Growth:
    """A row of works that differ in one number.

    Attributes:
        title: of the picture.
        along: what the number counts.
        work: the work of a number.
        values: the numbers.
        limit: the largest number for those whose memory would not do for more.
        recompute: whether mapsto with recomputation takes part.
    """

    title: str
    along: str
    work: Callable[[int], Work]
    values: Sequence[int]
    limit: int | None = None
    recompute: bool = False

    def names(self, value: int) -> list[str]:
        """Who takes part at a number."""
        plain = ["mapsto", "loop", "higher"] if self.limit is None or value <= self.limit else []
        return plain + (["mapsto, recomputing"] if self.recompute else [])


GROWTHS = {
    "tasks-mlp": Growth("Sinusoid MLP, 5 inner steps", "tasks", lambda n: sine(n, 5), (1, 4, 16, 64, 256)),
    "tasks-conv": Growth(
        "Omniglot strided Conv4-64, 5-way 1-shot, 1 inner step", "tasks", lambda n: omniglot(5, n, 1),
        (1, 4, 16, 64, 256),
    ),
    "steps": Growth(
        "84x84 max-pool Conv4-32, 5-way 5-shot, 1 task", "inner steps", lambda n: mini(1, n),
        (1, 2, 5, 10, 20, 50), limit=10, recompute=True,
    ),
    "width": Growth(
        "Omniglot strided Conv4, 5-way 1-shot, 4 tasks, 1 inner step", "filters of each layer",
        lambda n: omniglot(5, 4, 1, n), (16, 32, 64, 128, 256),
    ),
}  # fmt: skip


def _contest(work: Work) -> Contest:
    makers = {name: partial(MAKERS[name], work) for name in ("mapsto", "loop", "higher")}
    return Contest(work.about, {**makers, "mapsto, recomputing": partial(mapsto, work, recompute=True)})


POINTS = {f"{name}-{n}": _contest(growth.work(n)) for name, growth in GROWTHS.items() for n in growth.values}


def measure(job: Mapping[str, Any], part: str, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every point of a part, or of all where it is "".

    Whose it is, where it lies, milliseconds a step, and the memory of the work alone in MB.
    """
    points = []
    for name, growth in GROWTHS.items():
        for n in growth.values if part in ("", name) else ():
            for who in growth.names(n):
                where = {"contests": "benchmarks.growth:POINTS", "contest": f"{name}-{n}", "name": who}
                with tempfile.TemporaryDirectory() as folder:
                    worker = Worker({**job, **where, "outcome": f"{folder}/outcome.pickle"})
                    answer = worker.turn(0.3) if worker.hello["state"] == "ready" else worker.hello
                    worker.close()
                say(f"{name} {n} {who}: {answer}")
                if "ms" in answer:
                    found = {"ms": round(answer["ms"], 3), "work_mb": round(answer["work_mb"], 1)}
                    points.append({"growth": name, "name": who, "value": n, **found})
    return points


def draw(points: Sequence[Mapping[str, Any]], folder: Path, device: str = "cpu") -> None:
    """A picture for each row of works, time and memory: `growth-NAME.png`, or `growth-NAME-cuda.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    for name in dict.fromkeys(point["growth"] for point in points):
        growth = GROWTHS[name]
        figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
        figure.suptitle(growth.title, fontsize=10)
        for axis, key, label in zip(axes, ("ms", "work_mb"), ("milliseconds a meta-step", "memory in MB"), strict=True):
            for who in ("mapsto", "mapsto, recomputing", "loop", "higher"):
                mine = [p for p in points if p["growth"] == name and p["name"] == who]
                if mine:
                    ours = who.startswith("mapsto")
                    style = "--" if who == "mapsto, recomputing" else "-"
                    axis.plot(
                        [p["value"] for p in mine], [p[key] for p in mine], style, marker="o", ms=4, label=who,
                        lw=2 if ours else 1, color="C0" if ours else {"loop": "C7", "higher": "C1"}[who],
                    )  # fmt: skip
            axis.set(xscale="log", yscale="log", xlabel=growth.along, ylabel=label)
            axis.set_xticks(growth.values, [str(n) for n in growth.values], minor=False)
            axis.xaxis.minorticks_off()
            axis.grid(alpha=0.3)
        axes[0].legend(fontsize=8, frameon=False)
        end = "" if device == "cpu" else f"-{device}"
        figure.savefig(folder / f"growth-{name}{end}.png", dpi=90)
        plt.close(figure)
