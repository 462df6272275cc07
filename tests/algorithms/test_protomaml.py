"""ProtoMAML: its first logits are squared distances, its meta-gradient runs through the head's making."""

import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mapsto import Episode, check, evaluate
from mapsto.algorithms import ProtoMAML, ProtoNet
from mapsto.episode import unstack
from mapsto.models import MLP, BatchNorm


def embedding() -> MLP:
    return MLP(6, 4, (8,)).double()


def by_hand(model: nn.Module, episode: Episode, lr: float, steps: int, first_order: bool) -> Tensor:
    """The loss of one task, with plain gradient descent on embedding, weight and bias written out."""
    theta, (support, query) = dict(model.named_parameters()), episode
    labels = support.y.argmax(1)
    z = model(support.x)
    means = torch.stack([z[labels == k].mean(0) for k in range(support.y.shape[1])])
    # Copies, so that the inner gradient of theta does not run through the means that were made of it.
    state = [p.clone() for p in theta.values()] + [2 * means, -(means.norm(dim=1) ** 2)]

    def logits(state: list[Tensor], x: Tensor) -> Tensor:
        return functional_call(model, dict(zip(theta, state[:-2], strict=True)), (x,)) @ state[-2].T + state[-1]

    for _ in range(steps):
        grads = torch.autograd.grad(F.cross_entropy(logits(state, support.x), labels), state, create_graph=True)
        grads = [g.detach() for g in grads] if first_order else grads
        state = [p - lr * g for p, g in zip(state, grads, strict=True)]
    return F.cross_entropy(logits(state, query.x), query.y.argmax(1))


@pytest.mark.parametrize("how", ["loop", "vmap"])
@pytest.mark.parametrize("first_order", [False, True])
def test_loss_and_meta_gradient_equal_those_written_out(how: str, first_order: bool, make_episodes: Maker) -> None:
    model, episodes = embedding(), make_episodes()
    learner = ProtoMAML(model, 0.1, 3, first_order)
    value = learner(episodes, how=how)
    expected = torch.stack([by_hand(model, one, 0.1, 3, first_order) for one in unstack(episodes)]).mean()
    grads, wanted = (torch.autograd.grad(v, list(model.parameters())) for v in (value, expected))
    torch.testing.assert_close((value, grads), (expected, wanted), rtol=1e-10, atol=1e-10)


def test_without_steps_it_is_a_prototypical_network(make_episodes: Maker) -> None:
    model, episodes = embedding(), make_episodes(shot=3)
    ours, protonet = ProtoMAML(model, steps=0)(episodes), ProtoNet(model)(episodes)
    grads = [torch.autograd.grad(value, list(model.parameters())) for value in (ours, protonet)]
    torch.testing.assert_close((ours, grads[0]), (protonet, grads[1]), rtol=1e-10, atol=1e-10)


def test_the_head_is_twice_the_means_and_their_negative_squares(make_episodes: Maker) -> None:
    model, (one,) = embedding(), unstack(make_episodes(tasks=1, shot=2))
    weight, bias = ProtoMAML(model).head(one.support).values()
    torch.testing.assert_close(weight, 2 * model(one.support.x).view(3, 2, 4).mean(1))
    torch.testing.assert_close(bias, -(weight / 2).square().sum(1))


def test_any_way_at_test(make_episodes: Maker) -> None:
    learner = ProtoMAML(embedding(), 0.1)
    for way in (2, 3, 7):
        scores = evaluate(learner, [make_episodes(way=way)], steps=5)
        assert scores.mean > 1.5 / way and scores.steps == 5


def test_a_model_with_a_head_of_its_own_is_an_embedding_like_any_other(make_episodes: Maker) -> None:
    # MLP's last layer is called "head": the prototypes' head must not be mistaken for it.
    (one,) = unstack(make_episodes(tasks=1))
    fast = ProtoMAML(embedding(), 0.1).adapt(one.support).params
    assert fast["head.weight"].shape == (4, 8) and fast["prototypes/weight"].shape == (3, 4)


@pytest.mark.parametrize("stats", ["none", "support", "transductive", "running"])
def test_it_passes_the_contract(stats: str) -> None:
    layers = [nn.Linear(8, 16), *([] if stats == "none" else [BatchNorm(16, stats)]), nn.ReLU(), nn.Linear(16, 16)]  # type: ignore[arg-type]
    found = check(ProtoMAML(nn.Sequential(*layers), 0.05), train_steps=20)
    unclaimed = {clause for clause, text in found.items() if not text.startswith("holds")}
    allowed = {"transductive": {"queries do not see each other"}, "running": {"loop equals vmap"}}
    assert unclaimed == allowed.get(stats, set())
