"""The inner loop and its parts: the contract of its optimizers, the inner gradient, the choice of what adapts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mapsto.algorithms.optimization.recompute import recomputed
from mapsto.applied import vmapped

Params = dict[str, Tensor]


class InnerOptimizer(nn.Module, ABC):
    """One differentiable step, and the state to begin with. Its own parameters, if any, are meta-learned.

    Within a learner one object serves every task, so what belongs to a task goes into the state, never onto the module.
    """

    @abstractmethod
    def init(self, params: Params) -> Any:
        """The state before the first step."""

    @abstractmethod
    def step(self, params: Params, grads: Params, state: Any, loss: Tensor) -> tuple[Params, Any]:
        """One step; nothing is changed in place.

        Args:
            params: where the step begins, by name.
            grads: the gradient there, by the same names.
            state: that of the step before, or `init`'s.
            loss: the scalar loss there, which learned optimizers may read.

        Returns:
            The parameters after the step, and the state to pass to the next.
        """


def trainable(model: nn.Module, prefixes: str | Sequence[str] = "") -> Params:
    """The model's unfrozen parameters whose names begin so; a shared one is there once.

    Args:
        model: any module.
        prefixes: the beginning of the names, or several; "" takes all.

    Raises:
        ValueError: there are none.
    """
    beginnings = prefixes if isinstance(prefixes, str) else tuple(prefixes)
    chosen: Params = {n: p for n, p in model.named_parameters() if p.requires_grad and n.startswith(beginnings)}
    if not chosen:
        names = ", ".join(name for name, _ in model.named_parameters()) or "none at all"
        raise ValueError(f"no unfrozen parameter begins with {beginnings!r}; the model's parameters: {names}")
    return chosen


def refuse_learnable(optimizer: InnerOptimizer, who: str) -> None:
    """Complain of parameters of the optimizer's own, which no meta-gradient would reach."""
    if any(p.requires_grad for p in optimizer.parameters()):
        raise ValueError(
            f"{type(optimizer).__name__} has parameters that {who} can't learn: freeze them (requires_grad=False) or "
            "use MAML"
        )


def unroll(
    loss: Callable[[Params], Tensor],
    params: Params,
    optimizer: InnerOptimizer,
    steps: int,
    differentiable: bool = True,
    recompute: Sequence[Tensor] | None = None,
) -> Params:
    """The parameters after some steps of an inner optimizer; the model and `params` stay as they are.

    Args:
        loss: scalar function of the parameters.
        params: where to begin, by name; `trainable(model)` are the model's own.
        optimizer: takes the steps.
        steps: how many.
        differentiable: let meta-gradients flow through the inner gradients (second order), as in `gradients`.
        recompute: keep no step's graph but compute it again in the backward pass, so that memory hardly grows with the
            steps; these are then the tensors besides `params` that want a meta-gradient. Not within vmap.

    Returns:
        The parameters after the last step, by the same names. They are differentiable with respect to `params`, to the
        optimizer's own parameters and, of second order, to whatever else the loss depends on.
    """

    def step(params: Params, state: Any) -> tuple[Params, Any]:
        grads, value = gradients(loss, params, differentiable)
        return optimizer.step(params, grads, state, value)

    again = recompute is not None and differentiable and torch.is_grad_enabled() and not vmapped()
    state = optimizer.init(params)
    for _ in range(steps):
        params, state = recomputed(step, (params, state), recompute or ()) if again else step(params, state)
    return params


def gradients(loss: Callable[[Params], Tensor], params: Params, differentiable: bool) -> tuple[Params, Tensor]:
    """The gradient of `loss` at `params`, and its value there.

    Args:
        loss: scalar function of the parameters.
        params: where to take it. Each counts as a variable of its own, also where one was computed from another.
        differentiable: keep the graph, so that both can themselves be differentiated (second order). Otherwise, and
            wherever gradients are disabled, both are constants, and memory does not grow with the number of steps.

    Returns:
        The gradient by the parameters' names, and the loss, a scalar.

    Raises:
        ValueError: the loss does not depend on one of the parameters, so it would never adapt.
    """
    differentiable = differentiable and torch.is_grad_enabled()
    if vmapped():  # where torch.autograd.grad can't go

        def checked(at: Params) -> Tensor:
            value = loss(at)
            _refuse(_unused(value, at))  # torch.func would call their gradient zero
            return value

        if differentiable:
            return torch.func.grad_and_value(checked)(params)
        with torch.no_grad():
            return torch.func.grad_and_value(checked)({name: p.detach() for name, p in params.items()})
    with torch.enable_grad():
        at = {
            name: p.view_as(p) if differentiable and p.requires_grad else p.detach().requires_grad_()
            for name, p in params.items()
        }
        value = loss(at)
        grads = torch.autograd.grad(value, list(at.values()), create_graph=differentiable, allow_unused=True)
    _refuse([name for name, grad in zip(at, grads, strict=True) if grad is None])
    return dict(zip(at, grads, strict=True)), value if differentiable else value.detach()


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
