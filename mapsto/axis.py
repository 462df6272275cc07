"""The one place where the task axis exists: a function of one task, applied to many."""

import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from mapsto.applied import TaskNorm
from mapsto.episode import Episode, Tree, unstack
from mapsto.processes import ALONE, over_processes

How = Literal["auto", "loop", "processes", "vmap"]
"""How `over_tasks` goes about many tasks; training knows two ways more (`mapsto.meta_gradient`)."""


def over_tasks(
    fn: Callable[..., Tree],
    *trees: Any,
    how: How = "auto",
    chunk: int | None = None,
    module: nn.Module | None = None,
) -> Tree:
    """Apply `fn`, written for one task, to many.

    Args:
        fn: takes one task's part of each tree, returns a tensor or a tree of them.
        trees: `Episode`s or other trees whose leaves have a leading `[tasks]` axis; or one list of single episodes
            (ragged tasks), which go one by one.
        how: "loop", one task after the other; "processes", shared out over a CPU's cores where gradients are disabled;
            "vmap", all at once; "auto", the fastest of them that is right.
        chunk: with vmap, at most so many tasks at once.
        module: the module that `fn` calls; by default the one whose bound method `fn` is.

    Returns:
        What `fn` returns, with a leading `[tasks]` axis.

    Raises:
        ValueError: an explicit "vmap" or "processes" that would be wrong or impossible; the message says why.
    """
    if how not in ("auto", "loop", "processes", "vmap"):
        raise ValueError(f"how={how!r} is none of 'auto', 'loop', 'processes' and 'vmap'")
    if how == "processes" and torch.is_grad_enabled():
        raise ValueError("how='processes' has no graph to give back: train with mapsto.fit, or disable gradients")
    owner = module if module is not None else _owner(fn)
    if vmaps(owner, trees[0], how):
        try:
            return _vmap(fn, trees, chunk)
        except _Refused as refusal:
            if how == "vmap":
                raise ValueError(str(refusal)) from None
            reason = str(refusal)
        except (RuntimeError, NotImplementedError) as failure:
            if how == "vmap":
                raise
            reason = str(failure).partition("\n")[0]
        result = _loop(fn, trees)  # which raises the same, where it is the function's own mistake
        if owner is not None:
            _VMAP_FAILED.add(owner)
        warnings.warn(f"tasks go one by one, because vmap failed: {reason}", stacklevel=2)
        return result
    if not torch.is_grad_enabled() and forks(owner, trees[0], how):
        shares = over_processes(lambda share: [fn(*part) for part in share], owner, list(_parts(trees)))
        return _stack([result for share in shares for result in share])
    return _loop(fn, trees)


def _loop(fn: Callable[..., Tree], trees: tuple) -> Tree:
    return _stack([fn(*parts) for parts in _parts(trees)])


def _parts(trees: tuple) -> Iterable[tuple]:
    return zip(*(trees if isinstance(trees[0], list) else map(_tasks, trees)), strict=True)


def _tasks(tree: Tree) -> Iterator[Tree]:
    if isinstance(tree, Episode):
        return iter(unstack(tree))
    leaves, spec = tree_flatten(tree)
    return (tree_unflatten(list(parts), spec) for parts in zip(*(leaf.unbind(0) for leaf in leaves), strict=True))


def _stack(results: list[Tree]) -> Tree:
    return tree_map(lambda *leaves: torch.stack(leaves), *results)


