"""A prior-data fitted network beside classifiers that train: `python examples/pfn_tables.py RUN [RUN_GP]`.

The first run folder is of `pfn/tables`. The tables are the four real ones that come with scikit-learn. In each of many
stratified splits all classifiers learn from the same 100 rows, with scikit-learn's default settings, and are tested on
the rest. Digits and breast cancer have more features than the network takes, so all classifiers get the first principal
components, fitted to the 100 rows. The second folder, of `bar-pfn/gp-rbf`, is judged beside the exact Gaussian process.
Some five minutes on one core.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from mapsto import evaluate
from mapsto.algorithms.model_based.pfn import BarPFN
from mapsto.checkpoint import write_json
from mapsto.data.gaussian_process import GaussianProcess
from mapsto.evaluate import interval
from mapsto.finished import load
from mapsto.tabular import TabularPFN

ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "results/studies/pfn-tables.json", ROOT / "docs/tables.md"
TABLES = {
    "iris": datasets.load_iris, "wine": datasets.load_wine,
    "breast cancer": datasets.load_breast_cancer, "digits": datasets.load_digits,
}  # fmt: skip
SPLITS, ROWS = 10, 100


def classifiers(network: Any, features: int) -> dict[str, Any]:
    """By name; linear ones on standardised features."""
    most = network.max_inputs
    first = [StandardScaler(), PCA(most, random_state=0)] if features > most else []
    return {
        "mapsto PFN": make_pipeline(*first, TabularPFN(network)),
        "logistic regression": make_pipeline(*first, StandardScaler(), LogisticRegression(max_iter=1000)),
        "random forest": make_pipeline(*first, RandomForestClassifier(random_state=0)),
        "gradient boosting": make_pipeline(*first, HistGradientBoostingClassifier(random_state=0)),
    }


def compare(network: Any) -> list[dict[str, Any]]:
    """One row a table and classifier: mean accuracy and log-loss over splits, with half-widths of 95 % intervals."""
    found = []
    for table, read in TABLES.items():
        X, y = read(return_X_y=True)
        splits = list(StratifiedShuffleSplit(SPLITS, train_size=ROWS, random_state=0).split(X, y))
        for name, model in classifiers(network, X.shape[1]).items():
            scores = []
            for train, test in tqdm(splits, desc=f"{table}, {name}", leave=False):
                probabilities = model.fit(X[train], y[train]).predict_proba(X[test])
                right = (model.classes_[probabilities.argmax(1)] == y[test]).mean()
                scores.append((right, log_loss(y[test], probabilities, labels=model.classes_)))
            (accuracy, loss), halves = np.mean(scores, 0), 1.96 * np.std(scores, 0, ddof=1) / SPLITS**0.5
            found.append({
                "table": table, "rows": len(y), "features": X.shape[1], "classes": len(np.unique(y)),
                "classifier": name,
                "accuracy": accuracy, "accuracy_interval": halves[0],
                "log_loss": loss, "log_loss_interval": halves[1],
            })  # fmt: skip
    return found


def regress(folder: Path, tasks: int = 1000) -> dict[str, float]:
    """The mean negative log-likelihood of a query point in nats, of the run and of the exact posterior."""
    run = load(folder)
    assert isinstance(run.learner, BarPFN) and isinstance(run.test, GaussianProcess)
    scores = evaluate(run.learner, run.test, run.learner.criterion, tasks=tasks)
    exact = []
    for start in range(0, tasks, 16):
        size = min(16, tasks - start)
        y, posterior = run.test.batch(start, size).query.y[..., 0], run.test.posterior(start, size)
        exact.append(-torch.distributions.Normal(posterior[..., 0], posterior[..., 1]).log_prob(y).mean(1))
    best = torch.cat(exact).double()
    gap = scores.values - best
    return {
        "nll": scores.mean, "interval": scores.interval, "exact": best.mean().item(),
        "gap": gap.mean().item(), "gap_interval": interval(gap).item(), "tasks": tasks,
    }  # fmt: skip


def page(rows: list[dict[str, Any]], regression: dict[str, float] | None) -> str:
    """docs/tables.md."""
    names = list(dict.fromkeys(row["classifier"] for row in rows))
    lines = [
        "# Tables",
        "",
        "A prior-data fitted network (`pfn/tables`) has seen synthetic tables only. Shown the labelled rows of a real "
        "one it classifies the others, without training and without a setting to choose. Here beside classifiers that "
        f"train, with scikit-learn's default settings: {SPLITS} stratified splits, {ROWS} labelled rows, all others "
        "to test; means with 95 % intervals over splits. Where a table has more features than the network takes, all "
        "classifiers get its first principal components. Made by `python examples/pfn_tables.py RUN`.",
    ]
    for title, key, scale in (("Accuracy, %", "accuracy", 100), ("Log-loss, nats", "log_loss", 1)):
        lines += ["", f"## {title}", "", f"| table | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
        for table in TABLES:
            own = {row["classifier"]: row for row in rows if row["table"] == table}
            digits = 1 if scale == 100 else 3
            cells = [
                f"{scale * own[n][key]:.{digits}f} ± {scale * own[n][f'{key}_interval']:.{digits}f}" for n in names
            ]
            lines.append(f"| {table} | {' | '.join(cells)} |")
    if regression is not None:
        lines += [
            "", "## Regression", "",
            "`bar-pfn/gp-rbf` on functions of its prior, a Gaussian process: negative log-likelihood of a point "
            f"{regression['nll']:.3f} ± {regression['interval']:.3f} nats, of the exact posterior "
            f"{regression['exact']:.3f}; the difference is {regression['gap']:.3f} ± {regression['gap_interval']:.3f} "
            f"({regression['tasks']:,} functions).",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    rows = compare(load(Path(words[0])).learner)
    regression = regress(Path(words[1])) if len(words) > 1 else None
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write_json(RESULT, {"splits": SPLITS, "labelled_rows": ROWS, "rows": rows, "regression": regression})
    PAGE.write_text(page(rows, regression))


if __name__ == "__main__":
    main(sys.argv[1:])
