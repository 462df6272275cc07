"""Bandits: what is drawn, what a policy is told, and rules beside what can be enumerated."""

import itertools
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch

from mapsto.errors import MapstoError
from mapsto.rl import BernoulliBandits, Gittins, optimum, play, random, thompson, ucb1

RNG = np.random.default_rng(0)


def test_a_task_is_a_function_of_seed_and_number() -> None:
    source = BernoulliBandits(3, 5, seed=7)
    many = source.batch(10, 4)
    for k in range(4):
        one = BernoulliBandits(3, 5, seed=7).batch(10 + k, 1)
        assert torch.equal(one.chances[0], many.chances[k]) and torch.equal(one.pays[0], many.pays[k])
    other = BernoulliBandits(3, 5, seed=8).batch(10, 4)
    assert not torch.equal(other.chances, many.chances)
    assert len(many.chances.unique()) == 12


def test_chances_are_uniform_and_arms_pay_by_them() -> None:
    chances, pays = BernoulliBandits(4, 50).batch(0, 4000)
    assert chances.shape == (4000, 4) and pays.shape == (4000, 50, 4) and set(pays.unique().tolist()) == {0, 1}
    tenths = torch.histc(chances, 10, 0, 1) / chances.numel()
    assert (tenths - 0.1).abs().max() < 0.01  # 4 standard deviations
    deviation = (chances * (1 - chances) / 50).sqrt()
    assert (((pays.mean(1) - chances) / deviation.clamp(min=1e-3)).square().mean() - 1).abs() < 0.05
    following = torch.corrcoef(torch.stack([(pays - chances[:, None])[:, i].flatten() for i in (0, 1)]))
    assert following[0, 1].abs() < 0.04  # pulls are independent of each other


def test_what_a_policy_is_told() -> None:
    bandits = BernoulliBandits(3, 4).batch(0, 2)
    assert bandits.begin().tolist() == [[0, 0, 0, 0, 1]] * 2
    reward, told = bandits.play(1, torch.tensor([2, 0]))
    pays = bandits.pays[0, 1, 2].item(), bandits.pays[1, 1, 0].item()
    assert reward.tolist() == list(pays)
    assert told.tolist() == [[0, 0, 1, pays[0], 0.5], [1, 0, 0, pays[1], 0.5]]


@pytest.mark.parametrize(("arms", "pulls"), [(0, 5), (3, 0), (-1, 1)])
def test_nothing_to_pull(arms: int, pulls: int) -> None:
    for make in (lambda: BernoulliBandits(arms, pulls), lambda: optimum(arms, pulls)):
        with pytest.raises(MapstoError, match=f"at least one arm and one pull, not {arms} arms and {pulls} pulls"):
            make()


def test_ucb1() -> None:
    wins, losses = np.array([[3, 0, 9], [60, 6, 0]]), np.array([[5, 0, 0], [40, 14, 1]])
    bounds = [w / (w + m) + (2 * np.log(121) / (w + m)) ** 0.5 for w, m in zip(wins[1], losses[1], strict=True)]
    assert ucb1(wins, losses, 1, RNG).tolist() == [1, np.argmax(bounds)]  # the first bandit's was never pulled
    assert ucb1(wins[1:, :2], losses[1:, :2], 1, RNG).tolist() == [1]  # 0.60 + 0.31 and 0.30 + 0.69


def test_thompson_draws_from_the_posterior() -> None:
    # of two arms with Beta(2, 1) and Beta(1, 1), the first is the better one in 2/3 of draws
    arms = thompson(np.tile([1, 0], (40_000, 1)), np.zeros((40_000, 2), int), 1, np.random.default_rng(0))
    assert abs((arms == 0).mean() - 2 / 3) < 0.01


def test_random_pulls_earn_half() -> None:
    bandits = BernoulliBandits(5, 10, seed=3).batch(0, 5000)
    assert abs(play(bandits, random).mean() - 5) < 0.08
    assert torch.equal(play(bandits, thompson, seed=1), play(bandits, thompson, seed=1))


