"""Implicit MAML.

A. Rajeswaran, C. Finn, S. Kakade, S. Levine. Meta-Learning with Implicit Gradients. NeurIPS 2019.
https://arxiv.org/abs/1909.04630. Reference implementation: https://github.com/aravindr93/imaml_dev.

What differs. Here every inner step descends the regularised loss, as the paper's text has it; the reference takes its
steps on the plain loss, then one on the regulariser alone, and none on it at test (which is `lam` = 0 there). Here
conjugate gradient solves with I + H / lam, the paper's matrix; the reference solves with (1 + damping) I +
H / (lam + 10), damping 1. It starts from the query gradient, not from zero, so no step at all is the first-order
method, and it ends where the matrix is found not to be positive definite. The reference's Adam has eps = 1e-3.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_unflatten

from mapsto.algorithms.optimization.gradient_based import Adapted
from mapsto.algorithms.optimization.inner import InnerOptimizer, Params, gradients, refuse_learnable, trainable, unroll
from mapsto.algorithms.optimization.optimizers import SGD
from mapsto.applied import call, vmapped
from mapsto.episode import Examples, Tree
from mapsto.learner import MetaLearner
from mapsto.losses import cross_entropy


class IMAML(MetaLearner):
    """Learn the centre that a task's regularised solution is pulled to, by the implicit gradient (Algorithm 1 and 2).

    A task's parameters phi minimise L(phi, support) + lam / 2 |phi - theta|^2. Whatever path led there, the
    meta-gradient is (I + H / lam)^-1 g: H the Hessian of L, g the query gradient, both at phi (Lemma 1). Its memory
    does not grow with the inner steps. It is as exact as the inner problem is solved and conjugate gradient has
    converged; it can't itself be differentiated.

    Args:
        model: any module of one argument; all its unfrozen parameters adapt.
        lr: inner learning rate, for a mean cross-entropy. Plain gradient descent wants it below 2 / (lam + the largest
            curvature of L), which grows in meta-training: a gradient that does not know the path can't hold it back.
        steps: inner steps.
        lam: how strongly a task is held to the centre, above 0.
        cg_steps: conjugate gradient steps; one Hessian-vector product each, and one more.
        damping: added to I + H / lam as a multiple of I, for Hessians that are not positive definite.
        optimizer: takes the place of plain gradient descent with rate `lr`. It has nothing to meta-learn: the gradient
            does not know the path.
        criterion: `(prediction, y) -> scalar`, of support and query alike.

    Raises:
        ValueError: `lam` is not above 0, or the optimizer has parameters to be learned.
    """

    exact = False

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.1,
        steps: int = 16,
        lam: float = 2.0,
        cg_steps: int = 5,
        damping: float = 0.0,
        *,
        optimizer: InnerOptimizer | None = None,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__()
        trainable(model)  # complain now, not in the first task
        if lam <= 0:
            raise ValueError(f"lam={lam} leaves tasks unconnected to what is meta-learned: give a number above 0")
        self.model, self.steps, self.lam, self.cg_steps, self.damping = model, steps, lam, cg_steps, damping
        self.optimizer = optimizer or SGD(lr)
        refuse_learnable(self.optimizer, "an implicit gradient")
        self.criterion = criterion

    def adapt(self, support: Examples) -> Adapted:
        own = trainable(self.model)
        centre = {name: p.detach() for name, p in own.items()}
        with torch.no_grad():
            fast = unroll(self._objective(support, centre), centre, self.optimizer, self.steps or 0)
        leaves, spec = tree_flatten(support)
        solve = functools.partial(self._solve, list(own), spec)
        solution = _Implicit.apply(solve, len(own), *own.values(), *fast.values(), *leaves)
        return Adapted(dict(zip(own, solution, strict=True)), support.x)

    def predict(self, fast: Adapted, x: Tree) -> Tensor:
        return call(self.model, fast.params, x, fast.support_x)

    def _objective(self, support: Examples, centre: Params) -> Callable[[Params], Tensor]:
        """The regularised loss."""

        def value(params: Params) -> Tensor:
            distance = torch.stack([(params[name] - c).square().sum() for name, c in centre.items()]).sum()
            return self.criterion(call(self.model, params, support.x), support.y) + self.lam / 2 * distance

        return value

    def _solve(self, names: list[str], spec: Any, phi: list[Tensor], leaves: list[Tensor], g: list[Tensor]) -> Any:
        """(I + H / lam)^-1 g; the matrix is the Hessian of the regularised loss, divided by lam."""
        at = dict(zip(names, phi, strict=True))
        hessian = _hessian(self._objective(tree_unflatten(leaves, spec), at), at)

        def matrix(v: Params) -> Params:
            return {name: h / self.lam + self.damping * v[name] for name, h in hessian(v).items()}

        return conjugate_gradient(matrix, dict(zip(names, g, strict=True)), self.cg_steps).values()


def conjugate_gradient(matrix: Callable[[Params], Params], b: Params, steps: int) -> Params:
    """An approximate solution of `matrix(x) = b`, begun at x = b (Hestenes & Stiefel 1952).

    Args:
        matrix: multiplies a vector by a symmetric matrix; it is called `steps + 1` times (never where steps = 0).
        b: the right-hand side.
        steps: how many. They end early at a direction along which the matrix is not positive.
    """
    if not steps:
        return b
    x, image = b, matrix(b)
    r = p = {name: b[name] - image[name] for name in b}
    square = _dot(r, r)
    for _ in range(steps):
        image = matrix(p)
        curvature = _dot(p, image)
        # Within vmap one task may be done before another, so a task that is done goes on with zeros.
        going = curvature > 0
        rate = torch.where(going, square / curvature, 0)
        x = {name: x[name] + rate * p[name] for name in x}
        r = {name: r[name] - rate * image[name] for name in r}
        before, square = square, _dot(r, r)
        p = {name: torch.where(going, r[name] + square / before * p[name], 0) for name in p}
    return x


def _dot(a: Params, b: Params) -> Tensor:
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def _hessian(loss: Callable[[Params], Tensor], at: Params) -> Callable[[Params], Params]:
    """Multiplies by the Hessian of `loss` at a point; the graph of the gradient is built once."""
    with torch.enable_grad():  # a backward pass disables gradients
        if vmapped():
            pull = torch.func.vjp(lambda params: gradients(loss, params, differentiable=True)[0], at)[1]
            return lambda v: pull(v)[0]
        at = {name: p.detach().requires_grad_() for name, p in at.items()}
        grads, _ = gradients(loss, at, differentiable=True)

    def times(v: Params) -> Params:
        products = torch.autograd.grad(list(grads.values()), list(at.values()), list(v.values()), retain_graph=True)
        return dict(zip(at, products, strict=True))

    return times


class _Implicit(torch.autograd.Function):
    """A task's solution as a function of the centre: its value is given, its derivative is implicit."""

    generate_vmap_rule = True

    @staticmethod
    def forward(solve: Callable, number: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(phi.clone() for phi in tensors[number : 2 * number])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.solve, ctx.number, *tensors = inputs
        ctx.save_for_backward(*tensors[ctx.number :])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        phi, leaves = ctx.saved_tensors[: ctx.number], ctx.saved_tensors[ctx.number :]
        return None, None, *ctx.solve(phi, leaves, grads), *[None] * (ctx.number + len(leaves))
