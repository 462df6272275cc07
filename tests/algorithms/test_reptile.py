"""Reptile: the gradient is theta - phi, phi being what plain torch.optim reaches."""

# pyright: reportArgumentType=false

import copy

import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto import Episode, Examples, check, evaluate, fit
from mapsto.algorithms.optimization.optimizers import SGD, Adam, CoordinateRates, RMSProp
from mapsto.algorithms.optimization.reptile import Reptile
from mapsto.data import Sinusoid
from mapsto.episode import unstack
from mapsto.losses import mse
from mapsto.models import MLP, BatchNorm


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, parts: list[Examples]) -> dict[str, Tensor]:
    """Where a plain training loop over minibatches ends."""
    for x, y in parts:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y.argmax(1)).backward()
        optimizer.step()
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def grads(learner: Reptile, episodes: Episode, how: str = "auto") -> dict[str, Tensor]:
    learner.zero_grad()
    learner(episodes, how=how).backward()
    return {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}


def model_of(norm: str = "none") -> nn.Module:
    # No bias before a norm: its gradient would be rounding noise, which Adam makes large.
    layers = [nn.Linear(6, 8)] if norm == "none" else [nn.Linear(6, 8, bias=False), BatchNorm(8, norm)]
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(8, 3)).double()


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("how", ["loop", "vmap"])
@pytest.mark.parametrize("norm", ["none", "transductive", "support"])
def test_gradient_is_theta_minus_phi(norm: str, how: str, make_episodes: Maker) -> None:
    model, episodes = model_of(norm), make_episodes()
    theta = {n: p.detach().clone() for n, p in model.named_parameters()}
    phis = []
    for one in unstack(episodes):
        twin = copy.deepcopy(model)
        optimizer = torch.optim.Adam(twin.parameters(), lr=0.01, betas=(0.0, 0.999))
        phis.append(trained(twin, optimizer, [one.support] * 4))
    expected = {n: sum(theta[n] - phi[n] for phi in phis) / len(phis) for n in theta}
    close(grads(Reptile(model, 0.01, 4), episodes, how), expected)


def test_a_meta_step_of_sgd_moves_towards_phi(make_episodes: Maker) -> None:
    learner, episodes = Reptile(model_of(), 0.01, 3), make_episodes(tasks=1)
    theta = {n: p.detach().clone() for n, p in learner.model.named_parameters()}
    phi = learner.adapt(unstack(episodes)[0].support).params
    learner(episodes).backward()
    torch.optim.SGD(learner.parameters(), lr=0.25).step()
    close(
        {n: p.detach() for n, p in learner.model.named_parameters()},
        {n: theta[n] + 0.25 * (phi[n] - theta[n]) for n in theta},
    )


@pytest.mark.parametrize("batch", [2, 4, 5, 6, 100])
def test_minibatches_are_cut_from_shuffled_passes(batch: int, make_episodes: Maker) -> None:
    model, episodes = model_of(), make_episodes(tasks=1)  # 6 support examples
    (one,) = unstack(episodes)
    learner = Reptile(model, 0.01, 7, batch=batch)
    parts = list(learner._minibatches(one.support))
    assert [len(x) for x, _ in parts] == [min(batch, 6)] * 7
    stream = [tuple(row) for x, _ in parts for row in x.tolist()]
    passes = [stream[i : i + 6] for i in range(0, len(stream) - 5, 6)]
    rows = sorted(map(tuple, one.support.x.tolist()))
    assert all(sorted(each) == rows for each in passes) and all(each != passes[0] for each in passes[1:])
    labels = dict(zip(map(tuple, one.support.x.tolist()), one.support.y.tolist(), strict=True))
    assert all(labels[tuple(x)] == y for part in parts for x, y in zip(part.x.tolist(), part.y.tolist(), strict=True))
    twin = copy.deepcopy(model)
    phi = trained(twin, torch.optim.Adam(twin.parameters(), lr=0.01, betas=(0.0, 0.999)), parts)
    close(learner.adapt(one.support).params, phi)
    torch.rand(1)  # whatever the global random state, adaptation is the same
    close(learner.adapt(one.support).params, phi)
    # Nor does a task's order depend on the tasks beside it: under vmap, torch.randperm draws one for each.
    many = make_episodes(tasks=4)
    close(grads(learner, many, "loop"), grads(learner, many, "vmap"))


