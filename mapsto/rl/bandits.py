"""Bernoulli bandits as tasks, and rules that play them without having learned.

Y. Duan, J. Schulman, X. Chen, P. Bartlett, I. Sutskever, P. Abbeel. RL^2: Fast Reinforcement Learning via Slow
Reinforcement Learning. 2016. https://arxiv.org/abs/1611.02779, section 3.1: K arms, each of which pays 1 with a
probability of its own, drawn uniformly for each task; N pulls, and their total reward.

What differs: a task's rewards are drawn before it is played, one for each pull and arm, so that whoever plays task i
meets the same luck. The policy is told what share of the pulls is left, where RL^2 tells it that an episode ended.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mapsto.data.streams import Streams
from mapsto.errors import MapstoError


class Bandits(NamedTuple):
    """Bandits to be played side by side, all for the same number of pulls.

    Attributes:
        chances: how often each arm pays, `[tasks, arms]`.
        pays: what each arm would pay at each pull, 0 or 1, `[tasks, pulls, arms]`.
    """

    chances: Tensor
    pays: Tensor

    @property
    def steps(self) -> int:
        """Pulls of a task."""
        return self.pays.shape[1]

    def begin(self) -> Tensor:
        """What a policy is told before the first pull: see `play`."""
        tasks, _, arms = self.pays.shape
        return torch.cat([self.pays.new_zeros(tasks, arms + 1), self.pays.new_ones(tasks, 1)], 1)

    def play(self, step: int, action: Tensor) -> tuple[Tensor, Tensor]:
        """The rewards `[tasks]` of arms `[tasks]` at a pull, and what a policy is told before the next one.

        That is `[tasks, arms + 2]`: the arm, one-hot; its reward; what share of the pulls is left.
        """
        reward = self.pays[:, step].gather(1, action[:, None])
        left = torch.full_like(reward, 1 - (step + 1) / self.steps)
        return reward[:, 0], torch.cat([one_hot(action, self.pays.shape[2]).to(reward), reward, left], 1)


class BernoulliBandits:
    """An endless sequence of bandits. Task i is a pure function of (seed, i).

    Args:
        arms: K.
        pulls: N.
        seed: which sequence of tasks.
        device: where they are kept.

    Raises:
        MapstoError: no arms, or no pulls.
    """

    def __init__(self, arms: int, pulls: int, *, seed: int = 0, device: torch.device | str = "cpu") -> None:
        check_sizes(arms, pulls)
        self.arms, self.pulls, self.seed, self.device = arms, pulls, seed, device
        self.inputs = arms + 2

    def batch(self, start: int, size: int) -> Bandits:
        """Tasks `start` to `start + size - 1`."""
        streams, drawn = Streams(self.seed), np.empty((size, 1 + self.pulls, self.arms), np.float32)
        for k in range(size):
            drawn[k] = streams.at(start + k).random((1 + self.pulls, self.arms), np.float32)
        chances, luck = torch.from_numpy(drawn).to(self.device).tensor_split([1], 1)
        return Bandits(chances[:, 0], (luck < chances).float())


def check_sizes(arms: int, pulls: int) -> None:
    """A bandit has arms and is pulled.

    Raises:
        MapstoError: it is not so.
    """
    if arms < 1 or pulls < 1:
        raise MapstoError(f"a bandit wants at least one arm and one pull, not {arms} arms and {pulls} pulls")


Rule = Callable[[np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]
"""From how often each arm paid and did not, both `[tasks, arms]`, and the number of pulls left, to arms `[tasks]`."""


def random(wins: np.ndarray, losses: np.ndarray, left: int, rng: np.random.Generator) -> np.ndarray:
    """Any arm."""
    return rng.integers(wins.shape[1], size=len(wins))


def ucb1(wins: np.ndarray, losses: np.ndarray, left: int, rng: np.random.Generator) -> np.ndarray:
    """The arm of the highest upper confidence bound, each arm once before (Auer et al. 2002, figure 1)."""
    counts = wins + losses
    seen = counts.clip(1)
    bounds = wins / seen + np.sqrt(2 * np.log(counts.sum(1, keepdims=True).clip(1)) / seen)
    return np.where(counts == 0, np.inf, bounds).argmax(1)


def thompson(wins: np.ndarray, losses: np.ndarray, left: int, rng: np.random.Generator) -> np.ndarray:
    """The best arm of a bandit drawn from the posterior (Thompson 1933), the prior being the tasks' own."""
    return rng.beta(1 + wins, 1 + losses).argmax(1)


def play(bandits: Bandits, rule: Rule, seed: int = 0) -> Tensor:
    """The total reward of each task, `[tasks]`, if a rule plays; `seed` is that of the rule's own draws."""
    pays, rng = bandits.pays.cpu().numpy().astype(np.int64), np.random.default_rng(seed)
    tasks, pulls, arms = pays.shape
    wins, losses, rows = np.zeros((tasks, arms), np.int64), np.zeros((tasks, arms), np.int64), np.arange(tasks)
    for step in range(pulls):
        arm = rule(wins, losses, pulls - step, rng)
        reward = pays[rows, step, arm]
        wins[rows, arm] += reward
        losses[rows, arm] += 1 - reward
    return torch.from_numpy(wins.sum(1)).double()
