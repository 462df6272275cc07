"""Policies and their training: rollouts beside whole sequences, gradients beside enumerated returns."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from mapsto.errors import MapstoError
from mapsto.rl import Bandits, BernoulliBandits, LSTMPolicy, Policy, SNAILPolicy, advantages, improve, roll, surrogate

SIZES = ((4, 3), (5, 4))


def policy(kind: str, arms: int = 3, pulls: int = 7) -> Policy:
    """With a head that is not small, so that its logits tell what was read."""
    torch.manual_seed(0)
    made = SNAILPolicy(arms + 2, arms, pulls, 6, 4, SIZES) if kind == "SNAIL" else LSTMPolicy(arms + 2, arms, 5)
    nn.init.normal_(made.head.weight)
    return made.double()


class Double:
    """Trials in float64."""

    def __init__(self, arms: int, pulls: int, tasks: int) -> None:
        self.bandits = BernoulliBandits(arms, pulls, seed=1).batch(0, tasks)
        self.steps = self.bandits.steps

    def begin(self) -> Tensor:
        return self.bandits.begin().double()

    def play(self, step: int, action: Tensor) -> tuple[Tensor, Tensor]:
        reward, told = self.bandits.play(step, action)
        return reward.double(), told.double()


KINDS = pytest.mark.parametrize("kind", ["SNAIL", "LSTM"])


@KINDS
def test_a_rollout_says_what_the_whole_sequence_says(kind: str) -> None:
    actor = policy(kind)
    played = roll(actor, Double(3, 7, 11), torch.Generator().manual_seed(0))
    logits, values, _ = actor.read(played.x)
    torch.testing.assert_close(values, played.values)
    torch.testing.assert_close(logits.log_softmax(2).gather(2, played.actions[..., None])[..., 0], played.log_probs)
    assert played.actions.unique().tolist() == [0, 1, 2] and played.values.std() > 0.1


@KINDS
def test_a_rollout_records_what_was_told_and_earned(kind: str) -> None:
    trials = Double(3, 7, 11)
    played = roll(policy(kind), trials, torch.Generator().manual_seed(0))
    pays = trials.bandits.pays.double()
    for task, step in itertools.product(range(11), range(7)):
        action = int(played.actions[task, step])
        assert played.rewards[task, step] == pays[task, step, action]
        if step < 6:
            arm = [float(k == action) for k in range(3)]
            left = pytest.approx(1 - (step + 1) / 7)
            assert played.x[task, step + 1].tolist() == [*arm, pays[task, step, action], left]
    assert played.x[:, 0].tolist() == [[0, 0, 0, 0, 1]] * 11


@KINDS
def test_steps_see_nothing_that_comes_after_and_no_other_task(kind: str) -> None:
    actor, x = policy(kind), torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=True)
    logits, values, _ = actor.read(x)
    for step in range(7):
        for out in (logits[0, step].square().sum(), values[0, step]):
            (moved,) = torch.autograd.grad(out, x, retain_graph=True)
            assert (moved != 0).any(2).tolist() == [[t <= step for t in range(7)], [False] * 7]


def test_the_likeliest_action() -> None:
    actor = policy("SNAIL")
    played = roll(actor, Double(3, 7, 11), greedy=True)
    assert torch.equal(played.actions, actor.read(played.x)[0].argmax(2))


@pytest.mark.parametrize(("discount", "smoothing"), [(1.0, 1.0), (0.9, 0.3), (0.99, 0.0)])
def test_advantages(discount: float, smoothing: float) -> None:
    rewards, values = torch.randn(2, 3, 6, dtype=torch.float64)
    found = advantages(rewards, values, discount, smoothing)
    for task in range(3):
        r, v = rewards[task].tolist(), [*values[task].tolist(), 0.0]
        for t in range(6):  # equation 16, as the sum that it is
            total = 0.0
            for k in range(t, 6):
                total += (discount * smoothing) ** (k - t) * (r[k] + discount * v[k + 1] - v[k])
            assert found[task, t].item() == pytest.approx(total)


def test_advantages_of_what_was_earned() -> None:
    rewards, values = torch.randn(2, 3, 6, dtype=torch.float64)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(advantages(rewards, values, 1.0, 1.0), to_go - values)


@pytest.mark.parametrize(
    ("moved", "advantage", "objective"),
    [(1.1, 2.0, 2.2), (1.5, 2.0, 2.4), (0.5, 2.0, 1.0), (1.5, -2.0, -3.0), (0.5, -2.0, -1.6), (0.9, -2.0, -1.8)],
)
def test_clipping(moved: float, advantage: float, objective: float) -> None:
    before = torch.tensor([-1.0])
    loss = surrogate(before + torch.tensor(moved).log(), before, torch.tensor([advantage]), 0.2)
    assert loss.item() == pytest.approx(-objective)


CHANCES = (0.3, 0.9)


def all_that_may_happen(pulls: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every sequence of arms and rewards of a two-armed bandit: inputs, arms, rewards."""
    sequences = list(itertools.product(itertools.product((0, 1), (0.0, 1.0)), repeat=pulls))
    arms = torch.tensor([[arm for arm, _ in one] for one in sequences])
    rewards = torch.tensor([[reward for _, reward in one] for one in sequences], dtype=torch.float64)
    before = torch.cat([torch.eye(2, dtype=torch.float64)[arms], rewards[..., None]], 2)[:, :-1]
    told = torch.cat([torch.zeros(len(arms), 1, 3, dtype=torch.float64), before], 1)
    left = 1 - torch.arange(pulls, dtype=torch.float64) / pulls
    return torch.cat([told, left.expand(len(arms), -1)[..., None]], 2), arms, rewards


