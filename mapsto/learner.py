"""The contract of every meta-learner, and the one place where the task axis exists."""

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from mapsto.episode import Episode, Episodes, Examples, Tree, unstack
from mapsto.losses import cross_entropy

How = Literal["auto", "loop", "vmap"]


class MetaLearner(nn.Module, ABC):
    """A mapping from a task's support set to a model; `parameters()` is what is learned from many tasks.

    Subclasses write two methods for ONE task; `forward` batches them. Nothing about a task is stored on the module.

    Attributes:
        criterion: `(prediction, y) -> scalar`, default the mean cross-entropy.
        steps: inner steps of `adapt`, which `evaluate` may override; None for learners that take none.
        exact: the gradient of `loss` is the gradient of the whole meta-objective (not so for first-order methods).
        sequential: tasks change the learner's buffers one after the other, so they cannot go side by side.
    """

    criterion: Callable[[Tensor, Tree], Tensor] = staticmethod(cross_entropy)
    steps: int | None = None
    exact: bool = True
    sequential: bool = False

    @abstractmethod
    def adapt(self, support: Examples) -> Tree:
        """All that was learned from the task: adapted parameters, prototypes, a memory, a context."""

    @abstractmethod
    def predict(self, fast: Tree, x: Tree) -> Tensor:
        """The adapted model's outputs `[n, ...]` for inputs `x` `[n, ...]`."""

    def loss(self, episode: Episode) -> Tensor:
        """The criterion of the query set after adaptation to the support set: one task, a scalar."""
        prediction = self.predict(self.adapt(episode.support), episode.query.x)
        return self.criterion(prediction, episode.query.y)

    def forward(self, episodes: Episodes, how: How = "auto", chunk: int | None = None) -> Tensor:
        """The mean loss over tasks, a scalar; `how` and `chunk` as in `over_tasks`."""
        return over_tasks(self.loss, episodes, how=how, chunk=chunk).mean()


