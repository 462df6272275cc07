"""Judge a learner on tasks, and change nothing in it."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mapsto import heap
from mapsto.applied import norm_of
from mapsto.axis import How, over_tasks
from mapsto.episode import Episode, Episodes, Range, Reshapable, Source, Tree, stack, unstack
from mapsto.learner import MetaLearner
from mapsto.metrics import accuracy

Metric = Callable[[Tensor, Tree], Tensor]


@dataclass(frozen=True)
class Scores:
    """The scores of many tasks.

    Attributes:
        values: one score a task, float64 `[tasks]`.
        steps: the inner steps taken; None for a learner that takes none.
        norm: where batch norm took its statistics from ("transductive", "support", "running", "none").
    """

    values: Tensor
    steps: int | None
    norm: str

    @property
    def mean(self) -> float:
        """The mean over tasks."""
        return self.values.mean().item()

    @property
    def interval(self) -> float:
        """Half the width of the mean's 95 % confidence interval: 1.96 s / sqrt(n), s with n - 1; NaN for one task."""
        return interval(self.values).item() if len(self.values) > 1 else float("nan")

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.interval:.4f} ({len(self.values)} tasks)"


def interval(values: Tensor) -> Tensor:
    """Half the width of the 95 % confidence interval of `values.mean(0)`: see `Scores.interval`."""
    return 1.96 * values.std(0) / len(values) ** 0.5


def evaluate(
    learner: MetaLearner,
    episodes: Source | Iterable[Episodes],
    metric: Metric = accuracy,
    *,
    tasks: int | None = None,
    steps: int | None = None,
    way: Range | None = None,
    shot: Range | None = None,
    query: int | None = None,
    batch: int = 16,
    how: How = "auto",
    on_batch: Callable[[Tensor], None] | None = None,
) -> Scores:
    """Adapt to each task's support set and score the predictions on its query set.

    Parameters, buffers, training modes and random states (torch, NumPy, Python) are bit-identical afterwards, and a
    task's score does not depend on the tasks before it. Runs in `eval()` mode without a meta-gradient, so memory does
    not grow with the inner steps.

    Args:
        learner: what to judge.
        episodes: a source such as `Tasks`, or an iterable of many-task episodes. A source that consults the learner (as
            in reinforcement learning) meets it in evaluation mode and with the `steps` given here.
        metric: `(prediction, y) -> scalar`, one task's score.
        tasks: how many; by default 1,000 of a source, all of an iterable.
        steps: inner steps, where not the learner's own number.
        way, shot, query: a task's shape, where not the source's own.
        batch: tasks taken from a source at a time.
        how: as in `over_tasks`.
        on_batch: called with the scores so far, for progress bars.

    Raises:
        ValueError: `steps` for a learner that takes none; another shape for an iterable; no tasks at all.
    """
    if steps is not None and learner.steps is None:
        raise ValueError(f"{type(learner).__name__} takes no inner steps, so steps={steps} means nothing to it")
    if (way, shot, query) != (None, None, None):
        if not isinstance(episodes, Reshapable):
            raise ValueError("way, shot and query can be chosen only for a source such as Tasks, not for an iterable")
        episodes = episodes.replace(way=way, shot=shot, query=query)
    heap.keep()
    values: list[Tensor] = []
    with _untouched(learner, steps) as buffers:
        score = partial(_score, learner, metric, buffers)
        for some in _take(episodes, tasks, batch):
            part = over_tasks(score, some, how=how, module=learner)
            values.append(part.detach().double().cpu())
            if on_batch is not None:
                on_batch(torch.cat(values))
        taken = learner.steps
    if not values:
        raise ValueError("there were no tasks to evaluate on")
    return Scores(torch.cat(values), taken, norm_of(learner))


def _score(learner: MetaLearner, metric: Metric, buffers: dict[str, Tensor], episode: Episode) -> Tensor:
    prediction = learner.predict(learner.adapt(episode.support), episode.query.x)
    result = metric(prediction, episode.query.y)
    _put_back(learner, buffers)
    return result


def _put_back(learner: MetaLearner, buffers: dict[str, Tensor]) -> None:
    """A module of the user's may store things in its buffers even in eval mode: no task may see another's."""
    for name, buffer in learner.named_buffers():
        if not torch.equal(buffer, buffers[name]):
            buffer.copy_(buffers[name])


def _take(episodes: Source | Iterable[Episodes], tasks: int | None, batch: int) -> Iterator[Episodes]:
    if isinstance(episodes, Source):
        wanted = 1000 if tasks is None else tasks
        for start in range(0, wanted, batch):
            yield episodes.batch(start, min(batch, wanted - start))
        return
    left = float("inf") if tasks is None else tasks
    for some in episodes:
        if left <= 0:
            return
        parts = unstack(some)
        yield some if len(parts) <= left else stack(parts[: int(left)])
        left -= len(parts)


@contextmanager
def _untouched(learner: MetaLearner, steps: int | None) -> Iterator[dict[str, Tensor]]:
    """Evaluation mode, with everything put back; yields the buffers' values, which each task begins with."""
    modes = {module: module.training for module in learner.modules()}
    held = [(m, name, buffer) for m in learner.modules() for name, buffer in m.named_buffers(recurse=False)]
    buffers = {name: buffer.clone() for name, buffer in learner.named_buffers()}
    own_steps, python, array, cpu = learner.steps, random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    learner.eval()
    if steps is not None:
        learner.steps = steps
    try:
        with torch.no_grad():
            yield buffers
    finally:
        for module, name, buffer in held:
            setattr(module, name, buffer)  # `self.n = self.n + 1` makes a new one
        _put_back(learner, buffers)
        learner.steps = own_steps
        for module, mode in modes.items():
            module.training = mode
        random.setstate(python)
        np.random.set_state(array)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
