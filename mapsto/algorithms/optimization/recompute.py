"""Inner steps that keep no graph: each is computed again when the meta-gradient comes back through it.

Memory then holds one step's graph, and per step only the parameters (T. Chen et al. Training Deep Nets with Sublinear
Memory Cost. 2016. https://arxiv.org/abs/1604.06174), for more time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from mapsto.episode import Tree


def recomputed(step: Callable[..., Tree], trees: Tree, others: Sequence[Tensor]) -> Tree:
    """`step(*trees)`, whose graph is made only in the backward pass.

    Args:
        step: a function of the trees whose gradients are wanted; it has no random numbers in it.
        trees: its arguments.
        others: the other tensors that it depends on and that want a gradient.

    Returns:
        What `step` returns, differentiable once with respect to the arguments and the others.
    """
    leaves, spec = tree_flatten(trees)
    others = [other for other in others if all(other is not leaf for leaf in leaves)]
    made: list[TreeSpec] = []

    def run(tensors: Sequence[Any]) -> list[Any]:
        results, result_spec = tree_flatten(step(*tree_unflatten(list(tensors), spec)))
        made[:] = [result_spec]
        return results

    results = _Recomputed.apply(run, len(leaves), *leaves, *others)
    return tree_unflatten(list(results), made[0])


class _Recomputed(Function):
    @staticmethod
    def forward(ctx: Any, run: Callable, count: int, *tensors: Any) -> Any:
        ctx.run, ctx.count = run, count
        ctx.rest = [None if isinstance(t, Tensor) else t for t in tensors[:count]]
        ctx.places = [i for i, t in enumerate(tensors) if isinstance(t, Tensor)]
        ctx.save_for_backward(*(t for t in tensors if isinstance(t, Tensor)))
        ctx.set_materialize_grads(False)
        return tuple(run(tensors[:count]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        tensors = dict(zip(ctx.places, ctx.saved_tensors, strict=True))
        needed = [i for i in ctx.places if ctx.needs_input_grad[2 + i]]
        with torch.enable_grad():
            at = {i: t.detach().requires_grad_(i in needed) for i, t in tensors.items() if i < ctx.count}
            results = ctx.run([at.get(i, other) for i, other in enumerate(ctx.rest)])
            pairs = [(r, g) for r, g in zip(results, grads, strict=True) if g is not None and r.requires_grad]
            outputs, given = zip(*pairs, strict=True) if pairs else ((), ())
            found = torch.autograd.grad(outputs, [at.get(i, tensors[i]) for i in needed], given, allow_unused=True)
        by_place = dict(zip(needed, found, strict=True))
        return (None, None, *(by_place.get(i) for i in range(len(ctx.needs_input_grad) - 2)))
