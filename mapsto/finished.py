"""Finished runs: read one back from its folder, judge it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import mapsto
from mapsto import build
from mapsto.algorithms import Refined
from mapsto.algorithms.metric.refine import Method
from mapsto.checkpoint import load_weights, read_json, write_json
from mapsto.data import Presentations, Tasks
from mapsto.data.fitted import fitted
from mapsto.episode import Range, Reshapable, Shape
from mapsto.errors import MapstoError
from mapsto.evaluate import Metric, Scores, evaluate
from mapsto.learner import MetaLearner
from mapsto.metrics import accuracy, log_likelihood, mse
from mapsto.recipes import Settings
from mapsto.recipes.settings import Value

_METRICS = {"accuracy": accuracy, "mse": mse, "log_likelihood": log_likelihood}


def metric_of(settings: Settings, learner: MetaLearner) -> Metric:
    """One task's score, by the settings; "loss" is the learner's own criterion."""
    return learner.criterion if settings.metric == "loss" else _METRICS[settings.metric]


@dataclass
class Run:
    """A finished run, read back from its folder."""

    folder: Path
    config: dict[str, Any]
    settings: Settings
    learner: MetaLearner
    test: Reshapable


def load(folder: Path, device: str | None = None) -> Run:
    """Read a run folder, to be used on the device that it was trained on, where no other is given.

    Raises:
        MapstoError: it is none, or one of its files is damaged.
    """
    config, settings = read_config(folder)
    config["device"] = usable(device or config["device"])
    test = build.sources(settings, ("test",), config["device"])["test"]
    learner = build.learner(settings, *build.sizes(test)).to(config["device"])
    load_weights(folder / "weights.safetensors", learner)
    return Run(folder, config, settings, learner.eval(), test)


def judge(
    folder: Path,
    *,
    tasks: int | None = None,
    way: Range | None = None,
    shot: Range | None = None,
    query: int | None = None,
    steps: int | None = None,
    data: str | None = None,
    data_options: Mapping[str, Value] | None = None,
    refine: Method | None = None,
    device: str | None = None,
    command: str | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    train_seconds: float | None = None,
) -> dict[str, Any]:
    """Score a run on its test tasks, by default those of its settings; result.json is written by `train` alone.

    Args:
        folder: the run.
        tasks: how many; the other numbers are those of `evaluate`.
        data: another data set of images, whose test classes to judge on; as `mapsto.data.fitted` brings them to the
            size and colours of the training. Intensities are kept: bright ink is what mapsto's own sets have.
        data_options: that data set's own settings.
        refine: classify queries together, as `mapsto.algorithms.Refined` does; such a score is transductive.
        device: where to compute, where not as in training.
        command: for the record, where not that of the training.
        progress: called with the tasks done, their total, and the score so far.
        train_seconds: how long the training took; given by `train`, which has result.json written.

    Returns:
        The result: `score` (0 to 1 for accuracy), `interval` (half-width, 95 %), `tasks`, and the protocol; after
        training, and for regression wherever no steps are given, also `by_steps`; on other data also `data`, its name,
        and with a refinement `refine`.

    Raises:
        MapstoError: the folder holds no finished run, or its model or data can't do such tasks.
    """
    for name, value, least in (("tasks", tasks, 2), ("way", way, 1), ("shot", shot, 1), ("query", query, 1)):
        at_least(name, value, least)
    run = load(folder, device)
    settings = run.settings
    if data is not None:
        run.test = _other(run, data, data_options or {})
    if refine is not None:
        run.learner = _refined(run.learner, refine)
    check_tasks(settings, run.learner, way, steps)
    total = tasks or settings.tasks
    inner = steps if steps is not None else settings.test_steps

    def judged(chosen: int | None, number: int) -> Scores:
        return evaluate(
            run.learner, run.test, metric_of(settings, run.learner),
            tasks=number, steps=chosen, way=way, shot=shot, query=query,
            on_batch=lambda values: progress and progress(len(values), number, values.mean().item()),
        )  # fmt: skip

    scores = judged(inner, total)
    shape = run.test.shape.changed(way, shot, query)
    result = {
        "recipe": run.config["recipe"],
        "metric": settings.metric,
        "score": scores.mean,
        "interval": scores.interval,
        "tasks": len(scores.values),
        "seed": settings.seed,
        "way": shape.way,
        "shot": shape.shot,
        "query": shape.query,
        "steps": scores.steps,
        "norm": scores.norm,
        "command": command or run.config["command"],
        "train_steps": settings.steps,
        "mapsto": mapsto.__version__,
        "torch": torch.__version__,
        "device": run.config["device"],
        "threads": torch.get_num_threads(),
    }
    for name, value in (("data", data), ("refine", refine)):
        if value is not None:
            result[name] = value
    regression = settings.metric == "mse"
    if scores.steps is not None and steps is None and (regression or train_seconds is not None):
        costly = set() if regression or scores.steps >= 5 else {5, 10}
        by_steps = sorted({0, 1, 3, 5, 10, scores.steps} - costly)
        few = total if regression else min(total, 200)
        result["by_steps"] = {str(k): [s.mean, s.interval] for k in by_steps for s in [judged(k, few)]}
    if train_seconds is not None:
        result["train_seconds"] = round(train_seconds, 1)
        result["cpus"] = os.cpu_count()
        write_json(folder / "result.json", result)
    return result


def _other(run: Run, data: str, options: Mapping[str, Value]) -> Tasks | Presentations:
    """The run's test tasks, but of the test classes of another data set."""
    if not isinstance(run.test, (Tasks, Presentations)):
        raise MapstoError(f"{run.folder} was trained on {run.settings.data}, so it can't be judged on images of {data}")
    try:
        part = build.images(replace(run.settings, data=data, data_options=options))["test"]
    except TypeError as error:
        raise MapstoError(f"the data set {data} can't be had with options {dict(options)}: {error}") from None
    shape, _ = build.sizes(run.test)
    ordered = type(run.learner).ordered
    return build.tasks(fitted(part, shape), run.test.shape, run.test.seed, run.config["device"], ordered)


