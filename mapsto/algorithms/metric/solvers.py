"""Convex problems of one task, solved to convergence: ridge regression, a support vector machine, logistic regression.

All vmap: the numbers of iterations are fixed.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

INTERIOR_STEPS = 20
"""Of the interior-point method; 15 are nearly always enough, and those too many change nothing."""

CLOSE = 1e-12
"""The duality gap of a constraint at which it stops, beside the size of the solution."""

CORRECTIONS = 3
"""Of the constraints that it finds active, most of which find nothing to correct."""

NEWTON_STEPS = 10
"""Of logistic regression; for features of length 1 and a cost of 1 half as many are enough."""


def ridge(x: Tensor, y: Tensor, penalty: Tensor | float) -> Tensor:
    """The W `[d, k]` that minimises ||x W - y||^2 + penalty ||W||^2 (Bertinetto et al. 2019).

    Args:
        x: `[n, d]`. Where n < d an n by n system is solved in place of a d by d one (Woodbury's identity).
        y: `[n, k]`.
        penalty: more than 0.
    """
    n, d = x.shape
    if n < d:
        return x.T @ torch.linalg.solve(x @ x.T + penalty * torch.eye(n).to(x), y)
    return torch.linalg.solve(x.T @ x + penalty * torch.eye(d).to(x), x.T @ y)


def crammer_singer(kernel: Tensor, y: Tensor, cost: float) -> Tensor:
    """The dual variables A `[n, way]` of the multi-class support vector machine (Crammer & Singer 2001).

    They minimise tr(A' kernel A) / 2 - tr(A' y) where A <= cost y and every row sums to 0. A function of the kernel
    with derivatives of any order, wherever no constraint is on the verge of becoming active.

    Args:
        kernel: `[n, n]`, positive definite, in float64 (as the others).
        y: one-hot `[n, way]`.
        cost: the largest dual variable.
    """
    n, way = y.shape
    # The rows that sum to 0 are spanned by an orthonormal basis [way, way - 1], so no equality is left:
    # A = G basis', and the Hessian of vec(G) is the kernel's Kronecker product with an identity.
    basis = torch.linalg.qr(torch.eye(way).to(y)[:, 1:] - 1 / way)[0]
    full = _kronecker(torch.eye(n).to(y), basis)  # [n way, n (way - 1)]
    linear = full.T @ y.flatten()
    # In units in which the kernel's diagonal is about 1, and so are the dual variables that no cost bounds.
    size = kernel.detach().diagonal().mean()
    hessian, bound = _kronecker(kernel / size, torch.eye(way - 1).to(y)), size * cost * y.flatten()
    with torch.no_grad():
        constants = (hessian.detach(), linear, full, bound)
        active = _active(*constants, full.T @ _inside(y, size * cost), (size * cost).clamp(max=1.0))
        for _ in range(CORRECTIONS):
            g, dual = _stationary(*constants, active)
            active = torch.where(active > 0, dual > 0, full @ g > bound).to(y)
    g, _ = _stationary(hessian, linear, full, bound, active)
    return (full @ g).view(n, way) / size


def _inside(y: Tensor, cost: Tensor) -> Tensor:
    """Dual variables `[n way]` that meet every constraint strictly."""
    return (cost / 2 * (y - (1 - y) / (y.shape[1] - 1))).flatten()


def _active(hessian: Tensor, linear: Tensor, full: Tensor, bound: Tensor, g: Tensor, size: Tensor) -> Tensor:
    """Which constraints `full g <= bound` are active, 1 or 0, where g' hessian g / 2 - linear' g is least.

    A primal-dual interior-point method, whose steps are the same for every task of a vmap, from an inner point `g`;
    `size` is that of the solution.
    """
    dual = torch.ones_like(bound)
    for _ in range(INTERIOR_STEPS):
        slack = bound - full @ g
        gap = (slack * dual).mean()
        going = (gap > CLOSE * size).to(gap)
        target = 0.1 * gap
        ratio = dual / slack
        residual = hessian @ g - linear + full.T @ (target / slack)
        step = -torch.linalg.solve(hessian + full.T @ (ratio[:, None] * full), residual)
        slack_step = -(full @ step)
        dual_step = target / slack - dual - ratio * slack_step
        length = going * 0.99 * torch.minimum(_reach(slack, slack_step), _reach(dual, dual_step))
        g, dual = g + length * step, dual + length * dual_step
    return (dual * size > bound - full @ g).to(bound)


def _stationary(hessian: Tensor, linear: Tensor, full: Tensor, bound: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """The g, and the constraints' multipliers, at which the active constraints hold with equality and no others count.

    A trace of regularisation keeps the system solvable where too many are active.
    """
    top = torch.cat([hessian, full.T], 1)
    bottom = torch.cat([active[:, None] * full, torch.diag(active - 1 - 1e-15)], 1)
    solution = torch.linalg.solve(torch.cat([top, bottom]), torch.cat([linear, active * bound]))
    return solution[: len(linear)], solution[len(linear) :]


def _reach(value: Tensor, step: Tensor) -> Tensor:
    """The largest part of the step, at most all, after which no value is negative."""
    return torch.where(step < 0, -value / step.clamp(max=-1e-300), torch.ones_like(value)).amin().clamp(max=1.0)


def logistic_regression(z: Tensor, y: Tensor, cost: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weights `[d, way]` and biases `[way]` that minimise ||W||^2 / 2 + cost * the summed cross-entropy.

    By Newton's method, in as many dimensions as there are examples where the features have more. Biases are free, and
    sum to 0. In float64, as the other solvers.

    Args:
        z: features `[n, d]`.
        y: class probabilities `[n, way]`.
        cost: what scikit-learn calls C.
    """
    way, (x, y) = y.shape[1], (z.double(), y.double())
    axes = None
    if len(x) < x.shape[1]:
        axes, upper = torch.linalg.qr(x.T)  # the weights are a combination of the examples
        x = upper.T
    x = pad(x, (0, 1), value=1.0)
    size = x.shape[1]
    bias = torch.zeros(size).to(x)
    bias[-1] = 1.0
    # The penalty's part of the Hessian; all biases together could move at will, which the last term forbids.
    fixed = _kronecker((1 - bias).diag(), torch.eye(way).to(x)) + _kronecker(bias.diag(), torch.ones(way, way).to(x))
    weight = torch.zeros(size, way).to(x)
    for _ in range(NEWTON_STEPS):
        p = (x @ weight).softmax(1)
        gradient = cost * x.T @ (p - y) + (1 - bias)[:, None] * weight
        spread = p.diag_embed() - p[:, :, None] * p[:, None, :]
        hessian = cost * _flat(torch.einsum("ni,nab,nj->iajb", x, spread, x)) + fixed
        weight = weight - torch.linalg.solve(hessian, gradient.flatten()).view(size, way)
    coefficients = weight[:-1] if axes is None else axes @ weight[:-1]
    return coefficients.to(z.dtype), weight[-1].to(z.dtype)


def _kronecker(a: Tensor, b: Tensor) -> Tensor:
    """torch.kron, which fails for a matrix of one column with odd strides."""
    return _flat(a[:, None, :, None] * b[:, None, :])


def _flat(blocks: Tensor) -> Tensor:
    """`[a, b, c, d]` to `[a b, c d]`."""
    return blocks.flatten(2).flatten(0, 1)
