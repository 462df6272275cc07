"""A run's report: its facts, its learning curve, and test episodes to look at."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mapsto import build, plots, report
from mapsto.algorithms import MANN, SNAIL, ProtoNet
from mapsto.algorithms.model_based.sequence import RecurrentLearner
from mapsto.axis import over_tasks
from mapsto.checkpoint import read_json
from mapsto.data import Completion, GaussianProcess, Sinusoid
from mapsto.data.points import given
from mapsto.episode import Episode, Examples, unstack
from mapsto.finished import Run, load
from mapsto.listing import tasks_of
from mapsto.recipes import RECIPES

SHOWN = 2
"""Test episodes in the gallery."""


def write_report(folder: Path) -> None:
    """Write `report.html` of a finished run, from its own files and its model.

    Raises:
        MapstoError: the folder holds no finished run.
    """
    result = read_json(folder / "result.json")
    run = load(folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    sections: list[tuple[str, str, Any]] = [
        (
            "Learning curve",
            f"Training loss, and {result['metric'].replace('_', '-')} on 100 validation tasks with its 95 % interval.",
            plots.learning_curve(rows, result["metric"]),
        )
    ]
    if "by_steps" in result:
        scores = {int(k): (v[0], v[1]) for k, v in result["by_steps"].items()}
        trained = int(run.learner.steps or 0)
        text = "The score after each number of inner steps; the mark is the number trained with."
        sections.append(("Score against inner steps", text, plots.score_by_steps(scores, result["metric"], trained)))
    if isinstance(run.test, Sinusoid):
        sections += _waves(run, result)
    elif isinstance(run.test, GaussianProcess):
        sections += _bands(run)
    elif isinstance(run.test, Completion):
        sections += _completions(run)
    elif len(build.sizes(run.test)[0]) == 3:
        sections += _pictures(run, unstack(run.test.batch(0, SHOWN)))
    report.render(folder / "report.html", result["recipe"], _facts(run, result), sections)


def _facts(run: Run, result: dict[str, Any]) -> dict[str, str]:
    percent = result["metric"] == "accuracy"
    scale, unit = (100, " %") if percent else (1, "")
    metric = result["metric"].replace("_", "-")
    facts = {
        metric: f"{result['score'] * scale:.2f}{unit} ± {result['interval'] * scale:.2f}",
        "test tasks": f"{result['tasks']}, {tasks_of(result)}; ± is half the 95 % interval of their mean",
        "batch norm statistics": result["norm"],
    }
    if result["steps"] is not None:
        facts["inner steps at test"] = str(result["steps"])
    if entry := RECIPES.get(result["recipe"]):
        facts["paper"] = entry.paper or "none for this data set"
        facts["protocol"] = entry.protocol.format(steps=f"{run.settings.steps:,}")
    facts |= {
        "training": f"{result['train_steps']:,} meta-steps, tasks a step: {run.settings.batch}; "
        f"{result['train_seconds']:.0f} s on {result['cpus']} CPU cores",
        "seed": str(result["seed"]),
        "command": result["command"],
        "versions": f"mapsto {result['mapsto']}, torch {result['torch']}, {result['device']}",
    }
    return facts


def _pictures(run: Run, episodes: list[Episode]) -> list[tuple[str, str, Any]]:
    sections: list[tuple[str, str, Any]] = []
    if run.settings.test_steps is not None:
        run.learner.steps = run.settings.test_steps
    for i, episode in enumerate(episodes):
        with torch.no_grad():
            fast = run.learner.adapt(episode.support)
            prediction = run.learner.predict(fast, episode.query.x)
        right = (prediction.argmax(1) == episode.query.y.argmax(1)).float().mean().item()
        text = (
            f"Left, the support images of each class; right, queries in the row of their true class. Green: right. "
            f"Dashed red: wrong, with the class predicted instead. All {len(prediction)} queries: {right:.1%} right."
        )
        figure = plots.gallery(
            episode.support.x, episode.support.y, episode.query.x, episode.query.y, prediction, max_queries=30
        )
        sections.append((f"Test episode {i + 1}", text, figure))
    if isinstance(run.learner, ProtoNet):
        sections.append(_map(run.learner, episodes[0]))
    return sections + _sequence(run, episodes[0])


def _sequence(run: Run, episode: Episode) -> list[tuple[str, str, Any]]:
    """Where a learner that reads a sequence looks, and what it remembers."""
    learner, (support, query) = run.learner, episode
    if isinstance(learner, SNAIL):
        with torch.no_grad():
            found = learner.looks(learner.adapt(support), query.x)
        figure = plots.looks(found, support.y.argmax(1), query.y.argmax(1))
        return [("Attention", "Where each attention block looks for the queries of test episode 1.", figure)]
    if not isinstance(learner, RecurrentLearner):
        return []
    tasks = run.test.replace(shot=10, query=1).batch(0, 100)
    with torch.no_grad():
        right = over_tasks(learner.by_presentation, tasks).mean(0)
    text = "How often the n-th example of a class is named rightly before its label is told: 100 test sequences."
    figure = plots.by_presentation({run.settings.algorithm: right}, 1 / support.y.shape[1])
    sections: list[tuple[str, str, Any]] = [("Accuracy by presentation", text, figure)]
    if isinstance(learner, MANN):
        sequence = unstack(tasks)[0].support
        with torch.no_grad():
            reads, usage = learner.looks(sequence)
        figure = plots.memory_over_time(reads, usage, sequence.y.argmax(1))
        sections.append(("Memory", "Which slots are in use, and which are read, at each presentation.", figure))
    return sections


def _map(learner: ProtoNet, episode: Episode) -> tuple[str, str, Any]:
    with torch.no_grad():
        support, query = learner.embed(episode.support.x), learner.embed(episode.query.x, episode.support.x)
        prototypes = learner.adapt(episode.support).what
    labels = torch.cat([episode.support.y, episode.query.y]).argmax(1)
    is_support = torch.arange(len(labels)) < len(support)
    figure = plots.embedding_map(torch.cat([support, query]), labels, is_support, prototypes)
    return ("Embedding map", "Test episode 1 in the plane of its two largest principal components.", figure)


def _waves(run: Run, result: dict[str, Any]) -> list[tuple[str, str, Any]]:
    assert isinstance(run.test, Sinusoid)
    waves = torch.from_numpy(run.test.waves(0, 6)).float()
    episodes = unstack(run.test.batch(0, 6))
    grid = torch.linspace(-5, 5, 200)[:, None]
    curves: dict[int, Tensor] = {}
    for steps in (0, 1, int(result["steps"])):
        run.learner.steps = steps
        with torch.no_grad():
            curves[steps] = torch.stack([run.learner.predict(run.learner.adapt(e.support), grid) for e in episodes])
    support = Examples(*(torch.stack(leaves) for leaves in zip(*(e.support for e in episodes), strict=True)))
    true = waves[:, :1] * torch.sin(grid[:, 0] - waves[:, 1:])
    figure = plots.regression_fits(support.x, support.y, grid[None].expand(6, -1, 1), true, curves)
    return [("Test tasks", "A few points of an unknown sine wave, and the fit after some inner steps.", figure)]


def _bands(run: Run) -> list[tuple[str, str, Any]]:
    assert isinstance(run.test, GaussianProcess)
    episodes, grid = unstack(run.test.batch(0, 4)), torch.linspace(-2, 2, 200)
    with torch.no_grad():
        found = torch.stack([run.learner.predict(run.learner.adapt(e.support), grid[:, None]) for e in episodes])
    if found.shape[-1] != 2:  # a density of another kind than a Gaussian
        return []
    exact = run.test.posterior(0, 4, grid)
    figure = plots.regression_bands([given(e.support) for e in episodes], grid, {run.settings.algorithm: found}, exact)
    text = "What is predicted from a few points of a function, beside the exact posterior, which knows the kernel."
    return [("Test tasks", text, figure)]


def _completions(run: Run) -> list[tuple[str, str, Any]]:
    assert isinstance(run.test, Completion)
    truth, places = run.test.pictures(0, 2), run.test.places
    values, shares = truth.flatten(2).transpose(1, 2), (0.02, 0.1, 0.5, 1.0)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    known: dict[str, Tensor] = {}
    guesses: dict[str, tuple[Tensor, Tensor]] = {}
    for share in shares:
        chosen = order[: max(1, round(share * len(places)))]
        with torch.no_grad():
            found = torch.stack(
                [run.learner.predict(run.learner.adapt(Examples(places[chosen], y[chosen])), places) for y in values]
            )
        name = f"{share:.0%} of pixels".replace("%", " %")
        mask = torch.zeros(len(places), dtype=torch.bool)
        mask[chosen] = True
        known[name] = mask.view(1, *truth.shape[2:]).expand(len(truth), -1, -1)
        mean, deviation = (part.transpose(1, 2).reshape(truth.shape) for part in found.chunk(2, 2))
        guesses[name] = (mean, deviation)
    text = "A picture never seen, told from some of its pixels: the mean, and where it is in doubt."
    return [("Test pictures", text, plots.completions(truth, known, guesses))]
