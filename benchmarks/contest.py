"""What a benchmark consists of: a contest, and its contestants."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent

Outcome = dict[str, np.ndarray]
"""The numbers that a contestant's work gave, by name: the loss and the gradient, or the scores."""


class NotOffered(Exception):
    """The package has no way to do this work; the message is a phrase for the table."""


@dataclass(frozen=True)
class Entry:
    """A contestant, ready to work.

    Attributes:
        step: do the work once.
        outcome: what the last step gave.
    """

    step: Callable[[], object]
    outcome: Callable[[], Outcome]


@dataclass(frozen=True)
class Contest:
    """The same work for everybody.

    Attributes:
        about: what it is.
        entries: makers of the contestants by name; each takes the device ("cpu", "cuda").
        ours: the names that others are compared with.
        reference: whose outcome is held to be right.
        tolerance: how far an outcome may lie from it, as a part of the reference's norm, on a CPU; 30 times as far on a
            GPU, which multiplies in tf32.
        flops: floating-point operations of one step that any method must do; 0 where calls cost, not arithmetic.
        unit: what `per_step` counts, and the times are given for.
        per_step: how many units a step does.
    """

    about: str
    entries: Mapping[str, Callable[[str], Entry]]
    ours: tuple[str, ...] = ("mapsto",)
    reference: str = "loop"
    tolerance: float = 1e-3
    flops: float = 0.0
    unit: str = "step"
    per_step: float = 1.0


def gap(outcome: Outcome, right: Outcome) -> float:
    """The largest distance of an outcome from the right one, each number relative to its norm.

    Infinite where shapes differ, or anything is not finite.
    """
    if outcome.keys() != right.keys():
        return float("inf")
    gaps = []
    for name, value in right.items():
        other = outcome[name]
        if other.shape != value.shape or not np.isfinite(other).all():
            return float("inf")
        gaps.append(np.linalg.norm(other - value) / max(float(np.linalg.norm(value)), 1e-12))
    return float(max(gaps))
