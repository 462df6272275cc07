"""PyTorch's other packages, each used the way its own MAML example does."""

# pyright: reportMissingImports=false

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contest import Entry, NotOffered
from benchmarks.gradients import entry
from benchmarks.works import PlainConv4, Work, begin, tasks_on
from mapsto.episode import unstack
from mapsto.losses import mse

NO_PROTONET = "no prototypical networks"
NO_FIRST_ORDER = "no first order"


def higher(work: Work, device: str) -> Entry:
    """Facebook's higher 0.2.1: `innerloop_ctx` a task, as in examples/maml-omniglot.py."""
    import higher as package

    if not work.steps:
        raise NotOffered(NO_PROTONET)
    if work.first_order:
        raise NotOffered("its first order gives no gradient")
    model = begin(work, work.plain(), device)
    inner = torch.optim.SGD(model.parameters(), lr=work.lr)
    tasks = unstack(tasks_on(work, device))

    def step() -> Tensor:
        total = torch.zeros((), device=device)
        for support, query in tasks:
            with package.innerloop_ctx(model, inner, copy_initial_weights=False) as (fast, optimizer):
                for _ in range(work.steps):
                    optimizer.step(work.criterion(fast(support.x), support.y))
                loss = work.criterion(fast(query.x), query.y) / len(tasks)
                loss.backward()
                total += loss.detach()
        return total

    return entry(model, step)


def torchopt(work: Work, device: str) -> Entry:
    """TorchOpt 0.7.3: `MetaSGD` and state dicts, as in its few-shot example."""
    import torchopt as package

    if not work.steps:
        raise NotOffered(NO_PROTONET)
    if work.first_order:
        raise NotOffered(NO_FIRST_ORDER)
    model = begin(work, work.plain(), device)
    inner = package.MetaSGD(model, lr=work.lr)
    tasks = unstack(tasks_on(work, device))
    own = dict(model.named_parameters())

    def step() -> Tensor:
        total = torch.zeros((), device=device)
        weights = package.extract_state_dict(model, by="reference", detach_buffers=True)
        state = package.extract_state_dict(inner, by="reference")
        for support, query in tasks:
            for _ in range(work.steps):
                inner.step(work.criterion(model(support.x), support.y))
            loss = work.criterion(model(query.x), query.y) / len(tasks)
            loss.backward()
            total += loss.detach()
            package.recover_state_dict(model, weights)
            package.recover_state_dict(inner, state)
        assert dict(model.named_parameters()).keys() == own.keys()
        return total

    return entry(model, step)


def iteryne(work: Work, device: str) -> Entry:
    """iteryne 0.1.0: clone, adapt, backward a task, as in its `MAML`'s docstring."""
    import iteryne as package

    if not work.steps:
        raise NotOffered(NO_PROTONET)
    model = begin(work, work.plain(), device)
    maml = package.MAML(model, inner_lr=work.lr, inner_steps=work.steps, first_order=work.first_order)
    tasks = unstack(tasks_on(work, device))

    def step() -> Tensor:
        total = torch.zeros((), device=device)
        for support, query in tasks:
            learner = maml.clone()
            for _ in range(maml.inner_steps):
                learner.adapt(work.criterion(learner(support.x), support.y))
            loss = work.criterion(learner(query.x), query.y) / len(tasks)
            loss.backward()
            total += loss.detach()
        return total

    return entry(model, step)


class Backbone(nn.Module):
    """A plain model's body for metalearn: every forward takes keywords, and norms are its own.

    (Through torch's, its second derivatives come out wrong, in both backends.)
    """

    def __init__(self, body: nn.Sequential, mean: bool) -> None:
        from metalearn.nn_models.basic_layers import BatchNorm

        super().__init__()
        self.body, self.mean = body, mean
        for i, layer in enumerate(body):
            if isinstance(layer, nn.BatchNorm2d):
                body[i] = BatchNorm(layer.num_features, track_running_stats=False)

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        z = self.body(x)
        return z.mean((2, 3)) if self.mean else z


class Head(nn.Linear):
    """A linear layer that takes keywords."""

    def forward(self, input: Tensor, **_: Any) -> Tensor:
        return super().forward(input)


def _parts(plain: nn.Module) -> tuple[Backbone, Head]:
    """A plain model taken apart into what metalearn wants."""
    if isinstance(plain, PlainConv4):
        body, last, mean = plain.body, plain.head, plain.down == "stride"
    else:
        assert isinstance(plain, nn.Sequential)
        body, last, mean = nn.Sequential(*list(plain)[:-1]), plain[-1], False
    assert isinstance(last, nn.Linear)
    return Backbone(body, mean), Head(last.in_features, last.out_features)


def metalearn(work: Work, device: str) -> Entry:
    """parallel-metalearn 0.5.6: `MAML.step` with a meta-optimizer whose rate is 0, as in its README.

    Small models take its vmap, convolutions its sequential backend, which is the faster one for them on a CPU.
    """
    from metalearn.algorithms import MAML
    from metalearn.inner_optimizers import InnerSGD
    from metalearn.loss.base import BaseLoss
    from metalearn.model_wrappers import MAML_Model

    if not work.steps:
        raise NotOffered("normalises support and query apart")

    class Loss(BaseLoss):
        def forward(self, out_dict: dict, targets: Tensor, model_states: object = None, **_: Any) -> tuple:
            loss = work.criterion(out_dict["logits"], targets)
            return loss, loss.detach()

    backend = "vmap" if work.criterion is mse or device == "cuda" else "sequential"
    model = MAML_Model(*_parts(work.plain()))
    begin(work, model, device)
    algorithm = MAML(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        inner_optimizer=InnerSGD(
            model.get_fast_weights(), first_order=work.first_order, inner_lr=work.lr, learn_lr=False
        ),
        support_loss_fn=Loss(),
        inner_steps=work.steps,
        backend=backend,
        device=torch.device(device),
    )
    (support_x, support_y), (query_x, query_y) = tasks_on(work, device)
    # The sequential backend divides the loss that it reports (not its gradient) by the tasks twice: we undo that.
    twice = len(support_x) if backend == "sequential" else 1
    return entry(model, lambda: twice * algorithm.step(iter([(support_x, support_y, query_x, query_y)]))[0])