def test_another_minibatch_at_test(make_episodes: Maker) -> None:
    (one,) = unstack(make_episodes(tasks=1))
    learner = Reptile(model_of(), steps=3, batch=4, test_batch=2)
    sizes = [[len(x) for x, _ in learner.train(mode)._minibatches(one.support)] for mode in (True, False)]
    assert sizes == [[4, 4, 4], [2, 2, 2]]
    learner.steps = 0
    assert all(phi.equal(dict(learner.model.named_parameters())[n]) for n, phi in learner.adapt(one.support)[0].items())


# ------------------------------------------------------------------------------------------------ the authors' loop

INNER = {
    "adam": (lambda: Adam(0.01, (0.0, 0.999)), lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.0, 0.999))),
    "rmsprop": (lambda: RMSProp(0.01), lambda p: torch.optim.RMSprop(p, lr=0.01)),
    "momentum": (lambda: SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "sgd": (lambda: SGD(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
}


@pytest.mark.parametrize("meta_batch", [1, 3], ids=["serial", "batched"])
@pytest.mark.parametrize("inner", INNER)
def test_training_is_the_authors_loop(inner: str, meta_batch: int, make_episodes: Maker) -> None:
    # Old variables, one inner optimizer for all tasks, the mean of the new variables, a step of 1 -> 0 towards it.
    ours, theirs = INNER[inner]
    supply = [make_episodes(tasks=meta_batch, seed=seed) for seed in range(4)]
    learner = Reptile(model_of(), steps=3, batch=4, optimizer=ours(), carry=inner != "sgd")
    twin = copy.deepcopy(learner.model)
    variables, optimizer = dict(twin.named_parameters()), theirs(twin.parameters())
    for i, episodes in enumerate(supply):
        old = {n: p.detach().clone() for n, p in variables.items()}
        new = []
        for one in unstack(episodes):
            new.append(trained(twin, optimizer, list(learner._minibatches(one.support))))
            twin.load_state_dict(old)
        step = 1 - i / len(supply)
        twin.load_state_dict({n: p + step * (sum(each[n] for each in new) / meta_batch - p) for n, p in old.items()})
    meta = torch.optim.SGD(learner.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(meta, lambda i: 1 - i / len(supply))
    fit(learner, supply, meta, steps=len(supply), schedule=schedule)
    close({n: p.detach() for n, p in learner.model.named_parameters()}, {n: p.detach() for n, p in variables.items()})


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_carried_state_is_that_of_one_adam_across_tasks(beta: float, make_episodes: Maker) -> None:
    # A fresh Adam for each task is another algorithm than the authors', whose second moment is never reset.
    model, batches = model_of(), [make_episodes(tasks=2, seed=1), make_episodes(tasks=3, seed=2)]
    twin = copy.deepcopy(model)
    adam = torch.optim.Adam(twin.parameters(), lr=0.01, betas=(beta, 0.999))
    learner = Reptile(model, steps=4, optimizer=Adam(0.01, (beta, 0.999)), carry=True)
    meta = torch.optim.SGD(learner.parameters(), lr=0.5)
    for episodes in batches:
        theta = {n: p.detach().clone() for n, p in model.named_parameters()}
        phis = []
        for one in unstack(episodes):
            with torch.no_grad():
                for n, p in twin.named_parameters():
                    p.copy_(theta[n])
            phis.append(trained(twin, adam, [one.support] * 4))
        close(grads(learner, episodes), {n: sum(theta[n] - phi[n] for phi in phis) / len(phis) for n in theta})
        meta.step()
    carried = [b for n, b in learner.named_buffers() if n.startswith("state")]
    assert carried[-1] == 4 * 5  # steps taken so far
    moments = [adam.state[p]["exp_avg_sq"] for p in twin.parameters()]
    second = carried[len(moments) : 2 * len(moments)]
    for ours, theirs in zip(second, moments, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)
    # At test every task begins with the meta-trained state, whatever came before it.
    one = unstack(batches[0])[0]
    with torch.no_grad():
        for n, p in twin.named_parameters():
            p.copy_(dict(model.named_parameters())[n])
    learner.eval()
    before = [b.clone() for b in learner.buffers()]
    first, again = learner.adapt(one.support).params, learner.adapt(one.support).params
    close(first, trained(twin, adam, [one.support] * 4))
    close(first, again)
    assert all(b.equal(c) for b, c in zip(learner.buffers(), before, strict=True))


def test_evaluation_leaves_the_carried_state(make_episodes: Maker) -> None:
    learner, episodes = Reptile(model_of(), 0.01, 2, carry=True), make_episodes()
    learner(episodes)
    before = {n: t.clone() for n, t in learner.state_dict().items()}
    evaluate(learner, [episodes], steps=20)
    learner.eval()(episodes)
    assert all(t.equal(before[n]) for n, t in learner.state_dict().items())
    restored = Reptile(model_of(), 0.01, 2, carry=True)
    restored.load_state_dict(before)
    assert evaluate(restored, [episodes]).values.equal(evaluate(learner, [episodes]).values)


def test_carrying_forbids_vmap(make_episodes: Maker) -> None:
    learner, episodes = Reptile(model_of(), carry=True), make_episodes()
    with pytest.raises(ValueError, match="one after the other"):
        learner(episodes, how="vmap")


def test_queries_see_each_other_only_where_the_mode_says_so(make_episodes: Maker) -> None:
    # pitfall: batch norm whose answer for a query depends on the other queries, without saying so
    (one,) = unstack(make_episodes(tasks=1))
    for norm in ("transductive", "support"):
        learner = Reptile(model_of(norm), 0.05, 5).eval()
        fast = learner.adapt(one.support)
        together = learner.predict(fast, one.query.x)
        part = learner.predict(fast, one.query.x[:5])
        assert torch.allclose(together[:5], part, rtol=1e-10) == (norm == "support")
        assert evaluate(learner, [make_episodes()]).norm == norm


def test_frozen_parameters_stay(make_episodes: Maker) -> None:
    model = MLP(6, 3, (8,)).double()
    model.body.requires_grad_(False)
    learner = Reptile(model, 0.01, 3)
    assert all(n.startswith("head.") for n in learner.adapt(unstack(make_episodes())[0].support).params)
    assert set(grads(learner, make_episodes())) == {"head.weight", "head.bias"}


def test_refusals() -> None:
    with pytest.raises(ValueError, match="plain SGD has none"):
        Reptile(model_of(), optimizer=SGD(0.1), carry=True)
    with pytest.raises(ValueError, match="CoordinateRates has parameters"):
        Reptile(model_of(), optimizer=CoordinateRates(dict(model_of().named_parameters()), 0.1))


def test_plain_gradient_descent_inside(make_episodes: Maker) -> None:
    model, episodes = model_of(), make_episodes(tasks=1)
    twin = copy.deepcopy(model)
    phi = trained(twin, torch.optim.SGD(twin.parameters(), lr=0.1), [unstack(episodes)[0].support] * 3)
    theta = {n: p.detach().clone() for n, p in model.named_parameters()}
    close(grads(Reptile(model, steps=3, optimizer=SGD(0.1)), episodes), {n: theta[n] - phi[n] for n in theta})


@pytest.mark.parametrize("inner", ["adam", "rmsprop", "sgd"])
def test_regression_passes_the_contract(inner: str) -> None:
    tasks = Sinusoid(shot=10, query=10).batch(0, 8)
    optimizer = {"adam": None, "rmsprop": RMSProp(0.01), "sgd": SGD(0.02)}[inner]
    learner = Reptile(MLP(1, 1, (20, 20)), 0.02, 8, batch=5, optimizer=optimizer, criterion=mse)
    found = check(learner, tasks, train_steps=40, lr=2e-2)
    assert found["learns"].startswith("holds") and found["loop equals vmap"] == "holds"


def test_minibatches_pass_the_contract() -> None:
    found = check(Reptile(MLP(8, 5, (16,)), 0.02, 8, batch=5, test_batch=3), train_steps=20)
    assert found["learns"].startswith("holds") and found["loop equals vmap"] == "holds"
