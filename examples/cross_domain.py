"""Where does meta-learning stop helping? `python examples/cross_domain.py RUN...`.

Learners trained on Glyphs (letters drawn from fonts) and plain baselines, which are not trained on anything but a
task's support set, are tested on the same tasks of domains that are further and further away. Writes
results/studies/cross-domain.json and docs/cross-domain.md; wants scikit-learn.
"""

import gzip
import hashlib
import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from mapsto.algorithms import ProtoNet
from mapsto.axis import How
from mapsto.data import CIFARFS, Glyphs, Labelled, Omniglot, Tasks
from mapsto.data.files import find
from mapsto.data.fitted import fitted
from mapsto.episode import Examples
from mapsto.errors import MapstoError
from mapsto.evaluate import Scores, evaluate
from mapsto.finished import check_tasks, load
from mapsto.learner import MetaLearner
from mapsto.models import Conv4

ROOT = Path(__file__).parent.parent
RESULT, PAGE = ROOT / "results" / "studies" / "cross-domain.json", ROOT / "docs" / "cross-domain.md"
SHAPE, WAY, SHOTS, QUERY, TASKS = (1, 28, 28), 5, (1, 5), 15, 600
META, PLAIN = "meta-learned", "plain"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_DIGESTS = {  # SHA-256 of the unpacked files
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def mnist() -> Labelled:
    """The test digits of MNIST (Y. LeCun, C. Cortes, C. J. C. Burges; CC BY-SA 3.0)."""
    images, labels = (
        gzip.decompress(find("digits_da", file, _MNIST + file, digest, _unpacked).read_bytes())
        for file, digest in _DIGESTS.items()
    )
    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, *SHAPE).copy()
    y = np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    return Labelled(torch.from_numpy(x), y, list("0123456789"))


def _unpacked(path: Path) -> str:
    return hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()


DOMAINS: dict[str, tuple[str, Callable[[], Labelled]]] = {
    "Glyphs": ("letters of other scripts from the same fonts", lambda: Glyphs().test),
    "Omniglot": ("characters drawn by hand", lambda: Omniglot(rotations=False).test),
    "MNIST": ("handwritten digits", mnist),
    "CIFAR-FS": ("photographs, in grey", lambda: CIFARFS().test),
}
"""What each is, nearest to the training first, and its test classes."""


class PixelRegression(MetaLearner):
    """Logistic regression of the pixels, by scikit-learn with its own settings (an L2 penalty of C = 1)."""

    def adapt(self, support: Examples) -> LogisticRegression:
        return LogisticRegression(max_iter=1000).fit(support.x.flatten(1).numpy(), support.y.argmax(1).numpy())

    def predict(self, fast: LogisticRegression, x: Tensor) -> Tensor:
        return torch.from_numpy(fast.predict_proba(x.flatten(1).numpy())).float()


def plain() -> dict[str, MetaLearner]:
    """Baselines that no other task has taught anything."""
    torch.manual_seed(0)
    return {
        "nearest centroid of pixels": ProtoNet(nn.Flatten()),
        "logistic regression of pixels": PixelRegression(),
        "nearest centroid of a random Conv4": ProtoNet(Conv4(stats="running")),
    }


def study(folders: Sequence[Path], tasks: int) -> dict[str, Any]:
    """Every learner on every domain, on the same tasks, so many of each.

    Raises:
        MapstoError: a folder holds no finished run, or one that was not trained on Glyphs or can't do 5-way tasks.
    """
    learners: dict[str, tuple[str, MetaLearner, int | None]] = {n: (PLAIN, x, None) for n, x in plain().items()}
    trained: dict[str, str] = {}
    for folder in folders:
        run = load(folder)
        if run.settings.data != "glyphs":
            raise MapstoError(f"{folder} was trained on {run.settings.data}: give runs trained on glyphs")
        check_tasks(run.settings, run.learner, WAY, None)
        name = run.config["recipe"].partition("/")[0]
        if name in learners:
            raise MapstoError(f"{folder} holds {name} once more: give one run of each learner")
        learners[name] = (META, run.learner.cpu(), run.settings.test_steps)
        trained[name] = run.config["command"]
    rows, gains = [], []
    for domain, (_, make) in DOMAINS.items():
        part = fitted(make(), SHAPE)
        for shot in SHOTS:
            source = Tasks(part, WAY, shot, QUERY)
            scores = {
                name: evaluate(learner, source, tasks=tasks, steps=steps, how=_how(learner))
                for name, (_, learner, steps) in learners.items()
            }
            for name, found in scores.items():
                row = {"domain": domain, "shot": shot, "learner": name, "kind": learners[name][0]}
                rows.append({**row, "score": found.mean, "interval": found.interval, "norm": found.norm})
            best = {kind: _best(scores, [n for n in scores if learners[n][0] == kind]) for kind in (META, PLAIN)}
            difference = Scores(scores[best[META]].values - scores[best[PLAIN]].values, None, "none")
            gain = {"domain": domain, "shot": shot, "meta": best[META], "plain": best[PLAIN]}
            gains.append({**gain, "gain": difference.mean, "interval": difference.interval})
    return {"tasks": tasks, "trained": trained, "rows": rows, "gains": gains}