def _refined(learner: MetaLearner, method: Method) -> MetaLearner:
    try:
        return Refined(learner, method).eval()
    except ValueError as error:
        raise MapstoError(str(error)) from None


def read_config(folder: Path) -> tuple[dict[str, Any], Settings]:
    """A run folder's config.json, and the settings in it.

    Raises:
        MapstoError: there is none, or it is damaged.
    """
    config = read_json(folder / "config.json")
    try:
        raw = {**config["settings"], **{part: _shape(config["settings"][part]) for part in ("train", "test")}}
        settings = Settings(**raw)
        missing = {"recipe", "command", "device", "threads"} - config.keys()
        if missing:
            raise KeyError(*missing)
    except (AttributeError, KeyError, TypeError) as error:
        raise MapstoError(
            f"{folder / 'config.json'} is damaged or of another version of mapsto ({error}): train again, or restore it"
        ) from None
    return config, settings


def _shape(raw: dict[str, Any]) -> Shape:
    ranges: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    return Shape(**ranges)


def check_tasks(settings: Settings, learner: MetaLearner, way: Range | None, steps: int | None) -> None:
    """Complain of a way that can't be judged or that the learner's head has not, and of steps where it takes none."""
    if settings.metric == "accuracy":
        at_least("way", way, 2)
    trained = settings.train.way
    if way not in (None, trained) and not learner.headless:
        raise MapstoError(
            f"{settings.algorithm} has a head of one size: trained on {trained}-way tasks, it can't do {way}-way ones"
        )
    if steps is not None and learner.steps is None:
        raise MapstoError(f"{settings.algorithm} takes no inner steps at test, so leave their number ({steps}) out")
    at_least("inner steps", steps, 0)


def at_least(name: str, value: Any, least: float) -> None:
    """Complain of a number, or a range's lower end, that is too small; None is none."""
    low = min(value) if isinstance(value, tuple) else value
    if low is not None and not low >= least:
        raise MapstoError(f"{name} must be at least {least}, not {value}")


def usable(name: str) -> str:
    """That device, if tensors can live there."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise MapstoError(f"device {name!r} can't be used here ({reason}): choose another with --device") from None
    return name
