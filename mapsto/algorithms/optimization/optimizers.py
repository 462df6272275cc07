"""Inner optimizers: differentiable twins of torch.optim's, and learned rates."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mapsto.algorithms.optimization.inner import InnerOptimizer, Params


class SGD(InnerOptimizer):
    """Gradient descent, with momentum where asked for; equal to `torch.optim.SGD` (dampening 0)."""

    def __init__(self, lr: float, momentum: float = 0.0, nesterov: bool = False) -> None:
        super().__init__()
        if nesterov and not momentum:
            raise ValueError("nesterov wants a momentum above 0")
        self.lr, self.momentum, self.nesterov = lr, momentum, nesterov

    def init(self, params: Params) -> Params | None:
        return _zeros(params) if self.momentum else None

    def step(self, params: Params, grads: Params, state: Params | None, loss: Tensor) -> tuple[Params, Params | None]:
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
        zeros, first = _zeros(params), next(iter(params.values()))
        return zeros, dict(zeros), torch.zeros((), dtype=first.dtype, device=first.device)

    def step(self, params: Params, grads: Params, state: Any, loss: Tensor) -> tuple[Params, Any]:
        (b1, b2), (m, v, t) = self.betas, state
        t = t + 1
        m = {name: b1 * m[name] + (1 - b1) * g for name, g in grads.items()}
        v = {name: b2 * v[name] + (1 - b2) * g * g for name, g in grads.items()}
        rate, root = self.lr / (1 - b1**t), (1 - b2**t) ** 0.5
        fast = {name: p - rate * m[name] / (_sqrt(v[name]) / root + self.eps) for name, p in params.items()}
        return fast, (m, v, t)


class RMSProp(InnerOptimizer):
    """Tieleman & Hinton 2012, equal to `torch.optim.RMSprop`. The state is (mean squares, momentum buffers or None)."""

    def __init__(self, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, momentum: float = 0.0) -> None:
        super().__init__()
        self.lr, self.alpha, self.eps, self.momentum = lr, alpha, eps, momentum

    def init(self, params: Params) -> tuple[Params, Params | None]:
        return _zeros(params), _zeros(params) if self.momentum else None

    def step(self, params: Params, grads: Params, state: Any, loss: Tensor) -> tuple[Params, Any]:
        squares, buffers = state
        squares = {name: self.alpha * squares[name] + (1 - self.alpha) * g * g for name, g in grads.items()}
        moves = {name: g / (_sqrt(squares[name]) + self.eps) for name, g in grads.items()}
        if buffers is not None:
            moves = buffers = {name: self.momentum * v + moves[name] for name, v in buffers.items()}
        return {name: p - self.lr * moves[name] for name, p in params.items()}, (squares, buffers)


class CoordinateRates(InnerOptimizer):
    """Gradient descent with a learned rate for each coordinate, of either sign (Meta-SGD).

    Args:
        params: what will be stepped (`trainable(model)`).
        lr: every rate's first value, or the bounds (low, high) between which each is drawn uniformly.
    """

    def __init__(self, params: Params, lr: float | Sequence[float]) -> None:
        super().__init__()
        low, high = (lr, lr) if isinstance(lr, (int, float)) else lr
        self.rates = _learned({name: low + (high - low) * torch.rand_like(p) for name, p in params.items()})

    def init(self, params: Params) -> None:
        return None

    def step(self, params: Params, grads: Params, state: None, loss: Tensor) -> tuple[Params, None]:
        return {name: p - _of(self.rates, name) * grads[name] for name, p in params.items()}, None


class StepRates(InnerOptimizer):
    """Gradient descent with a learned rate for each parameter tensor and step (LSLR, MAML++). The state counts steps.

    Steps beyond those it has rates for, as one may take at test, use the last step's.

    Args:
        params: what will be stepped (`trainable(model)`).
        lr: every rate's first value.
        steps: how many steps have rates of their own.
    """

    def __init__(self, params: Params, lr: float, steps: int) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps={steps}: learned rates want at least one step")
        self.steps = steps
        self.rates = _learned({name: p.new_full((steps,), lr) for name, p in params.items()})

    def init(self, params: Params) -> int:
        return 0

    def step(self, params: Params, grads: Params, state: int, loss: Tensor) -> tuple[Params, int]:
        at = min(state, self.steps - 1)
        return {name: p - _of(self.rates, name)[at] * grads[name] for name, p in params.items()}, state + 1


def _zeros(params: Params) -> Params:
    return {name: torch.zeros_like(p) for name, p in params.items()}


def _sqrt(squares: Tensor) -> Tensor:
    """The square root; where a dead unit's mean square stays 0 it has no derivative, and a constant 0 is right."""
    return torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)


def _learned(rates: Params) -> nn.ParameterDict:
    # A parameter's own name may not hold dots; pairs, because a dict's items would be sorted.
    return nn.ParameterDict([(name.replace(".", "/"), nn.Parameter(rate.detach())) for name, rate in rates.items()])


def _of(rates: nn.ParameterDict, name: str) -> Tensor:
    key = name.replace(".", "/")
    if key not in rates:
        raise ValueError(f"there is no learned rate for {name}: make the rates for all parameters that will be stepped")
    return rates[key]
