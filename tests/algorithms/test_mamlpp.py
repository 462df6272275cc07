"""MAML++: each remedy alone against its equations, all off against MAML, the schedules, the contract."""

# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false

from typing import Any

import numpy as np
import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mapsto import Episode, MetaLearner, check, evaluate, fit
from mapsto.algorithms import MAML, MAMLPlusPlus
from mapsto.algorithms.optimization.mamlpp import importance
from mapsto.episode import unstack
from mapsto.meta_gradient import backward
from mapsto.models import MLP, BatchNorm

OFF: dict[str, Any] = {"multi_step": 0, "first_order_steps": 0, "learned_rates": False, "step_norms": False}


def normed(stats: str = "transductive") -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 7), BatchNorm(7, stats), nn.Tanh(), nn.Linear(7, 3)).double()


def value_and_grads(learner: MetaLearner, episodes: Episode, how: Any = "loop") -> tuple[Tensor, dict[str, Tensor]]:
    learner.zero_grad()
    value = learner(episodes, how=how)
    value.backward()
    return value.detach(), {n: p.grad for n, p in learner.named_parameters() if p.grad is not None}


# ------------------------------------------------------------------------------------------------ all off


@pytest.mark.parametrize("how", ["loop", "vmap"])
@pytest.mark.parametrize("stats", ["transductive", "support"])
def test_with_everything_off_it_is_maml_to_the_last_bit(stats: str, how: str, make_episodes: Maker) -> None:
    model, episodes = normed(stats), make_episodes()
    (loss, grads), (maml_loss, maml_grads) = (
        value_and_grads(learner, episodes, how) for learner in (MAMLPlusPlus(model, 0.3, 3, **OFF), MAML(model, 0.3, 3))
    )
    assert loss.equal(maml_loss) and grads.keys() == maml_grads.keys()
    assert all(grads[n].equal(maml_grads[n]) for n in grads)


# ------------------------------------------------------------------------------------------------ multi-step loss


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_weights_equal_the_reference_codes(steps: int) -> None:
    epochs = 40
    for epoch in range(epochs):
        weights = np.ones(steps) / steps
        decay, least = 1 / steps / epochs, 0.03 / steps
        for i in range(steps - 1):
            weights[i] = np.maximum(weights[i] - epoch * decay, least)
        weights[-1] = np.minimum(weights[-1] + epoch * (steps - 1) * decay, 1 - (steps - 1) * least)
        assert importance(steps, epoch / epochs) == pytest.approx(weights.tolist(), abs=1e-14)


def test_weights_by_hand() -> None:
    assert importance(4, 0.0) == [0.25] * 4
    assert importance(4, 0.5) == pytest.approx([0.125, 0.125, 0.125, 0.625])
    assert importance(3, 1.0) == pytest.approx([0.01, 0.01, 0.98])


@pytest.mark.parametrize("done", [0, 30, 99])
def test_the_weights_multiply_the_query_losses_after_each_step(done: int, make_episodes: Maker) -> None:
    # pitfall: weights that divide (multipliers 100, 100, 1.02 where 0.01, 0.01, 0.98 is meant)
    model, episodes = normed(), make_episodes()
    learner = MAMLPlusPlus(model, 0.3, 3, **{**OFF, "multi_step": 100})
    learner.at_step(done)
    alone = [value_and_grads(MAML(model, 0.3, steps), episodes) for steps in (1, 2, 3)]
    weights = importance(3, done / 100)
    for how in ("loop", "vmap"):
        loss, grads = value_and_grads(learner, episodes, how)
        torch.testing.assert_close(loss, sum(w * value for w, (value, _) in zip(weights, alone, strict=True)))
        for n in grads:
            expected = sum(w * one[n] for w, (_, one) in zip(weights, alone, strict=True))
            torch.testing.assert_close(grads[n], expected, rtol=1e-10, atol=1e-11)


def test_a_recorded_step_follows_the_schedules(make_episodes: Maker) -> None:
    learner, episodes = MAMLPlusPlus(MLP(6, 3, (4,)).double(), 0.3, 2, multi_step=2), make_episodes()
    for step in range(3):
        learner.at_step(step)
        value, expected = value_and_grads(learner, episodes)
        learner.zero_grad()
        torch.testing.assert_close(backward(learner, episodes, how="captured"), value)
        for name, p in learner.named_parameters():
            if p.requires_grad:
                torch.testing.assert_close(p.grad, expected[name], rtol=1e-10, atol=1e-11, msg=f"{step} {name}")


def test_after_the_annealing_and_in_evaluation_the_last_step_alone_counts(make_episodes: Maker) -> None:
    model, episodes = normed(), make_episodes()
    learner, maml = MAMLPlusPlus(model, 0.3, 3, **{**OFF, "multi_step": 100}), MAML(model, 0.3, 3)
    early = learner(episodes)
    assert learner.eval()(episodes).equal(maml(episodes)) and not early.equal(maml(episodes))
    learner.train().at_step(100)
    assert learner(episodes).equal(maml(episodes))


# ------------------------------------------------------------------------------------------------ derivative order


def test_first_order_until_its_meta_step(make_episodes: Maker) -> None:
    model, episodes = normed(), make_episodes()
    learner = MAMLPlusPlus(model, 0.3, 3, **{**OFF, "first_order_steps": 10})
    assert not learner.exact
    for done, first_order in ((0, True), (9, True), (10, False)):
        learner.at_step(done)
        _, grads = value_and_grads(learner, episodes)
        _, expected = value_and_grads(MAML(model, 0.3, 3, first_order), episodes)
        assert all(grads[n].equal(expected[n]) for n in expected)


