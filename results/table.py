"""Make the tables of README and docs/algorithms.md, and what `mapsto list` shows: `python results/table.py`.

They are made of the JSON files beside this script, each the result.json of a run or the output of `mapsto evaluate`.
"""

import json
import re
from pathlib import Path
from typing import Any

from mapsto.build import ALGORITHMS
from mapsto.listing import ASSET, FAMILIES, changed, family, learners, protocol, reported, score, tasks_of
from mapsto.recipes import RECIPES

HERE = Path(__file__).parent
README, PAGE = HERE.parent / "README.md", HERE.parent / "docs" / "algorithms.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
HEAD = """# Learners, recipes and results

Made by `python results/table.py` of the recipes (`mapsto/recipes/`) and of `results/*.json`; ± is half the 95 %
interval of the mean over test tasks. "transductive" means that a query is normalised together with the other queries,
as in the papers named; "running" and "support" statistics do not look at other queries. Minutes are wall time.
"""


def results() -> list[dict[str, Any]]:
    """All results, in the order of the recipes; other JSON files have no "recipe"."""
    read = [json.loads(path.read_text()) for path in sorted(HERE.glob("*.json"))]
    order = list(RECIPES)
    found = [r for r in read if isinstance(r, dict) and "recipe" in r]
    return sorted(found, key=lambda r: (order.index(r["recipe"]), bool(changed(r)), _low(r["way"]), _low(r["shot"])))


def _low(value: int | list[int]) -> int:
    return value[0] if isinstance(value, list) else value


def shipped() -> str:
    """What `mapsto list` reads: one result a line."""
    return "[\n" + ",\n".join(json.dumps(r) for r in results()) + "\n]\n"


def summary() -> str:
    """README's table: of each learner the first recipe that has been run."""
    first: dict[str, dict[str, Any]] = {}
    for r in results():
        first.setdefault(r["recipe"].partition("/")[0], r)
    rows = [
        [r["recipe"], score(r), reported(r) or "–", r["norm"], _training(r)] for r in map(first.get, learners()) if r
    ]
    return _table(["recipe", "measured (95 % interval)", "paper", "norm statistics", "training"], rows)


def page() -> str:
    """docs/algorithms.md: every learner and recipe, family by family, then the protocols."""
    parts, runs = [HEAD], results()
    columns = ["learner", "recipe", "paper", "measured", "test tasks", "norm statistics", "training", "command"]
    for folder, title in FAMILIES.items():
        rows: list[list[str]] = []
        for learner, names in learners().items():
            if family(names[0]) == folder:
                cells = [row for name in names for row in _rows(name, [r for r in runs if r["recipe"] == name])]
                rows += [[_origin(learner, names[0]) if i == 0 else "", *row] for i, row in enumerate(cells)]
        if rows:
            parts.append(f"## {title.capitalize()}\n\n{_table(columns, rows)}\n")
    parts.append(
        "## Protocols\n\nHow the papers' numbers were made, what differs here, and why ours are far off if so.\n"
    )
    for name, entry in RECIPES.items():
        parts.append(f"- **{name}** ({entry.about}). {protocol(name)}")
    return "\n".join(parts) + "\n"


def _origin(learner: str, recipe: str) -> str:
    origin = RECIPES[recipe].origin
    name = ALGORITHMS[RECIPES[recipe].settings.algorithm].__name__
    return f"**{learner}** (`{name}`): [{origin.authors}, {origin.venue}]({origin.link})"


def _rows(name: str, runs: list[dict[str, Any]]) -> list[list[str]]:
    entry = RECIPES[name]
    if not runs:
        planned = f"{entry.settings.steps:,} meta-steps"
        norm = str(entry.settings.model_options.get("stats", "–"))
        return [[name, entry.paper or "–", "not run yet", "–", norm, planned, f"`mapsto train {name}`"]]
    return [
        [name + changed(r), reported(r) or "–", score(r), _tasks(r), r["norm"], _training(r), f"`{r['command']}`"]
        for r in runs
    ]


def _tasks(r: dict[str, Any]) -> str:
    steps = "" if r["steps"] is None else f", {r['steps']} inner steps"
    return f"{r['tasks']:,}, {tasks_of(r)}{steps}, seed {r['seed']}"


def _training(r: dict[str, Any]) -> str:
    if "train_seconds" not in r:
        return f"{r['train_steps']:,} meta-steps (the same run)"
    where = "" if r["device"] == "cpu" else f", {r['device']}"
    threads = f" on {r['threads']} threads" if r.get("threads", 1) > 1 else ""
    return f"{r['train_steps']:,} meta-steps, {r['train_seconds'] / 60:.0f} min{threads}{where}"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def updated(readme: str) -> str:
    """The README's text with the table in its place."""
    return re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{summary()}\n{END}", readme, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
    PAGE.write_text(page())
    ASSET.write_text(shipped())
