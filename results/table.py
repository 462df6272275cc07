"""Write README's table of results from the JSON files beside this script: `python results/table.py`."""

import json
import re
from pathlib import Path

from mapsto.recipes import RECIPES

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def table() -> str:
    """A Markdown table, a row a result, in the order of the recipes."""
    order = list(RECIPES)
    results = [json.loads(path.read_text()) for path in sorted(HERE.glob("*.json"))]
    results.sort(key=lambda r: (order.index(r["recipe"]), r["way"], r["shot"]))
    lines = [
        "| recipe | measured (95 % interval) | paper | test tasks | norm statistics | training | command |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        way = RECIPES[r["recipe"]].settings.test.way
        regression = r["metric"] == "mse"
        shape = f"K = {r['shot']}" if regression else f"{r['way']}-way {r['shot']}-shot {r['query']}-query"
        steps = "" if r["steps"] is None else f", {r['steps']} inner steps"
        cells = [
            r["recipe"] + ("" if r["way"] == way else f", tested {r['way']}-way"),
            _score(r),
            _paper(r),
            f"{r['tasks']:,}, {shape}{steps}, seed {r['seed']}",
            r["norm"],
            f"{r['train_steps']:,} meta-steps"
            + (f", {r['train_seconds'] / 60:.0f} min" if "train_seconds" in r else " (the same run)"),
            f"`{r['command']}`",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _paper(r: dict) -> str:
    """What the paper reports for the same method and job: the recipe's, or that of its sibling of another way."""
    learner, _, data = r["recipe"].partition("/")
    job = f"{learner}/{data.partition('-')[0]}-{r['way']}way-{r['shot']}shot"
    entry = RECIPES.get(r["recipe"] if r["metric"] == "mse" else job)
    return (entry.paper if entry else None) or "–"


def _score(r: dict) -> str:
    if r["metric"] == "accuracy":
        return f"{100 * r['score']:.2f} ± {100 * r['interval']:.2f} %"
    steps = [k for k in ("1", "5", "10") if k in r["by_steps"]]
    parts = [f"{r['by_steps'][k][0]:.2f} ± {r['by_steps'][k][1]:.2f}" for k in steps]
    return f"{' / '.join(parts)} after {' / '.join(steps)} steps"


def updated(readme: str) -> str:
    """The README's text with the table in its place."""
    return re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{table()}\n{END}", readme, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
