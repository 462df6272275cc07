"""What `mapsto list` shows: each learner's paper and recipes, the paper's numbers, and those measured here."""

import difflib
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mapsto.build import ALGORITHMS
from mapsto.errors import MapstoError
from mapsto.recipes import RECIPES

ASSET = Path(__file__).parent / "assets" / "results.json"
FAMILIES = {"optimization": "optimization-based", "metric": "metric-based", "model_based": "model-based"}
"""The field's names of the folders of mapsto/algorithms."""
WIDTHS = (34, 28, 32)
"""Of the columns in a terminal of 100, with 2 before and 2 between."""

Result = dict[str, Any]


def measured() -> list[Result]:
    """The runs whose numbers are shipped: the files of results/, by recipe."""
    return json.loads(ASSET.read_text())


def learners() -> dict[str, list[str]]:
    """Every learner's recipes, family by family."""
    found: dict[str, list[str]] = {}
    for wanted in FAMILIES:
        for name in RECIPES:
            if family(name) == wanted:
                found.setdefault(name.partition("/")[0], []).append(name)
    return found


def family(recipe: str) -> str:
    """The folder of mapsto/algorithms that its algorithm lives in."""
    return ALGORITHMS[RECIPES[recipe].settings.algorithm].__module__.split(".")[2]


def chosen(word: str | None) -> list[str]:
    """The recipes of a learner, or those whose names hold the word; all where there is none.

    Raises:
        MapstoError: nothing fits; the message names the nearest.
    """
    by_learner = learners()
    names = [name for some in by_learner.values() for name in some]
    found = names if word is None else by_learner.get(word) or [name for name in names if word in name]
    if not found:
        near = difflib.get_close_matches(str(word), [*by_learner, *names], n=3, cutoff=0.3)
        hint = f"the nearest are {', '.join(near)}" if near else "`mapsto list` shows them all"
        raise MapstoError(f"there is no learner or recipe {word!r}; {hint}")
    return found


def objects(word: str | None) -> list[dict[str, Any]]:
    """One JSON object a recipe."""
    runs = measured()
    return [
        {
            "recipe": name,
            "learner": name.partition("/")[0],
            "family": FAMILIES[family(name)],
            **asdict(RECIPES[name]),
            "measured": [run for run in runs if run["recipe"] == name],
        }
        for name in chosen(word)
    ]


def lines(word: str | None) -> Iterator[str]:
    """Lines of at most 100 characters: all recipes in short, or those that fit the word with their protocols."""
    runs, last = measured(), ""
    yield from _row("RECIPE", "PAPER", "HERE (± half the 95 % interval)")
    for name in chosen(word):
        entry, learner = RECIPES[name], name.partition("/")[0]
        if learner != last:
            origin, last = entry.origin, learner
            yield ""
            text = f"{learner} ({FAMILIES[family(name)]}): {origin.authors}, {origin.venue}, {origin.link}"
            yield from textwrap.wrap(text, 100, subsequent_indent="  ", break_on_hyphens=False)
        here = [score(run) + changed(run) for run in runs if run["recipe"] == name]
        yield from _row(name, entry.paper or "–", "\n".join(here) or "not run yet")
        if word is not None:
            for part in (entry.about, protocol(name)):
                yield from textwrap.wrap(part, 100, initial_indent="    ", subsequent_indent="    ")
    yield ""
    yield "`mapsto list WORD` adds protocols; `mapsto train RECIPE` runs one."


def _row(*cells: str) -> Iterator[str]:
    """Cells side by side, each folded within its column."""
    columns = [
        [line for part in cell.split("\n") for line in textwrap.wrap(part, width)]
        for cell, width in zip(cells, WIDTHS, strict=True)
    ]
    for parts in zip_longest(*columns, fillvalue=""):
        yield ("  " + "  ".join(part.ljust(width) for part, width in zip(parts, WIDTHS, strict=True))).rstrip()


# ------------------------------------------------------------------------------------------------ in words


def protocol(recipe: str) -> str:
    """How the paper's number was made, what differs here, and why ours is far from it where it is."""
    entry = RECIPES[recipe]
    gap = f" The gap to the paper: {entry.gap}" if entry.gap else ""
    return (entry.protocol + gap).format(steps=f"{entry.settings.steps:,}")


def score(run: Result) -> str:
    """The score with half its 95 % interval; for regression after 1, 5 and 10 steps."""
    if run["metric"] == "accuracy":
        return f"{100 * run['score']:.2f} ± {100 * run['interval']:.2f} %"
    by_steps = run.get("by_steps", {})
    steps = [k for k in ("1", "5", "10") if k in by_steps]
    if not steps:
        return f"{_with_interval(run['score'], run['interval'])} ({run['metric'].replace('_', '-')})"
    return f"{' / '.join(_with_interval(*by_steps[k]) for k in steps)} after {' / '.join(steps)} steps"


def tasks_of(run: Result) -> str:
    """The shape of its test tasks: "5-way 1-shot, 15 queries a class" or "3 to 47 support points, 50 query points"."""
    if run["metric"] == "accuracy":
        return f"{_span(run['way'])}-way {_span(run['shot'])}-shot, {run['query']} queries a class"
    return f"{_span(run['shot'])} support points, {run['query']} query points"


def _span(value: int | tuple[int, int] | list[int]) -> str:
    return f"{value[0]} to {value[1]}" if isinstance(value, list | tuple) else str(value)


def _with_interval(mean: float, interval: float) -> str:
    if mean >= 1000:  # after more steps than it was trained for, a learner may diverge
        return f"{mean:.0e}"
    return f"{mean:.2f} ± {interval:.2f}"


def changed(run: Result) -> str:
    """In what its test tasks are not those of the recipe; empty where they are."""
    test = RECIPES[run["recipe"]].settings.test
    way = "" if _span(run["way"]) == _span(test.way) else f", tested {_span(run['way'])}-way"
    shot = "" if _span(run["shot"]) == _span(test.shot) else f", tested with {_span(run['shot'])} shots"
    data = f", tested on {run['data']}" if "data" in run else ""
    refined = f", refined by {run['refine']}" if "refine" in run else ""
    return way + shot + data + refined


def reported(run: Result) -> str | None:
    """What the paper reports for the same learner and job, also where the test tasks have another shape."""
    name = run["recipe"]
    if "data" in run or "refine" in run:
        return None
    if changed(run):
        shape = f"{run['way']}way-{run['shot']}shot"
        if shape in RECIPES[name].elsewhere:
            return RECIPES[name].elsewhere[shape]
        name = re.sub(r"-\d+way-\d+shot$", "", name) + f"-{shape}"
    return RECIPES[name].paper if name in RECIPES else None