def _how(learner: MetaLearner) -> How:
    return "loop" if isinstance(learner, PixelRegression) else "auto"  # scikit-learn takes one task at a time


def _best(scores: dict[str, Scores], names: list[str]) -> str:
    return max(names, key=lambda name: scores[name].mean)


# ------------------------------------------------------------------------------------------------ in words


def page(found: dict[str, Any]) -> str:
    """docs/cross-domain.md: the table and what it says."""
    columns = [(domain, shot) for domain in DOMAINS for shot in SHOTS]
    scores = {(row["learner"], row["domain"], row["shot"]): row for row in found["rows"]}
    kinds = {row["learner"]: row["kind"] for row in found["rows"]}
    norms = {row["learner"]: row["norm"] for row in found["rows"]}
    cells = [["learner", "norm statistics", *(f"{domain}, {shot}-shot" for domain, shot in columns)]]
    cells.append(["---"] * len(cells[0]))
    for name in sorted(kinds, key=lambda name: kinds[name] != META):
        values = [_percent(scores[name, *column]) for column in columns]
        cells.append([f"{name} ({kinds[name]})", norms[name], *values])
    about = [f"- {domain}: {text}." for domain, (text, _) in DOMAINS.items()]
    runs = [f"- {name}: `{command}`" for name, command in found["trained"].items()]
    parts = [
        "# Where does meta-learning stop helping?",
        "Made by `python examples/cross_domain.py RUN...`. Learners that were trained on Glyphs, letters of Latin and "
        "Greek from 12 type faces, against baselines that learn from the task's support set alone, on the test classes "
        f"of four domains: 5-way tasks of grey 28 x 28 images, {QUERY} queries a class, {found['tasks']} tasks, the "
        "same for every learner. ± is half the 95 % interval of the mean; chance is 20 %.",
        "\n".join(about),
        "\n".join(f"| {' | '.join(line)} |" for line in cells),
        *verdicts(found["gains"]),
        'Differences are paired, task by task; the best of each kind is chosen on the same tasks. "transductive" means '
        "that a query is normalised together with the other queries, which no plain baseline does.",
        "Trained by:",
        "\n".join(runs),
    ]
    folded = [part if "\n" in part else textwrap.fill(part, 120, break_on_hyphens=False) for part in parts]
    return "\n\n".join(folded) + "\n"


def verdicts(gains: list[dict[str, Any]]) -> list[str]:
    """A list with an item for each domain and number of shots; where meta-learning helps and where it does not."""
    sides: dict[str, list[str]] = {"helps": [], "makes no clear difference": [], "loses to a plain baseline": []}
    lines = []
    for g in gains:
        points, half = round(100 * g["gain"], 1) + 0.0, 100 * g["interval"]  # the sum makes -0.0 a 0.0
        side = (
            "helps" if points > half else "loses to a plain baseline" if points < -half else "makes no clear difference"
        )
        where = f"{g['domain']} {g['shot']}-shot"
        sides[side].append(where)
        lines.append(f"- {where}: {g['meta']} less {g['plain']} is {points:+.1f} ± {half:.1f} points.")
    said = [f"{side} on {', '.join(where)}" for side, where in sides.items() if where]
    return ["\n".join(lines), f"Meta-learning on Glyphs {'; '.join(said)}."]


def _percent(row: dict[str, Any]) -> str:
    return f"{100 * row['score']:.1f} ± {100 * row['interval']:.1f} %"


def main(words: Sequence[str]) -> None:
    if not words:
        raise SystemExit("usage: python examples/cross_domain.py RUN...")
    try:
        found = study([Path(word) for word in words], TASKS)
    except MapstoError as error:
        raise SystemExit(f"cross_domain: {error}") from None
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(found))
    print(PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