def plain_optimum(arms: int, pulls: int) -> Fraction:
    """Every arm by name, in exact fractions."""

    @cache
    def worth(counts: tuple[tuple[int, int], ...], left: int) -> Fraction:
        best = Fraction(0)
        for k, (wins, losses) in enumerate(counts if left else ()):
            chance = Fraction(1 + wins, 2 + wins + losses)
            won = (*counts[:k], (wins + 1, losses), *counts[k + 1 :])
            lost = (*counts[:k], (wins, losses + 1), *counts[k + 1 :])
            best = max(best, chance * (1 + worth(won, left - 1)) + (1 - chance) * worth(lost, left - 1))
        return best

    return worth(((0, 0),) * arms, pulls)


def test_optimum_by_hand() -> None:
    # two pulls: after a win (1/2) stay, with 2/3; after a loss change, with 1/2
    assert optimum(2, 2) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3 + 1 / 2 * 1 / 2)
    assert optimum(1, 7) == pytest.approx(3.5)


@pytest.mark.parametrize(("arms", "pulls"), [(2, 3), (2, 6), (3, 5), (4, 4)])
def test_optimum(arms: int, pulls: int) -> None:
    assert optimum(arms, pulls) == pytest.approx(float(plain_optimum(arms, pulls)))


def expected(rule: Gittins, arms: int, pulls: int) -> float:
    """A rule's expected total reward, over all that may happen; the order of the arms does not matter to it."""

    @cache
    def worth(counts: tuple[tuple[int, int], ...], left: int) -> float:
        if not left:
            return 0.0
        seen = np.array(counts).T
        k = int(rule(seen[:1], seen[1:], left, RNG)[0])
        (wins, losses), others = counts[k], [*counts[:k], *counts[k + 1 :]]
        chance = (1 + wins) / (2 + wins + losses)
        won, lost = (tuple(sorted([*others, arm])) for arm in ((wins + 1, losses), (wins, losses + 1)))
        return chance * (1 + worth(won, left - 1)) + (1 - chance) * worth(lost, left - 1)

    return worth(((0, 0),) * arms, pulls)


@pytest.mark.parametrize(("arms", "pulls"), [(2, 3), (3, 4), (2, 8), (5, 10)])
def test_the_index_rule_reaches_the_optimum(arms: int, pulls: int) -> None:
    assert expected(Gittins(pulls), arms, pulls) == pytest.approx(optimum(arms, pulls), abs=1e-6)


def plain_index(wins: int, losses: int, left: int) -> float:
    """The highest mean reward a pull, over all ways to stop: each is a set of states at which to go on."""
    states = [(w, m) for n in range(1, left) for w in range(n + 1) for m in [n - w]]
    best = 0.0
    for chosen in itertools.product([False, True], repeat=len(states)):
        on = {(0, 0), *(state for state, go in zip(states, chosen, strict=True) if go)}

        def outcome(w: int, m: int, on: set[tuple[int, int]] = on) -> tuple[float, float]:
            if w + m == left or (w, m) not in on:
                return 0.0, 0.0
            chance = (1 + wins + w) / (2 + wins + losses + w + m)
            (r1, n1), (r0, n0) = outcome(w + 1, m), outcome(w, m + 1)
            return chance * (1 + r1) + (1 - chance) * r0, 1 + chance * n1 + (1 - chance) * n0

        reward, pulls = outcome(0, 0)
        best = max(best, reward / pulls)
    return best


@pytest.mark.parametrize(("wins", "losses", "left"), [(0, 0, 1), (0, 0, 2), (0, 0, 4), (1, 0, 3), (0, 2, 4), (3, 1, 3)])
def test_indices(wins: int, losses: int, left: int) -> None:
    rule = Gittins(8)
    found = rule.index(np.array([wins]), np.array([losses]), left)
    np.testing.assert_allclose(found, plain_index(wins, losses, left), atol=1e-3)


def test_more_pulls_than_the_rule_was_made_for() -> None:
    with pytest.raises(MapstoError, match=r"9 pulls are left, but the rule was made for 8: Gittins\(9\)"):
        play(BernoulliBandits(2, 9).batch(0, 1), Gittins(8))


def test_indices_rise_with_the_pulls_left() -> None:
    rule, none = Gittins(30), np.zeros(1, int)
    indices = [rule.index(none, none, left)[0] for left in range(1, 31)]
    assert indices[0] == pytest.approx(0.5) and all(a < b for a, b in itertools.pairwise(indices))