# ------------------------------------------------------------------------------------------------ rates and norms


def test_rates_and_norms_of_each_step_written_out(make_episodes: Maker) -> None:
    model, (one,) = normed(), unstack(make_episodes(tasks=1))
    learner = MAMLPlusPlus(model, 0.3, 3, multi_step=0)
    with torch.no_grad():
        for p in [*learner.norms.parameters(), *learner.optimizer.parameters()]:
            p.add_(0.1 * torch.randn_like(p))
    rates, norms = learner.optimizer.rates, learner.norms
    names = [n for n, _ in model.named_parameters() if not n.startswith("1.")]
    fast = {n: dict(model.named_parameters())[n] for n in names}

    def at(step: int) -> dict[str, Tensor]:
        return {"1.weight": norms["1/weight"][step], "1.bias": norms["1/bias"][step]}

    for step in range(5):  # two more than were trained, which go on with the last step's
        row = min(step, 2)
        loss = F.cross_entropy(functional_call(model, fast | at(row), (one.support.x,)), one.support.y.argmax(1))
        grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
        fast = {n: fast[n] - rates[n.replace(".", "/")][row] * g for n, g in zip(names, grads, strict=True)}
        learner.steps = step + 1
        expected = functional_call(model, fast | at(row), (one.query.x,))
        torch.testing.assert_close(learner.predict(learner.adapt(one.support), one.query.x), expected)
    learner.steps = 3
    grads = value_and_grads(learner, Episode(*[type(s)(s.x[None], s.y[None]) for s in one]))[1]
    assert all(grads[f"norms.1/{n}"].abs().amin(1).min() > 0 for n in ("weight", "bias"))  # every step's
    assert all(grads[f"optimizer.rates.{n.replace('.', '/')}"].abs().min() > 0 for n in names)
    assert not any(n.startswith("model.1.") for n in grads)  # the model's own are frozen


def test_running_norms_keep_statistics_for_each_step(make_episodes: Maker) -> None:
    model, (one,) = normed("running"), unstack(make_episodes(tasks=1))
    learner = MAMLPlusPlus(model, 0.3, 3)
    learner.loss(one)
    mean = learner.norms["1/mean"]
    # At step 0 the support set came by, and then the query set, through the first layer adapted by one step.
    after_one = MAMLPlusPlus(model, 0.3, 1).adapt(one.support).params
    support, query = model[0](one.support.x), F.linear(one.query.x, after_one["0.weight"], after_one["0.bias"])
    torch.testing.assert_close(mean[0], 0.9 * 0.1 * support.mean(0) + 0.1 * query.mean(0))
    assert not mean[0].equal(mean[1]) and not mean[1].equal(mean[2])
    assert model[1].mean.abs().max() == 0  # the model's own are not used
    before = {n: t.clone() for n, t in learner.state_dict().items()}
    fast = learner.eval().adapt(one.support)
    alone = [learner.predict(fast, x[None]) for x in one.query.x]
    torch.testing.assert_close(torch.cat(alone), learner.predict(fast, one.query.x))
    assert all(t.equal(before[n]) for n, t in learner.state_dict().items())


# ------------------------------------------------------------------------------------------------ the whole


@pytest.mark.parametrize("stats", ["transductive", "support", "running", "torch"])
def test_it_passes_the_contract(stats: str) -> None:
    norm = nn.BatchNorm1d(16) if stats == "torch" else BatchNorm(16, stats)
    learner = MAMLPlusPlus(nn.Sequential(nn.Linear(8, 16), norm, nn.ReLU(), nn.Linear(16, 5)), 0.2, 3, multi_step=30)
    found = check(learner, train_steps=20)
    unclaimed = {clause for clause, text in found.items() if not text.startswith("holds")}
    loop_only = {"loop equals vmap"}
    assert unclaimed == {
        "transductive": {"queries do not see each other"}, "support": set(), "running": loop_only, "torch": loop_only,
    }[stats]  # fmt: skip


def test_a_resumed_training_goes_on_where_the_schedules_were(make_episodes: Maker) -> None:
    def train(learner: MAMLPlusPlus, start: int, end: int) -> MAMLPlusPlus:
        supply = (make_episodes(seed=step) for step in range(start, end))
        meta = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], 0.1)
        fit(learner, supply, meta, start=start, steps=end)
        assert learner.annealing == (end - 1 < 5)  # fit tells the number of the step about to be taken
        return learner

    def fresh() -> MAMLPlusPlus:
        torch.manual_seed(0)
        return MAMLPlusPlus(normed("support"), 0.3, 3, multi_step=5, first_order_steps=2)

    whole, half, resumed = train(fresh(), 0, 8), train(fresh(), 0, 3), fresh()
    resumed.load_state_dict(half.state_dict())
    train(resumed, 3, 8)
    assert all(t.equal(resumed.state_dict()[n]) for n, t in whole.state_dict().items())


def test_evaluation_takes_any_number_of_steps_and_changes_nothing(make_episodes: Maker) -> None:
    learner = MAMLPlusPlus(MLP(6, 3, (8,)).double(), 0.3, 2)
    before = {n: t.clone() for n, t in learner.state_dict().items()}
    scores = [evaluate(learner, [make_episodes()], steps=steps).steps for steps in (0, 1, 7)]
    assert scores == [0, 1, 7]
    assert all(t.equal(before[n]) for n, t in learner.state_dict().items())
