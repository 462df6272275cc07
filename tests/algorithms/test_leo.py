"""LEO: each part against the paper's equations written plainly, the inner loops as the reference lays them out."""

import math

import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from mapsto import check, evaluate, fit
from mapsto.algorithms.optimization.leo import LEO
from mapsto.episode import unstack
from mapsto.models import BatchNorm

WAY, SHOT, LATENTS, FEATURES = 3, 2, 4, 6


def leo(**options: float) -> LEO:
    """With weights large enough for every path to matter."""
    learner = LEO(nn.Identity(), FEATURES, LATENTS, 2, 3, **{"dropout": 0.0, "finetune_lr": 0.5, **options})  # type: ignore[arg-type]
    for p in (learner.encoder.weight, learner.decoder.weight):
        p.data *= 3
    return learner.double().eval()


@pytest.fixture
def support(make_episodes: Maker) -> tuple[Tensor, Tensor]:
    x, y = unstack(make_episodes((FEATURES,), way=WAY, shot=SHOT))[0].support
    return F.normalize(x), y


# ------------------------------------------------------------------------------------------------ the parts


def test_the_code_of_a_class_is_a_mean_over_pairs(support: tuple[Tensor, Tensor]) -> None:
    learner, (x, y) = leo(), support
    first, second, third = (m.weight for m in learner.relation if isinstance(m, nn.Linear))
    codes = [learner.encoder.weight @ one for one in x]
    mean, deviation = learner.encode(x, y)
    for c in range(WAY):
        total = torch.zeros(2 * LATENTS).double()
        for i in range(WAY * SHOT):
            if y[i, c] == 1:
                for other in codes:  # the class's example and any example, in this order
                    total += third @ (second @ (first @ torch.cat([codes[i], other])).relu()).relu()
        total /= SHOT * WAY * SHOT
        torch.testing.assert_close(mean[c], total[:LATENTS])
        torch.testing.assert_close(deviation[c], (total[LATENTS:].exp() - 1).clamp(1e-10))
    assert (deviation > 1e-10).any() and (deviation == 1e-10).any()


def test_decoded_weights_are_their_means_in_evaluation_and_glorots_gaussian_at_first_in_training() -> None:
    learner, codes = leo(), torch.randn(WAY, LATENTS).double()
    out = codes @ learner.decoder.weight.T
    assert learner.decode(codes).equal(out[:, :FEATURES])
    learner.train()

    def drawn(codes: Tensor) -> Tensor:
        return torch.vmap(lambda _: learner.decode(codes), randomness="different")(torch.empty(20_000))

    samples = drawn(codes)
    deviation = (out[:, FEATURES:].clamp(max=1).exp() - 1 + math.sqrt(2 / (WAY + FEATURES))).clamp(1e-10)
    torch.testing.assert_close(samples.mean(0), out[:, :FEATURES], rtol=0, atol=0.08)
    torch.testing.assert_close(samples.std(0), deviation, rtol=0.05, atol=1e-9)
    assert math.isclose(drawn(0 * codes).std().item(), math.sqrt(2 / (WAY + FEATURES)), rel_tol=0.01)


def test_penalties(make_episodes: Maker) -> None:
    learner, (one,) = leo(kl=0.3, encoder_penalty=0.2, l2=0.01, orthogonality=0.7), unstack(make_episodes(tasks=1))
    fast = learner.adapt(one.support)
    mean, deviation = learner.encode(learner.embed(one.support.x), one.support.y)
    kl = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).mean()
    squares = sum(p.square().sum() for n, p in learner.named_parameters() if "alpha" not in n) / 2
    rows, off = [learner.decoder.weight[:, i] for i in range(LATENTS)], torch.zeros(())
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            off = off + (a @ b / (a.norm() * b.norm()) - float(i == j)) ** 2 / LATENTS**2
    query = F.cross_entropy(learner.predict(fast, one.query.x), one.query.y.argmax(1))
    torch.testing.assert_close(fast.kl, kl)
    assert fast.drift > 1e-3
    expected = query + 0.3 * kl + 0.2 * fast.drift + 0.01 * squares + 0.7 * off
    torch.testing.assert_close(learner.loss(one), expected)


# ------------------------------------------------------------------------------------------------ the inner loops


