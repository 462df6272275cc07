"""Who computes the meta-gradients: each maker takes a work and a device, and sets its contestant up."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.contest import Contest, Entry, Outcome
from benchmarks.works import WORKS, Work, begin, tasks_on
from mapsto.algorithms import MAML, ProtoNet
from mapsto.episode import Episode, unstack
from mapsto.learner import MetaLearner
from mapsto.meta_gradient import TrainHow, backward

Step = Callable[[], Tensor | float]


def entry(model: nn.Module, step: Step) -> Entry:
    """A contestant whose step returns the loss and leaves the gradient in the model's parameters."""
    last: list[Tensor | float] = []
    params = list(model.parameters())  # as an optimiser holds them: `Module.zero_grad` walks the modules first

    def once() -> None:
        for p in params:
            p.grad = None
        last[:] = [step()]

    return Entry(once, lambda: outcome(last[0], [p.grad for p in model.parameters() if p.grad is not None]))


def outcome(loss: Tensor | float, grads: list[Tensor]) -> Outcome:
    """What is compared: the loss, and the meta-gradient in the order of the plain model's parameters."""
    flat = torch.cat([grad.detach().flatten().cpu() for grad in grads])
    return {"loss": np.array(float(loss)), "gradient": flat.numpy()}


def mapsto(work: Work, device: str, how: TrainHow = "auto", recompute: bool = False) -> Entry:
    """mapsto as its README uses it."""
    learner, tasks = mapsto_learner(work, device, recompute), tasks_on(work, device)
    return entry(learner, lambda: backward(learner, tasks, how=how))


def mapsto_learner(work: Work, device: str, recompute: bool = False) -> MetaLearner:
    """The learner of a work, with the common weights."""
    model = begin(work, work.ours(), device)
    if not work.steps:
        return ProtoNet(model)
    options: dict[str, Any] = {"criterion": work.criterion}
    if recompute:
        options["recompute"] = True
    return MAML(model, work.lr, work.steps, work.first_order, **options)


def loop(work: Work, device: str) -> Entry:
    """Clone, adapt, backward, task by task: what learn2learn's examples do, written with torch alone."""
    model, tasks = begin(work, work.plain(), device), unstack(tasks_on(work, device))
    one = _one_maml if work.steps else _one_protonet

    def step() -> Tensor:
        total = torch.zeros((), device=device)
        for task in tasks:
            loss = one(work, model, task) / len(tasks)
            loss.backward()
            total += loss.detach()
        return total

    return entry(model, step)


def _one_maml(work: Work, model: nn.Module, task: Episode) -> Tensor:
    support, query = task
    fast = {name: p.clone() for name, p in model.named_parameters()}
    for _ in range(work.steps):
        loss = work.criterion(functional_call(model, fast, (support.x,)), support.y)
        grads = torch.autograd.grad(loss, list(fast.values()), create_graph=not work.first_order)
        fast = {name: p - work.lr * grad for (name, p), grad in zip(fast.items(), grads, strict=True)}
    return work.criterion(functional_call(model, fast, (query.x,)), query.y)


def _one_protonet(work: Work, model: nn.Module, task: Episode) -> Tensor:
    support, query = task
    z = model(torch.cat([support.x, query.x]))
    support_z, query_z = z[: len(support.x)], z[len(support.x) :]
    way = support.y.shape[1]
    prototypes = support_z.reshape(way, -1, z.shape[1]).mean(1)  # examples are sorted by class
    return work.criterion(-(query_z[:, None] - prototypes).square().sum(2), query.y)


def _peer(name: str) -> Callable[[Work, str], Entry]:
    """A contestant of `benchmarks.peers`, imported when it is its turn."""
    module = "benchmarks.jax_meta" if name == "jax-meta" else "benchmarks.peers"
    return lambda work, device: getattr(import_module(module), name.replace("-", "_"))(work, device)


OURS: dict[str, TrainHow] = {"mapsto": "auto", "mapsto-captured": "captured", "mapsto-compiled": "compiled"}
"""Our ways: `backward`'s own, and those that `fit` takes of itself where the training is long."""
PEERS = ("higher", "torchopt", "iteryne", "metalearn", "jax-meta")
SMALL = ("a1", "a5")
"""Works that take all our ways."""
MORE = {"b": ("mapsto-compiled",), "b20": ("mapsto-compiled",), "c": ("mapsto-recompute",)}
"""The others' ways beside "auto": what is compiled in seconds, and what takes little memory."""

MAKERS: dict[str, Callable[[Work, str], Entry]] = {
    **{name: partial(mapsto, how=how) for name, how in OURS.items()},
    "mapsto-recompute": partial(mapsto, recompute=True),
    "loop": loop,
    **{name: _peer(name) for name in PEERS},
}


def contest(name: str, work: Work) -> Contest:
    """A work as a contest."""
    ours = tuple(OURS) if name in SMALL else ("mapsto", *MORE.get(name, ()))
    makers = {n: partial(MAKERS[n], work) for n in (*ours, "loop", *PEERS)}
    return Contest(work.about, makers, ours, tolerance=work.tolerance, flops=work.flops)


GRADIENTS = {name: contest(name, work) for name, work in WORKS.items()}
