"""Make README's pictures from a finished run: `python docs/pictures.py runs/demo`."""

import json
import sys
from pathlib import Path

import torch

from mapsto import plots
from mapsto.episode import unstack
from mapsto.finished import load

HERE = Path(__file__).parent


def main(folder: Path) -> None:
    run = load(folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    plots.learning_curve(rows, run.settings.metric).savefig(HERE / "curve.png", dpi=110)
    support, query = unstack(run.test.batch(0, 1))[0]
    with torch.no_grad():
        prediction = run.learner.predict(run.learner.adapt(support), query.x)
    figure = plots.gallery(support.x, support.y, query.x, query.y, prediction, max_queries=30)
    figure.savefig(HERE / "episode.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
