"""CAVIA: against the paper's networks written plainly, side by side in threads, and the model left as it was."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto import Episode, Examples, check, evaluate
from mapsto.algorithms.optimization.cavia import CAVIA
from mapsto.data import Sinusoid
from mapsto.episode import unstack
from mapsto.losses import mse
from mapsto.models import MLP, BatchNorm, Conv4


def grads(learner: CAVIA, episodes: Episode, how: str) -> tuple[Tensor, list[Tensor]]:
    learner.zero_grad()
    loss = learner(episodes, how=how)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in learner.parameters() if p.grad is not None]


# ------------------------------------------------------------------------------------------------ the paper's networks


@pytest.mark.parametrize("how", ["loop", "vmap"])
@pytest.mark.parametrize("first_order", [False, True])
def test_it_equals_a_network_whose_input_the_context_joins(first_order: bool, how: str) -> None:
    episodes = Sinusoid(shot=6, query=5, seed=3).batch(0, 4)
    episodes = Episode(*(Examples(x.double(), y.double()) for x, y in episodes))
    learner = CAVIA(MLP(1, 1, (9, 9)), 4, 0.8, 3, first_order, criterion=mse).double()
    own = [p.detach().clone().requires_grad_() for p in learner.parameters()]
    w1, b1, w2, b2, w3, b3, joined = own

    def network(x: Tensor, context: Tensor) -> Tensor:
        first = nn.functional.linear(torch.cat([x, context.expand(len(x), -1)], 1), torch.cat([w1, joined], 1), b1)
        return F.linear(F.linear(first.relu(), w2, b2).relu(), w3, b3)

    losses = []
    for support, query in unstack(episodes):
        context = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        for _ in range(3):
            inner = F.mse_loss(network(support.x, context), support.y)
            (step,) = torch.autograd.grad(inner, context, create_graph=not first_order)
            context = context - 0.8 * step
        losses.append(F.mse_loss(network(query.x, context), query.y))
    total = torch.stack(losses).mean()
    loss, found = grads(learner, episodes, how)
    torch.testing.assert_close(loss, total.detach(), rtol=1e-11, atol=1e-12)
    for ours, theirs in zip(found, torch.autograd.grad(total, own), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("how", ["loop", "vmap"])
def test_it_equals_a_network_with_film_after_a_block(how: str, make_episodes: Maker) -> None:
    episodes = make_episodes((1, 6, 6), tasks=3)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), BatchNorm(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    learner = CAVIA(model, 5, 1.0, 2, at="1", film=True).double()
    own = [p.detach().clone().requires_grad_() for p in learner.parameters()]
    kernel, bias, scale, shift, head, head_bias, film, film_bias = own

    def network(x: Tensor, context: Tensor) -> Tensor:
        h = F.batch_norm(F.conv2d(x, kernel, bias), None, None, scale, shift, training=True)
        gamma, beta = (film @ context + film_bias).split(4)
        h = gamma.view(1, -1, 1, 1) * h + beta.view(1, -1, 1, 1)
        return F.linear(h.relu().flatten(1), head, head_bias)

    losses = []
    for support, query in unstack(episodes):
        context = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        for _ in range(2):
            inner = F.cross_entropy(network(support.x, context), support.y.argmax(1))
            context = context - torch.autograd.grad(inner, context, create_graph=True)[0]
        losses.append(F.cross_entropy(network(query.x, context), query.y.argmax(1)))
    total = torch.stack(losses).mean()
    loss, found = grads(learner, episodes, how)
    torch.testing.assert_close(loss, total.detach(), rtol=1e-11, atol=1e-12)
    for ours, theirs in zip(found, torch.autograd.grad(total, own), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("film", [False, True])
def test_the_channels_of_a_linear_layer_are_its_last_axis(film: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Flatten(), nn.Linear(20, 2))
    learner, x = CAVIA(model, 6, film=film), torch.randn(2, 5, 3)
    learner.reader.weight.data.zero_()
    h = model[0](x)
    if film:
        learner.reader.bias.data = torch.arange(8.0)
        h = h * torch.arange(4.0) + torch.arange(4.0, 8.0)
    found = learner.predict(learner.adapt(Examples(x, torch.eye(2))), x)
    torch.testing.assert_close(found, model[3](h.tanh().flatten(1)))


# ------------------------------------------------------------------------------------------------ where the context is


def test_only_a_small_context_that_starts_at_zero_adapts(make_episodes: Maker) -> None:
    # pitfall: a context that is registered, meta-learned, or left over from the task before
    learner, (one, other) = CAVIA(MLP(6, 3, (8,)), 7).double(), unstack(make_episodes(tasks=2))
    learner.steps = 0
    assert learner.adapt(one.support).context.equal(torch.zeros(7, dtype=torch.float64))
    learner.steps = 2
    first = learner.adapt(one.support).context
    learner.adapt(other.support)
    again = learner.adapt(one.support).context
    assert first.shape == (7,) and first.abs().min() > 0 and first.equal(again)
    assert sum(p.numel() for p in learner.parameters()) == sum(p.numel() for p in learner.model.parameters()) + 7 * 8
    assert not list(learner.buffers())


def test_the_model_is_left_as_it_was(make_episodes: Maker) -> None:
    model, (one,) = MLP(6, 3, (8,)).double(), unstack(make_episodes(tasks=1))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    learner = CAVIA(model, 4, steps=3, at="head", film=True).double()
    learner.predict(learner.adapt(one.support), one.query.x)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(t.equal(before[n]) for n, t in after.items())


# ------------------------------------------------------------------------------------------------ refusals


def test_layers_that_cannot_read_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at='neck'.*body\.0, head"):
        CAVIA(MLP(6, 3, (8,)), at="neck")
    with pytest.raises(ValueError, match=r"at='body\.1' names no layer"):  # a ReLU
        CAVIA(MLP(6, 3, (8,)), at="body.1")
    with pytest.raises(ValueError, match=r"at='1'.*the model's: 0"):
        CAVIA(nn.Sequential(nn.Linear(6, 3), BatchNorm(3, affine=False)), at="1")
    with pytest.raises(ValueError, match=r"at='0'.*the model's: none"):
        CAVIA(nn.Sequential(nn.ConvTranspose2d(3, 3, 2)), at="0", film=True)
    with pytest.raises(ValueError, match="the model's: none"):
        CAVIA(nn.Sequential(nn.Flatten()))
    assert CAVIA(nn.Linear(6, 3)).at == "" and CAVIA(Conv4(5)).at == "body.0.norm"


# ------------------------------------------------------------------------------------------------ the contract


@pytest.mark.parametrize("norm", ["none", "transductive", "support"])
@pytest.mark.parametrize("first_order", [False, True])
def test_it_passes_the_contract(first_order: bool, norm: str) -> None:
    body = [nn.Linear(8, 32)] if norm == "none" else [nn.Linear(8, 32), BatchNorm(32, norm)]
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), *body, nn.ReLU(), nn.Linear(32, 5))
    learner = CAVIA(model, 50, 5.0, 3, first_order, at="2" if norm == "none" else "3", film=True)
    found = check(learner, train_steps=80)
    assert found["learns"].startswith("holds") and found["loop equals vmap"] == "holds"
    assert (found["gradient equals finite differences"] == "holds") != first_order


def test_images(make_episodes: Maker) -> None:
    learner = CAVIA(Conv4(3, filters=4, down="stride", size=16), 20, 5.0, 2, at="body.2.norm", film=True)
    found = check(learner, make_episodes((1, 16, 16), dtype=torch.float32), train_steps=30)
    assert found["gradient equals finite differences"] == found["loop equals vmap"] == "holds"
    assert found["learns"].startswith("holds")


def test_regression() -> None:
    tasks = Sinusoid(shot=10, query=10).batch(0, 8)
    learner = CAVIA(MLP(1, 1, (20, 20)), criterion=mse)
    found = check(learner, tasks, train_steps=40)
    assert found["learns"].startswith("holds") and found["gradient equals finite differences"] == "holds"
    assert evaluate(learner, [tasks], mse, steps=3).steps == 3