# ------------------------------------------------------------------------------------------------ the task axis


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
        how: "loop", one task after the other; "vmap", all at once; "auto", vmap where it is right and faster, else
            the loop.
        chunk: with vmap, at most so many tasks at once.
        module: the module that `fn` calls; by default the one whose bound method `fn` is.

    Returns:
        What `fn` returns, with a leading `[tasks]` axis.

    Raises:
        ValueError: an explicit "vmap" that would be wrong or impossible; the message names the module.
    """
    if how not in ("auto", "loop", "vmap"):
        raise ValueError(f"how={how!r} is none of 'auto', 'loop' and 'vmap'")
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
    return _loop(fn, trees)


def _loop(fn: Callable[..., Tree], trees: tuple) -> Tree:
    if isinstance(trees[0], list):
        return _stack([fn(*parts) for parts in zip(*trees, strict=True)])
    return _stack([fn(*parts) for parts in zip(*map(_tasks, trees), strict=True)])


def vmaps(module: nn.Module | None, tasks: Tree, how: How = "auto") -> bool:
    """Whether `over_tasks` would use vmap for this module and these tasks.

    Raises:
        ValueError: an explicit "vmap" that would be wrong or impossible.
    """
    if how == "loop":
        return False
    obstacle = "tasks of different shapes can't be stacked" if isinstance(tasks, list) else _obstacle(module)
    if how == "vmap":
        if obstacle:
            raise ValueError(f"how='vmap' is not possible: {obstacle}; use how='loop' or how='auto'")
        return True
    if obstacle or module is None or module in _VMAP_FAILED:
        return False
    leaves = tree_leaves(tasks)
    if leaves[0].device.type == "cuda" or not any(isinstance(part, _ConvNd) for part in module.modules()):
        return True
    # On a CPU vmapped convolutions are grouped ones: they win only where a task is so small that calls cost more than
    # arithmetic (measured: even at 30 images of 28x28 a task).
    return sum(leaf[0].numel() for leaf in leaves) < CALL_BOUND


CALL_BOUND = 16_000
"""Numbers in a task (inputs and targets) below which a CPU spends its time on calls."""


class _ModuleSet:
    """Modules by identity, held weakly."""

    def __init__(self) -> None:
        import weakref

        self._refs: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()

    def add(self, module: nn.Module) -> None:
        self._refs[id(module)] = module

    def __contains__(self, module: nn.Module) -> bool:
        return self._refs.get(id(module)) is module


_VMAP_FAILED = _ModuleSet()


def _owner(fn: Callable) -> nn.Module | None:
    while isinstance(fn, functools.partial):
        fn = fn.func
    owner = fn if isinstance(fn, nn.Module) else getattr(fn, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _obstacle(module: nn.Module | None) -> str | None:
    """Why tasks of this module cannot be vmapped; None where they can.

    Measured on torch 2.13 in float64: second derivatives under vmap through batch, instance and layer norm are silently
    wrong when their affine parameters are adapted; group and rms norm are right.
    """
    for name, part in module.named_modules() if module is not None else ():
        what = f"{name or 'the module itself'} ({type(part).__name__})"
        if isinstance(part, MetaLearner) and part.sequential:
            return f"{what} takes its tasks one after the other"
        if isinstance(part, (_BatchNorm, _InstanceNorm, nn.LayerNorm)):
            return f"{what} would give wrong second derivatives under vmap; mapsto.models.norm has norms that are right"
        if isinstance(part, nn.RNNBase):
            return f"{what} has no rule for vmap"
        if isinstance(part, TaskNorm) and part.stats == "running" and part.training:
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


def _tasks(tree: Tree) -> Iterator[Tree]:
    if isinstance(tree, Episode):
        return iter(unstack(tree))
    leaves, spec = tree_flatten(tree)
    return (tree_unflatten(list(parts), spec) for parts in zip(*(leaf.unbind(0) for leaf in leaves), strict=True))


def _stack(results: list[Tree]) -> Tree:
    return tree_map(lambda *leaves: torch.stack(leaves), *results)


# ------------------------------------------------------------------------------------------------ the model, applied


class TaskNorm(nn.Module, ABC):
    """A norm whose source of statistics is an explicit choice (`mapsto.models.norm`)."""

    stats: Literal["transductive", "support", "running"]


_support_rows: ContextVar[int | None] = ContextVar("support_rows", default=None)


def support_rows() -> int | None:
    """How many leading rows of the current input are the support set's; None where all of it is one set."""
    return _support_rows.get()


@contextmanager
def _leading_support(rows: int) -> Iterator[None]:
    token = _support_rows.set(rows)
    try:
        yield
    finally:
        _support_rows.reset(token)


def call(model: nn.Module, params: dict[str, Tensor], x: Tree, support_x: Tree = None) -> Tensor:
    """`model(x)` with `params` in place of its own.

    Args:
        model: any module that takes one argument.
        params: replacements by name, as in `torch.func.functional_call`.
        x: inputs `[n, ...]`.
        support_x: the task's support inputs, from which norms with `stats="support"` take their statistics: they run
            before `x` through the same pass. Without such a norm they are not used.
    """
    if support_x is None or not any(isinstance(m, TaskNorm) and m.stats == "support" for m in model.modules()):
        return functional_call(model, params, (x,))
    rows = tree_leaves(support_x)[0].shape[0]
    with _leading_support(rows):
        both = functional_call(model, params, (tree_map(lambda *parts: torch.cat(parts), support_x, x),))
    return both[rows:]


def vmapped() -> bool:
    """Whether the caller runs within vmap (or another transform of torch.func)."""
    return torch._C._functorch.maybe_current_level() is not None  # type: ignore[attr-defined]


def norm_of(module: nn.Module) -> str:
    """Where a module's batch norms take their statistics from at test: it belongs beside every score.

    "transductive" (from the queries together), "support", "running", or "none" where no norm mixes examples.
    """
    modes = {part.stats for part in module.modules() if isinstance(part, TaskNorm)}
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            modes.add("running" if part.running_mean is not None else "transductive")
    return next((mode for mode in ("transductive", "support", "running") if mode in modes), "none")