def reference(learner: LEO, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Adapted codes and weights as the authors' program has them: a copy of each for every support example.

    x is `[way, shot, features]`; the copies' logits are averaged, the loss is a sum over examples.
    """
    mean, _ = learner.encode(x.flatten(0, 1), y)
    codes = mean[:, None].expand(WAY, SHOT, LATENTS)
    labels = torch.arange(WAY).repeat_interleave(SHOT)

    def decode(codes: Tensor) -> Tensor:
        return codes @ learner.decoder.weight[:FEATURES].T

    def loss(weights: Tensor) -> Tensor:
        logits = torch.einsum("ijk,lmk->ijlm", x, weights).mean(-1)
        return F.cross_entropy(logits.flatten(0, 1), labels, reduction="sum")

    for _ in range(2):
        codes = (
            codes - learner.alpha.rates["codes"] * torch.autograd.grad(loss(decode(codes)), codes, create_graph=True)[0]
        )
    weights = decode(codes)
    for _ in range(3):
        weights = (
            weights
            - learner.finetune_alpha.rates["weight"] * torch.autograd.grad(loss(weights), weights, create_graph=True)[0]
        )
    return codes, weights


def test_adaptation_and_its_meta_gradient_are_the_references(make_episodes: Maker) -> None:
    learner, (one,) = leo(), unstack(make_episodes(tasks=1, way=WAY, shot=SHOT))
    for rates in (learner.alpha, learner.finetune_alpha):
        for p in rates.parameters():
            p.data *= torch.rand(p.shape) + 0.5
    x = F.normalize(one.support.x).view(WAY, SHOT, FEATURES)
    codes, weights = reference(learner, x, one.support.y)
    fast = learner.adapt(one.support)
    torch.testing.assert_close(fast.weight, weights.mean(1))
    first, _ = learner.encode(x.flatten(0, 1), one.support.y)
    torch.testing.assert_close(fast.drift, (first - codes.mean(1)).square().mean())
    assert (first - codes[:, 0]).abs().max() > 0.01

    query = F.normalize(one.query.x)
    value = F.cross_entropy(query @ weights.mean(1).T, one.query.y.argmax(1))
    ours = learner.criterion(learner.predict(fast, one.query.x), one.query.y)
    parameters = list(learner.parameters())
    found, expected = (torch.autograd.grad(v, parameters) for v in (ours, value))
    torch.testing.assert_close(found, expected)
    assert all(grad.abs().max() > 0 for grad in found)  # the learned rates among them


def test_the_encoder_penalty_holds_the_adapted_codes_constant(make_episodes: Maker) -> None:
    learner, (one,) = leo(), unstack(make_episodes(tasks=1, way=WAY, shot=SHOT))
    x = F.normalize(one.support.x)
    codes, _ = reference(learner, x.view(WAY, SHOT, FEATURES), one.support.y)
    first, _ = learner.encode(x, one.support.y)
    expected = torch.autograd.grad((first - codes[:, 0].detach()).square().mean(), learner.encoder.weight)
    drift = learner.adapt(one.support).drift
    found = torch.autograd.grad(
        drift, [learner.encoder.weight, learner.decoder.weight, *learner.alpha.parameters()], allow_unused=True
    )
    torch.testing.assert_close(found[:1], expected)
    assert found[1:] == (None, None)


# ------------------------------------------------------------------------------------------------ the learner


@pytest.mark.parametrize("encoder_penalty", [0.0, 0.1])
def test_it_passes_the_contract(encoder_penalty: float) -> None:
    found = check(LEO(nn.Identity(), 8, 16, encoder_penalty=encoder_penalty), train_steps=25)
    unclaimed = {clause for clause, text in found.items() if not text.startswith("holds")}
    assert unclaimed == ({"gradient equals finite differences"} if encoder_penalty else set())


def test_samples_in_training_means_in_evaluation(make_episodes: Maker) -> None:
    learner, episodes = leo(), make_episodes(tasks=1)
    same = episodes._replace(
        support=episodes.support._replace(
            x=episodes.support.x.expand(2, -1, -1), y=episodes.support.y.expand(2, -1, -1)
        )
    )
    weights = [
        torch.vmap(learner.adapt, randomness="different")(same.support).weight for learner in (leo(), leo().train())
    ]
    assert weights[0][0].equal(weights[0][1])
    assert (weights[1][0] - weights[1][1]).abs().max() > 0.1  # tasks side by side draw their own
    assert learner(episodes).equal(learner(episodes))


def test_any_way_at_test(make_episodes: Maker) -> None:
    learner = leo()
    for way in (2, 5):
        (one,) = unstack(make_episodes(tasks=1, way=way))
        assert learner.predict(learner.adapt(one.support), one.query.x).shape == (4 * way, way)


@pytest.mark.parametrize("how", ["loop", "vmap"])
def test_the_embedding_stays_as_it_was_trained(how: str, make_episodes: Maker) -> None:
    # pitfall: a frozen backbone whose running statistics go on moving
    model = nn.Sequential(nn.Linear(6, 5), BatchNorm(5, "running"))
    model(torch.randn(30, 6) + 1)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    learner, episodes = LEO(model, 5, 4), make_episodes(dtype=torch.float32)
    fit(learner, [episodes] * 3, torch.optim.Adam(learner.parameters(), 1e-2), steps=3, how=how)  # type: ignore[arg-type]
    assert learner.training and not any(m.training for m in model.modules())
    assert all(t.equal(before[n]) for n, t in model.state_dict().items())
    z = learner.embed(episodes.query.x[0])
    torch.testing.assert_close(z, F.normalize(model.eval()(episodes.query.x[0])))
    assert not z.requires_grad and evaluate(learner, [episodes]).norm == "running"


def test_features_of_another_size_are_refused(make_episodes: Maker) -> None:
    with pytest.raises(ValueError, match=r"embeds in \(6,\), not in \(7,\)"):
        LEO(nn.Identity(), 7).double()(make_episodes())
