"""The meta-gradient of many tasks, by the fastest way that is right."""

import functools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mapsto import heap
from mapsto.axis import forks, vmaps
from mapsto.capture import CannotRecord, known, recorded
from mapsto.episode import Episode, Episodes, count
from mapsto.learner import MetaLearner
from mapsto.processes import over_processes

TrainHow = Literal["auto", "loop", "processes", "vmap", "recorded", "captured", "compiled"]
"""As `How` of `over_tasks`; and the step recorded once. "captured": replayed without Python or autograd in between.
"compiled": made into machine code, in some seconds for small networks, in minutes by torch's compiler for others.
"recorded": compiled where that takes seconds and there is a compiler, else captured if the network is small. What was
compiled is kept."""

WORTH = 1000
"""Meta-steps from which `fit` records the step: it takes about as long as some hundred of them."""


def backward(learner: MetaLearner, tasks: Episodes, how: TrainHow = "auto", chunk: int | None = None) -> Tensor:
    """Add the gradient of the mean loss over tasks to `.grad`.

    Few tasks' graphs are held at a time: one in the loop, one a process, `chunk` (or all) with vmap.

    Args:
        learner: whose `forward` is the loss.
        tasks: many tasks.
        how: "loop", "processes" (tasks shared out over a CPU's cores), "vmap", "recorded", "captured", "compiled";
            "auto" takes the fastest of the first three that is right.
        chunk: with vmap (also recorded), at most so many tasks at once.

    Returns:
        The mean loss, without a graph.

    Raises:
        ValueError: an explicit way that would be wrong or impossible; the message says why.
    """
    heap.keep()
    if how in ("recorded", "captured", "compiled"):
        return _replayed(learner, tasks, how, chunk)
    number, together = count(tasks), vmaps(learner, tasks, how)
    if not together and forks(learner, tasks, how):
        singles = _parts(tasks, number, 1)
        shares = over_processes(functools.partial(_gradient, learner), learner, singles)
        return _added(_learned(learner), shares, number)
    at_once = chunk or number if together else 1
    total = torch.zeros((), device=tree_leaves(tasks)[0].device)
    for part in _parts(tasks, number, at_once):
        loss = learner(part, how=how) * (count(part) / number)
        loss.backward()
        total = total + loss.detach()
    return total


def records(learner: MetaLearner, tasks: Episodes, steps: int) -> bool:
    """Whether to try and record the step: on a CPU, where it pays over so many meta-steps.

    That is small networks, whose calls are the cost, and convolutions, if there are tasks for all cores.
    """
    if steps < WORTH or tree_leaves(tasks)[0].device.type != "cpu":
        return False
    images = any(p.dim() == 4 for p in learner.parameters()) and count(tasks) >= torch.get_num_threads()
    return images or vmaps(learner, tasks)


Found = tuple[Tensor, Sequence[Tensor | None]]
"""A loss and its gradient."""


def _replayed(learner: MetaLearner, tasks: Episodes, how: TrainHow, chunk: int | None) -> Tensor:
    reason: CannotRecord | None = None
    if how != "captured" and isinstance(tasks, Episode):
        try:
            recording = recorded(learner, tasks, "loop", "native")
            return _added(recording.learned, [recording(tasks)], 1)
        except CannotRecord as error:
            reason = error
    way = "compiled" if how == "compiled" else "captured"
    recording = known(learner, tasks, "vmap", way) if chunk is None else None
    if recording is not None:  # which it is in all steps but the first
        return _added(recording.learned, [recording(tasks)], 1)
    number, together = count(tasks), vmaps(learner, tasks)
    if how == "recorded" and not together:  # kernels that are large, and torch's own are not the fastest
        raise reason or CannotRecord("tasks of different shapes are not recorded")
    size = chunk or number if together else 1
    parts = [tasks] if together and size >= number else _parts(tasks, number, size)
    found: list[Found] = []
    for part in parts:
        recording = recorded(learner, part, "vmap" if together else "loop", way)
        loss, grads = recording(part)
        if len(parts) > 1:  # the sums, as the parts may differ in size
            loss, grads = loss * count(part), [grad * count(part) for grad in grads]
        found.append((loss, grads))
    assert recording is not None
    return _added(recording.learned, found, number if len(parts) > 1 else 1)


def _gradient(learner: MetaLearner, tasks: list[Episodes]) -> Found:
    """The sums of the tasks' losses and gradients, one task's graph after the other."""
    params = _learned(learner)
    total, sums = None, []
    for task in tasks:
        loss = learner(task, how="loop")
        grads = torch.autograd.grad(loss, params, allow_unused=True)
        total = loss.detach() if total is None else total + loss.detach()
        sums = _sum(sums, grads) if sums else list(grads)
    assert total is not None
    return total, sums


def _added(params: Sequence[nn.Parameter], found: list[Found], number: int) -> Tensor:
    """Add the gradients found, over the number of tasks, to `.grad`; the losses' sum over that number."""
    total, sums = found[0]
    for loss, grads in found[1:]:
        total, sums = total + loss, _sum(sums, grads)
    for p, grad in zip(params, sums, strict=True):
        if grad is not None:
            grad = grad if number == 1 else grad / number
            if grad.stride() != p.stride():  # fused optimisers take it for granted, as autograd sees to it
                grad = torch.empty_like(p).copy_(grad)
            p.grad = grad if p.grad is None else p.grad + grad
    return total if number == 1 else total / number


def _learned(learner: MetaLearner) -> list[nn.Parameter]:
    return [p for p in learner.parameters() if p.requires_grad]


def _sum(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [x if y is None else y if x is None else x + y for x, y in zip(a, b, strict=True)]


def _parts(tasks: Episodes, number: int, size: int) -> list[Episodes]:
    def cut(first: int) -> Episodes:
        if isinstance(tasks, Episode):
            return tree_map(lambda leaf: leaf[first : first + size], tasks)
        return tasks[first : first + size]

    return [cut(first) for first in range(0, number, size)]
