"""A model, applied to a task: with other parameters, and with norms whose statistics are an explicit choice."""

from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map

from mapsto.episode import Tree


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

    "transductive" (from the queries together, or a learner that refines its predictions on them), "support",
    "running", or "none" where nothing mixes examples.
    """
    modes = {part.stats for part in module.modules() if isinstance(part, TaskNorm)}
    for part in module.modules():
        if getattr(part, "transductive", False):
            modes.add("transductive")
        if isinstance(part, _BatchNorm):
            modes.add("running" if part.running_mean is not None else "transductive")
    return next((mode for mode in ("transductive", "support", "running") if mode in modes), "none")