def _owner(fn: Callable) -> nn.Module | None:
    while isinstance(fn, functools.partial):
        fn = fn.func
    owner = fn if isinstance(fn, nn.Module) else getattr(fn, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


# ------------------------------------------------------------------------------------------------ vmap

CALL_BOUND = 16_000
"""Numbers in a task (inputs and targets) below which a CPU spends its time on calls."""

_VMAP_FAILED: WeakSet[nn.Module] = WeakSet()


def vmaps(module: nn.Module | None, tasks: Tree, how: str = "auto") -> bool:
    """Whether `over_tasks` would use vmap for this module and these tasks.

    Raises:
        ValueError: an explicit "vmap" that would be wrong or impossible.
    """
    if how in ("loop", "processes"):
        return False
    obstacle = "tasks of different shapes can't be stacked" if isinstance(tasks, list) else _obstacle(module)
    if how == "vmap":
        if obstacle:
            raise ValueError(f"how='vmap' is not possible: {obstacle}; use how='loop' or how='auto'")
        return True
    if obstacle or module is None or module in _VMAP_FAILED:
        return False
    trained = any(isinstance(part, _ConvNd) and part.weight.requires_grad for part in module.modules())
    if tree_leaves(tasks)[0].device.type == "cuda" or not trained:
        return True
    # On a CPU vmapped convolutions are grouped ones: they win only where a task is so small that calls cost more than
    # arithmetic (measured: even at 30 images of 28x28 a task).
    return _numbers(tasks) < CALL_BOUND


def _numbers(tasks: Tree) -> int:
    """How many numbers one task has."""
    leaves = tree_leaves(tasks[0] if isinstance(tasks, list) else tasks)
    return sum(leaf.numel() if isinstance(tasks, list) else leaf[0].numel() for leaf in leaves)


def _obstacle(module: nn.Module | None) -> str | None:
    """Why tasks of this module cannot be vmapped; None where they can.

    Measured on torch 2.13 in float64: second derivatives under vmap through batch, instance and layer norm are silently
    wrong when their affine parameters are adapted; group and rms norm are right.
    """
    for name, part in module.named_modules() if module is not None else ():
        what = f"{name or 'the module itself'} ({type(part).__name__})"
        if isinstance(part, (_BatchNorm, _InstanceNorm, nn.LayerNorm)):
            return f"{what} would give wrong second derivatives under vmap; mapsto.models.norm has norms that are right"
        if isinstance(part, nn.RNNBase):
            return f"{what} has no rule for vmap"
    return _in_order(module)


def _in_order(module: nn.Module | None) -> str | None:
    """Why tasks of this module must go one after the other; None where they need not."""
    for name, part in module.named_modules() if module is not None else ():
        what = f"{name or 'the module itself'} ({type(part).__name__})"
        if getattr(part, "sequential", False):
            return f"{what} takes its tasks one after the other"
        own = isinstance(part, TaskNorm) and part.stats == "running"
        if part.training and (own or (isinstance(part, _NormBase) and part.track_running_stats)):
            return f"{what} updates its running statistics task by task"
    return None


class _Refused(Exception):
    """A function that vmap would silently get wrong was met."""


class _RefuseWrong(TorchFunctionMode):
    """Refuses the functional forms of the norms of `_obstacle`, which no look at the modules can find."""

    WRONG = frozenset(
        {
            torch.nn.functional.batch_norm, torch.nn.functional.instance_norm, torch.nn.functional.layer_norm,
            torch.batch_norm, torch.instance_norm, torch.layer_norm, torch.native_layer_norm, torch.native_batch_norm,
        }
    )  # fmt: skip

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        if func in self.WRONG:
            raise _Refused(
                f"torch's {func.__name__} was called: under vmap its second derivatives are wrong; use how='loop'"
            )
        return func(*args, **(kwargs or {}))


def _vmap(fn: Callable[..., Tree], trees: tuple, chunk: int | None) -> Tree:
    state = torch.get_rng_state()
    try:
        with _RefuseWrong():
            return torch.vmap(fn, randomness="different", chunk_size=chunk)(*trees)
    except Exception:
        torch.set_rng_state(state)
        raise


# ------------------------------------------------------------------------------------------------ processes

WORTH_FORKING = 500_000
"""Numbers in all tasks together above which copying the process costs little beside the work."""

LARGE = 1_000_000
"""Numbers in a task above which all cores can as well work on one (100 images of 84x84), in the memory of one."""


def forks(module: nn.Module | None, tasks: Tree, how: str = "auto") -> bool:
    """Whether tasks would be shared out over processes, one a core.

    Raises:
        ValueError: an explicit "processes" that would be wrong or impossible.
    """
    if how not in ("auto", "processes"):
        return False
    leaf = tree_leaves(tasks)[0]
    obstacle = _in_order(module)
    if sys.platform != "linux" or leaf.device.type != "cpu" or torch.cuda.is_initialized():
        obstacle = "it wants Linux and tasks on a CPU, in a process that does not use a GPU"
    elif module is not None and _draws(module):
        obstacle = "dropout draws random numbers, each of which must be drawn once"
    elif module in ALONE:
        obstacle = "the learner draws random numbers, or a process of it failed"
    if how == "processes":
        if obstacle:
            raise ValueError(f"how='processes' is not possible: {obstacle}; use how='loop' or how='auto'")
        return True
    number = len(tasks) if isinstance(tasks, list) else leaf.shape[0]
    worth = number * _numbers(tasks) >= WORTH_FORKING and _numbers(tasks) <= LARGE
    worth = worth and number > 1 and torch.get_num_threads() > 1
    return worth and obstacle is None and module is not None


def _draws(module: nn.Module) -> bool:
    return any(isinstance(part, _DropoutNd) and part.training and part.p for part in module.modules())
