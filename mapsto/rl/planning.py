"""How a Bernoulli bandit of known prior is best played: by dynamic programming.

J. C. Gittins. Bandit Processes and Dynamic Allocation Indices. Journal of the Royal Statistical Society B, 1979.
For a finite number of pulls: E. Kaufmann. On Bayesian Index Policies for Sequential Resource Allocation. Annals of
Statistics 2018, https://arxiv.org/abs/1601.01190, section 2.

The prior is that each arm's chance to pay is uniform. With a finite number of pulls the index rule need not be the
best, which `optimum` finds where tasks are small; there (10 pulls) it is.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np

from mapsto.errors import MapstoError
from mapsto.rl.bandits import check_sizes

Known = tuple[tuple[int, int], ...]
"""How often each arm that was pulled paid and did not, sorted: arms differ in nothing else."""


class Gittins:
    """Pulls the arm of the highest finite-horizon Gittins index, a rule for `play`.

    An arm's index is the greatest charge for each pull at which one would still pull it, knowing when to stop. It is
    found from `grid` charges and, from the last one below it, one step of Newton's method: within 3e-4 with 200.

    Args:
        pulls: of a task.
        grid: number of charges.

    Raises:
        MapstoError: no pulls.
    """

    def __init__(self, pulls: int, grid: int = 200) -> None:
        check_sizes(1, pulls)
        charges = np.arange(grid) / grid
        # For wins, losses and charge: what the right to pull an arm is worth, and how often it would be pulled.
        worth = often = np.zeros((pulls + 1, pulls + 1, grid))
        self._indices: list[np.ndarray] = []
        for left in range(1, pulls + 1):
            wins, losses = np.ogrid[: pulls - left + 1, : pulls - left + 1]
            chance = ((1 + wins) / (2 + wins + losses))[..., None]
            value = chance - charges + chance * worth[1:, :-1] + (1 - chance) * worth[:-1, 1:]
            pulled = 1 + chance * often[1:, :-1] + (1 - chance) * often[:-1, 1:]
            on = value > 0
            worth, often = np.where(on, value, 0), np.where(on, pulled, 0)
            last = on.sum(2, keepdims=True) - 1  # the worth falls with the charge, and is above 0 at none
            slope, height = (np.take_along_axis(part, last, 2)[..., 0] for part in (often, worth))
            self._indices.append(charges[last[..., 0]] + height / slope)

    def index(self, wins: np.ndarray, losses: np.ndarray, left: int) -> np.ndarray:
        """Of arms that paid and did not so often, with so many pulls left.

        Raises:
            MapstoError: more than it was made for.
        """
        if left > len(self._indices):
            raise MapstoError(f"{left} pulls are left, but the rule was made for {len(self._indices)}: Gittins({left})")
        return self._indices[left - 1][wins, losses]

    def __call__(self, wins: np.ndarray, losses: np.ndarray, left: int, rng: np.random.Generator) -> np.ndarray:
        return self.index(wins, losses, left).argmax(1)


def optimum(arms: int, pulls: int) -> float:
    """The expected total reward of who plays best: no rule and no policy has a higher one.

    What is known of the arms has some thousand states for 10 pulls, and about twice as many for each one more.

    Raises:
        MapstoError: no arms, or no pulls.
    """
    check_sizes(arms, pulls)

    @cache
    def worth(known: Known, left: int) -> float:
        return max(gain(known, arm, left) for arm in choices(known)) if left else 0.0

    def choices(known: Known) -> Iterator[tuple[int, int]]:
        yield from dict.fromkeys(known)
        if len(known) < arms:
            yield 0, 0

    def gain(known: Known, arm: tuple[int, int], left: int) -> float:
        (wins, losses), others = arm, list(known)
        if arm in known:
            others.remove(arm)
        chance = (1 + wins) / (2 + wins + losses)
        won, lost = (tuple(sorted([*others, after])) for after in ((wins + 1, losses), (wins, losses + 1)))
        return chance * (1 + worth(won, left - 1)) + (1 - chance) * worth(lost, left - 1)

    return worth((), pulls)
