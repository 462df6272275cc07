"""The one training loop."""

import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_leaves

from mapsto.capture import CannotRecord
from mapsto.episode import Episodes, Source
from mapsto.errors import MapstoError
from mapsto.learner import MetaLearner
from mapsto.meta_gradient import TrainHow, backward, records


class Diverged(MapstoError):
    """The loss or its gradient is no longer finite; the parameters are those before the step named."""


def fit(
    learner: MetaLearner,
    episodes: Source | Iterable[Episodes],
    optimizer: Optimizer,
    *,
    steps: int,
    batch: int = 1,
    start: int = 0,
    schedule: LRScheduler | None = None,
    clip: float | None = None,
    how: TrainHow = "auto",
    chunk: int | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Meta-train a learner.

    Args:
        learner: what to train; it is left in training mode.
        episodes: a source such as `Tasks`, of which step k takes tasks `k * batch` to `(k + 1) * batch - 1`; or an
            iterable whose items are each the many tasks of one step.
        optimizer: over `learner.parameters()`.
        steps: meta-steps in all, `start` included.
        batch: tasks a meta-step (the meta-batch size), where `episodes` is a source.
        start: the meta-steps done before, as after a resume; a source goes on at its place.
        schedule: stepped once a meta-step.
        clip: the largest norm of the whole meta-gradient.
        how: as in `mapsto.meta_gradient.backward`; "auto" also records the step where so many steps pay for that.
        chunk: with vmap, at most so many tasks at once.
        on_step: called as `on_step(step, loss)` after meta-step `step` (1 to `steps`).

    Returns:
        The mean loss of each meta-step.

    Raises:
        Diverged: the loss or the gradient is not finite; that step is not taken.
        MapstoError: the iterable ended before `steps`.
    """
    supply = _from(episodes, batch, start)
    losses: list[float] = []
    way: TrainHow | None = None if how == "auto" else how
    learner.train()
    params = list(learner.parameters())
    for step in range(start + 1, steps + 1):
        tasks = next(supply, None)
        if tasks is None:
            raise MapstoError(f"the episodes ended after {step - 1} of {steps} steps: pass more, or fewer steps")
        learner.at_step(step - 1)
        optimizer.zero_grad()
        way = way or ("recorded" if records(learner, tasks, steps) else "auto")
        try:
            loss = backward(learner, tasks, way, chunk)
        except CannotRecord:
            if how != "auto":
                raise
            way = "auto"
            loss = backward(learner, tasks, way, chunk)
        held = [p for p in params if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
        if not (loss.isfinite() and norm.isfinite()):
            raise Diverged(_cause(step, loss, tasks))
        if clip is not None:
            torch.nn.utils.clip_grads_with_norm_(held, clip, norm)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step(step, losses[-1])
    return losses


def _from(episodes: Source | Iterable[Episodes], batch: int, start: int) -> Iterator[Episodes]:
    if isinstance(episodes, Source):
        return (episodes.batch(step * batch, batch) for step in itertools.count(start))
    return iter(episodes)


def _cause(step: int, loss: Tensor, tasks: Episodes) -> str:
    what = (
        f"the gradient of step {step} is not finite" if loss.isfinite() else f"the loss of step {step} is {loss.item()}"
    )
    floats = [leaf for leaf in tree_leaves(tasks) if leaf.is_floating_point()]
    if not all(leaf.isfinite().all() for leaf in floats):
        return f"{what}: that step's episodes hold NaN or infinity, so look at the data"
    return (
        f"{what}: most likely the learning rate (inner or outer) is too high: lower it, or clip the "
        "gradient (or a class has no support example: look at the episodes)"
    )
