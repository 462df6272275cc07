"""The inner loop's parts: a differentiable optimizer, the inner gradient, the choice of what adapts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mapsto.learner import vmapped

Params = dict[str, Tensor]


class InnerOptimizer(nn.Module, ABC):
    """One differentiable step, and the state to begin with. Its own parameters, if any, are meta-learned."""

    @abstractmethod
    def init(self, params: Params) -> Any:
        """The state before the first step."""

    @abstractmethod
    def step(self, params: Params, grads: Params, state: Any) -> tuple[Params, Any]:
        """The parameters and the state after one step; nothing is changed in place."""


class SGD(InnerOptimizer):
    """Gradient descent, with momentum where asked for; equal to `torch.optim.SGD` (dampening 0)."""

    def __init__(self, lr: float, momentum: float = 0.0, nesterov: bool = False) -> None:
        super().__init__()
        if nesterov and not momentum:
            raise ValueError("nesterov wants a momentum above 0")
        self.lr, self.momentum, self.nesterov = lr, momentum, nesterov

    def init(self, params: Params) -> Params | None:
        return {name: torch.zeros_like(p) for name, p in params.items()} if self.momentum else None

    def step(self, params: Params, grads: Params, state: Params | None) -> tuple[Params, Params | None]:
        if state is not None:
            state = {name: self.momentum * v + grads[name] for name, v in state.items()}
            grads = {n: g + self.momentum * state[n] for n, g in grads.items()} if self.nesterov else state
        return {name: p - self.lr * grads[name] for name, p in params.items()}, state


class Adam(InnerOptimizer):
    """Kingma & Ba 2015, equal to `torch.optim.Adam`. The state is (first moments, second moments, step count)."""

    def __init__(self, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        super().__init__()
        self.lr, self.betas, self.eps = lr, betas, eps

    def init(self, params: Params) -> tuple[Params, Params, Tensor]:
        zeros = {name: torch.zeros_like(p) for name, p in params.items()}
        first = next(iter(params.values()))
        return zeros, dict(zeros), torch.zeros((), dtype=first.dtype, device=first.device)

    def step(self, params: Params, grads: Params, state: Any) -> tuple[Params, Any]:
        (b1, b2), (m, v, t) = self.betas, state
        t = t + 1
        m = {name: b1 * m[name] + (1 - b1) * g for name, g in grads.items()}
        v = {name: b2 * v[name] + (1 - b2) * g * g for name, g in grads.items()}
        rate, root = self.lr / (1 - b1**t), (1 - b2**t) ** 0.5
        # The square root has no derivative at 0, where a dead unit's second moment stays: 0 / eps is right there.
        safe = {name: torch.where(s > 0, s, 1).sqrt() * (s > 0) for name, s in v.items()}
        return {name: p - rate * m[name] / (safe[name] / root + self.eps) for name, p in params.items()}, (m, v, t)


def trainable(model: nn.Module, prefixes: Sequence[str] = ("",)) -> Params:
    """The model's unfrozen parameters whose names begin with one of the prefixes; a shared one is there once.

    Raises:
        ValueError: there are none.
    """
    chosen: Params = {
        name: p for name, p in model.named_parameters() if p.requires_grad and name.startswith(tuple(prefixes))
    }
    if not chosen:
        names = ", ".join(name for name, _ in model.named_parameters()) or "none at all"
        raise ValueError(f"no unfrozen parameter begins with any of {tuple(prefixes)}; the model's parameters: {names}")
    return chosen


def gradients(loss: Callable[[Params], Tensor], params: Params, differentiable: bool) -> Params:
    """The gradient of `loss` at `params`.

    Args:
        loss: scalar function of the parameters.
        params: where to take it.
        differentiable: keep the graph, so that the gradient can itself be differentiated (second order). Otherwise the
            result is a constant, and memory does not grow with the number of steps.

    Raises:
        ValueError: the loss does not depend on one of the parameters, so it would never adapt.
    """
    if vmapped():  # where torch.autograd.grad can't go

        def checked(at: Params) -> Tensor:
            value = loss(at)
            _refuse(_unused(value, at))  # torch.func.grad would call their gradient zero
            return value

        if differentiable:
            return torch.func.grad(checked)(params)
        with torch.no_grad():
            return torch.func.grad(checked)({name: p.detach() for name, p in params.items()})
    with torch.enable_grad():
        at = params if differentiable else {name: p.detach().requires_grad_() for name, p in params.items()}
        grads = torch.autograd.grad(loss(at), list(at.values()), create_graph=differentiable, allow_unused=True)
    _refuse([name for name, grad in zip(at, grads, strict=True) if grad is None])
    return dict(zip(at, grads, strict=True))


def _unused(value: Tensor, params: Params) -> list[str]:
    """The parameters that the graph of `value` does not reach."""
    unmet = {torch.autograd.graph.get_gradient_edge(p).node: name for name, p in params.items()}
    todo, seen = [value.grad_fn], set()
    while todo and unmet:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            unmet.pop(node, None)
            todo.extend(before for before, _ in node.next_functions)
    return list(unmet.values())


def _refuse(missing: list[str]) -> None:
    if missing:
        raise ValueError(
            f"the support loss does not depend on {', '.join(missing)}: freeze such parameters "
            "(requires_grad=False) or name those that adapt with adapts=(...)"
        )
