"""Policies that remember, and how they learn to act: proximal policy optimization over batches of tasks.

J. Schulman, F. Wolski, P. Dhariwal, A. Radford, O. Klimov. Proximal Policy Optimization Algorithms. 2017.
https://arxiv.org/abs/1707.06347. Advantages: J. Schulman et al. High-Dimensional Continuous Control Using Generalized
Advantage Estimation. ICLR 2016. https://arxiv.org/abs/1506.02438.

What differs: rewards are divided by the number of steps, so that values are of one size whatever the horizon; the
critic's loss is the share of the returns' variance that it leaves unexplained. A minibatch is of whole tasks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mapsto.errors import MapstoError


class Trials(Protocol):
    """Tasks to be played side by side, step by step, all for the same number of steps."""

    @property
    def steps(self) -> int:
        """Of each task."""
        ...

    def begin(self) -> Tensor:
        """What a policy is told before the first step, `[tasks, inputs]`."""
        ...

    def play(self, step: int, action: Tensor) -> tuple[Tensor, Tensor]:
        """The rewards `[tasks]` of actions `[tasks]`, and what a policy is told before the next step."""
        ...


class Supply(Protocol):
    """Where tasks come from."""

    def batch(self, start: int, size: int) -> Trials:
        """Tasks `start` to `start + size - 1`."""
        ...


class Policy(nn.Module, ABC):
    """Reads what it is told, step after step, and says what to do and what that is worth."""

    @abstractmethod
    def read(self, x: Tensor, past: Any = None) -> tuple[Tensor, Tensor, Any]:
        """Steps of each task, from the first or following a past.

        Args:
            x: `[tasks, n, inputs]`.
            past: what reading the steps before gave; None if there are none.

        Returns:
            The actions' logits `[tasks, n, actions]`; the value `[tasks, n]` of what is to come; the past from now on.
        """


class Rollout(NamedTuple):
    """What was told, done and earned, at each step of each task.

    Attributes:
        x: `[tasks, steps, inputs]`.
        actions: `[tasks, steps]`.
        log_probs: of those actions, as they were drawn.
        values: what the policy then thought was to come.
        rewards: what came.
    """

    x: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor


@torch.no_grad()
def roll(policy: Policy, trials: Trials, generator: Generator | None = None, *, greedy: bool = False) -> Rollout:
    """Let a policy act. Each step is read once, the past is kept.

    Args:
        policy: who acts.
        trials: on what.
        generator: of the actions' draws.
        greedy: take the likeliest action, not one drawn.
    """
    told, past, rows = trials.begin(), None, []
    for step in range(trials.steps):
        logits, value, past = policy.read(told[:, None], past)
        log_p = logits[:, 0].log_softmax(1)
        action = log_p.argmax(1) if greedy else torch.multinomial(log_p.exp(), 1, generator=generator)[:, 0]
        reward, following = trials.play(step, action)
        rows.append((told, action, log_p.gather(1, action[:, None])[:, 0], value[:, 0], reward))
        told = following
    return Rollout(*(torch.stack(part, 1) for part in zip(*rows, strict=True)))


def advantages(rewards: Tensor, values: Tensor, discount: float, smoothing: float) -> Tensor:
    """How much better each action was than expected (generalized advantage estimation, equation 16).

    Args:
        rewards, values: `[tasks, steps]`; after the last step there is nothing.
        discount: gamma.
        smoothing: lambda: 0 trusts the values, 1 what was earned.
    """
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    surprise = rewards + discount * following - values
    found = [torch.zeros_like(values[:, 0])]
    for now in surprise.flip(1).unbind(1):
        found.append(now + discount * smoothing * found[-1])
    return torch.stack(found[:0:-1], 1)


def surrogate(log_probs: Tensor, before: Tensor, advantage: Tensor, ratio: float) -> Tensor:
    """The clipped objective, to be made small: minus equation 7 of PPO. Means over all steps.

    Args:
        log_probs, before: of the actions taken, now and when they were.
        advantage: of those actions.
        ratio: how far a probability may move for gain (epsilon).
    """
    moved = (log_probs - before).exp()
    return -torch.minimum(moved * advantage, moved.clamp(1 - ratio, 1 + ratio) * advantage).mean()


def improve(
    policy: Policy,
    supply: Supply,
    optimizer: Optimizer,
    *,
    updates: int,
    tasks: int,
    start: int = 0,
    epochs: int = 4,
    minibatches: int = 4,
    discount: float = 0.99,
    smoothing: float = 0.3,
    ratio: float = 0.2,
    critic: float = 0.5,
    entropy: float = 0.01,
    clip: float = 1.0,
    schedule: LRScheduler | None = None,
    seed: int = 0,
    on_update: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train a policy to earn more. Update k plays tasks `k * tasks` to `(k + 1) * tasks - 1`.

    Args:
        policy: what to train.
        supply: of tasks.
        optimizer: over `policy.parameters()`.
        updates: in all, `start` included.
        tasks: played in each update.
        start: the updates done before, as after a resume.
        epochs: how often what was played is learned from.
        minibatches: into how many steps of the optimizer an epoch is split; 1 epoch of 1 is advantage actor-critic.
        discount, smoothing: of `advantages`; by default as in RL^2.
        ratio: of `surrogate`.
        critic: weight of the values' loss.
        entropy: weight of the actions' entropy, in nats.
        clip: the largest norm of a gradient.
        schedule: stepped once an update.
        seed: of the actions' draws and of the minibatches.
        on_update: called as `on_update(update, reward)` after each (1 to `updates`).

    Returns:
        The mean total reward of the tasks of each update.

    Raises:
        MapstoError: fewer tasks than minibatches, or a gradient that is not finite; that step is not taken.
    """
    if not 1 <= minibatches <= tasks:
        raise MapstoError(f"{tasks} tasks can't be split into {minibatches} minibatches: take more tasks")
    totals: list[float] = []
    for update in range(start + 1, updates + 1):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + update)
        played = roll(policy, supply.batch((update - 1) * tasks, tasks), generator)
        totals.append(played.rewards.sum(1).mean().item())
        gain = advantages(played.rewards / played.rewards.shape[1], played.values, discount, smoothing)
        targets = gain + played.values
        spread = targets.var().clamp(min=1e-8)
        gain = (gain - gain.mean()) / gain.std().clamp(min=1e-8)
        for _ in range(epochs):
            for rows in torch.randperm(tasks, generator=generator).tensor_split(minibatches):
                logits, values, _ = policy.read(played.x[rows])
                log_p = logits.log_softmax(2)
                chosen = log_p.gather(2, played.actions[rows, :, None])[..., 0]
                loss = surrogate(chosen, played.log_probs[rows], gain[rows], ratio)
                loss = loss + critic * (values - targets[rows]).square().mean() / spread
                loss = loss + entropy * (log_p.exp() * log_p).sum(2).mean()
                optimizer.zero_grad()
                loss.backward()
                if not nn.utils.clip_grad_norm_(policy.parameters(), clip).isfinite():
                    raise MapstoError(f"the gradient of update {update} is not finite: lower the learning rate")
                optimizer.step()
        if schedule is not None:
            schedule.step()
        if on_update is not None:
            on_update(update, totals[-1])
    return totals