@KINDS
def test_the_policy_gradient_is_that_of_the_expected_return(kind: str) -> None:
    """Beside finite differences, over all that may happen: every critic leaves the gradient's mean as it is."""
    pulls, actor = 3, policy(kind, 2, 3)
    x, arms, rewards = all_that_may_happen(pulls)
    luck = torch.tensor(CHANCES, dtype=torch.float64)[arms]
    luck = torch.where(rewards > 0, luck, 1 - luck).prod(1)

    def log_probs() -> tuple[Tensor, Tensor]:
        logits, values, _ = actor.read(x)
        return logits.log_softmax(2).gather(2, arms[..., None])[..., 0], values

    def expected() -> Tensor:
        return (log_probs()[0].sum(1).exp() * luck * rewards.sum(1)).sum()

    found, values = log_probs()
    gain = advantages(rewards, values.detach(), 1.0, 1.0)
    weights = found.detach().sum(1).exp() * luck
    torch.testing.assert_close(weights.sum(), torch.ones_like(weights[0]))
    losses = [surrogate(now, now.detach(), g, 0.2) for now, g in zip(found, gain, strict=True)]
    loss = pulls * (weights * torch.stack(losses)).sum()
    parameters = [p for p in actor.parameters()]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    checked = 0
    for p, gradient in zip(parameters, gradients, strict=True):
        for i in range(0, p.numel(), 1 + p.numel() // 3):
            with torch.no_grad():
                entry, ends = p.view(-1)[i].item(), []
                for shift in (1e-5, -1e-5):
                    p.view(-1)[i] = entry + shift
                    ends.append(expected().item())
                p.view(-1)[i] = entry
            slope = (ends[0] - ends[1]) / 2e-5
            mine = 0.0 if gradient is None else -gradient.reshape(-1)[i].item()
            assert mine == pytest.approx(slope, abs=1e-8)
            checked += abs(slope) > 1e-5
    assert checked > 10


class Sure:
    """Bandits of which one arm always pays and the others never."""

    def __init__(self, arms: int, pulls: int) -> None:
        self.source = BernoulliBandits(arms, pulls)

    def batch(self, start: int, size: int):  # noqa: ANN201
        chances, _ = self.source.batch(start, size)
        sure = (chances == chances.amax(1, keepdim=True)).float()
        return self.source.batch(start, size)._replace(pays=sure[:, None].expand(-1, self.source.pulls, -1))


@KINDS
def test_learns_to_find_the_arm_that_pays(kind: str) -> None:
    """Random pulls earn 4/3. Who plays best finds the arm at the first, second or third pull: 4, 3 or 2, so 3."""
    torch.manual_seed(0)
    actor = SNAILPolicy(5, 3, 4, 16, 8, SIZES) if kind == "SNAIL" else LSTMPolicy(5, 3, 24)
    optimizer = torch.optim.Adam(actor.parameters(), 1e-2)
    rewards = improve(actor, Sure(3, 4), optimizer, updates=20, tasks=100, minibatches=2, smoothing=0.9)
    assert abs(rewards[0] - 4 / 3) < 0.3
    assert roll(actor, Sure(3, 4).batch(10**6, 500), greedy=True).rewards.sum(1).mean() > 2.4


def test_going_on_is_as_if_never_stopped() -> None:
    def trained(*stops: int) -> list[Tensor]:
        actor = policy("SNAIL").float()
        optimizer = torch.optim.SGD(actor.parameters(), 0.1)
        for start, updates in itertools.pairwise((0, *stops)):
            improve(actor, BernoulliBandits(3, 7), optimizer, updates=updates, start=start, tasks=8, epochs=2)
        return [p.detach() for p in actor.parameters()]

    for whole, parts in zip(trained(3), trained(1, 3), strict=True):
        assert torch.equal(whole, parts)


def test_each_update_draws_its_own_actions() -> None:
    class Same(BernoulliBandits):
        """The same bandits in every update."""

        def batch(self, start: int, size: int) -> Bandits:
            return super().batch(0, size)

    actor = policy("LSTM").float()
    still = torch.optim.SGD(actor.parameters(), 0.0)
    first, second = (improve(actor, Same(3, 7), still, updates=3, tasks=50, epochs=1, seed=seed) for seed in (0, 1))
    assert len({*first, *second}) > 3


def test_what_can_not_be_trained() -> None:
    actor = policy("SNAIL").float()
    optimizer = torch.optim.SGD(actor.parameters(), 0.1)
    with pytest.raises(MapstoError, match="3 tasks can't be split into 4 minibatches"):
        improve(actor, BernoulliBandits(3, 7), optimizer, updates=1, tasks=3)
    with torch.no_grad():
        actor.get_parameter("head.weight").fill_(1e38)
    before = [p.clone() for p in actor.parameters()]
    with pytest.raises(MapstoError, match="update 1 is not finite"):
        improve(actor, BernoulliBandits(3, 7), optimizer, updates=1, tasks=8)
    assert all(torch.equal(p, q) for p, q in zip(before, actor.parameters(), strict=True))
