"""Neural processes against their equations, written plainly or by torch.distributions."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.functional import relu, softplus

from mapsto import Episode, Examples, check, evaluate
from mapsto.algorithms.model_based.neural_process import ANP, CNP, NP, Gaussian, divergence
from mapsto.data.gaussian_process import GaussianProcess
from mapsto.episode import unstack
from mapsto.losses import gaussian_nll
from mapsto.meta_gradient import backward

LEARNERS = {"cnp": CNP, "np": NP, "anp": ANP}


def make(name: str) -> Any:
    return LEARNERS[name](1, 1, width=16)


def padded(shot: int | tuple[int, int] = (3, 8)) -> Episode:
    return GaussianProcess(shot=shot, query=6, seed=5).batch(0, 4)


def run(layers: nn.Sequential, x: Tensor) -> Tensor:
    """A perceptron, layer by layer."""
    linear = [part for part in layers if isinstance(part, nn.Linear)]
    for part in linear[:-1]:
        x = relu(x @ part.weight.T + part.bias)
    return x @ linear[-1].weight.T + linear[-1].bias


def dense(codes: list[Tensor], x: Tensor, learner: Any) -> tuple[Tensor, Tensor]:
    """The decoder's mean and deviation for each point, from codes shared by all points and its place."""
    read = torch.cat([*(code.expand(len(x), -1) for code in codes), x], 1)
    out = run(learner.decoder.layers, read)
    return out[:, :1], 0.1 + 0.9 * softplus(out[:, 1:])


@pytest.mark.parametrize("shot", [(3, 8), 5])
@pytest.mark.parametrize("name", LEARNERS)
def test_contract(name: str, shot: int | tuple[int, int]) -> None:
    found = check(make(name), padded(shot), train_steps=40)
    assert all(text.startswith("holds") for text in found.values()), found


@pytest.mark.parametrize("name", LEARNERS)
def test_points_that_are_not_given_do_not_matter(name: str) -> None:
    learner, (episode, *_) = make(name).double().eval(), unstack(padded())
    x, y, mask = episode.support.x["x"].double(), episode.support.y.double(), episode.support.x["mask"]
    query = Examples(*(leaf.double() for leaf in episode.query))
    assert not mask.all()
    garbage = torch.where(mask[:, None], 0.0, 100.0)
    variants = [
        Examples(x[mask], y[mask]),
        Examples({"x": x + garbage, "mask": mask}, y - garbage),
        Examples({"x": x.flip(0), "mask": mask.flip(0)}, y.flip(0)),
    ]
    plain = Examples({"x": x, "mask": mask}, y)
    out = learner.predict(learner.adapt(plain), query.x)
    for variant in variants:
        torch.testing.assert_close(learner.predict(learner.adapt(variant), query.x), out, rtol=0, atol=1e-12)
        losses = [learner.loss(Episode(part, query)) for part in (plain, variant)]
        torch.testing.assert_close(*losses, rtol=0, atol=1e-12)
    other = Examples({"x": x, "mask": mask}, y + mask[:, None].double())
    assert not torch.allclose(learner.predict(learner.adapt(other), query.x), out)


def test_conditional_process() -> None:
    learner, (episode, *_) = make("cnp"), unstack(padded(5))
    (x, y), query = episode.support, episode.query
    code = torch.stack([run(learner.encoder, torch.cat(pair)) for pair in zip(x, y, strict=True)]).mean(0)
    mean, deviation = dense([code], query.x, learner)
    out = learner.predict(learner.adapt(episode.support), query.x)
    torch.testing.assert_close(out, torch.cat([mean, deviation], 1))
    torch.testing.assert_close(learner.loss(episode), -Normal(mean, deviation).log_prob(query.y).mean())


def latents(learner: NP, x: Tensor, y: Tensor) -> Normal:
    pooled = run(learner.latent.points, torch.cat([x, y], 1)).mean(0)
    mean, raw = run(learner.latent.whole, pooled).chunk(2)
    return Normal(mean, 0.1 + 0.9 * raw.sigmoid())


def test_latent_process_is_trained_by_the_evidence_lower_bound() -> None:
    learner, (episode, *_) = make("np"), unstack(padded(5))
    (x, y), query = episode.support, episode.query
    prior = latents(learner, x, y)
    posterior = latents(learner, torch.cat([x, query.x]), torch.cat([y, query.y]))
    torch.manual_seed(3)
    code = posterior.mean + posterior.stddev * torch.randn(16)
    bound = Normal(*dense([code], query.x, learner)).log_prob(query.y).sum() - kl_divergence(posterior, prior).sum()
    torch.manual_seed(3)
    torch.testing.assert_close(learner.loss(episode), -bound / 6)
    assert learner.loss(episode) != learner.loss(episode)


@pytest.mark.parametrize("name", ["np", "anp"])
def test_the_prediction_is_the_moments_of_a_mixture(name: str) -> None:
    learner, (episode, *_) = make(name), unstack(padded(5))
    fast, x = learner.adapt(episode.support), episode.query.x
    draws = learner.draws(fast, x)
    if isinstance(learner, NP):
        code = fast.mean + fast.deviation * learner.samples[7]
        torch.testing.assert_close(draws[7], torch.cat(dense([code], x, learner), 1))
    mean, deviation = draws.double().chunk(2, 2)
    values = mean + deviation * torch.randn(20_000, *mean.shape, dtype=torch.float64)
    out = learner.predict(fast, x)
    assert out.equal(learner.predict(fast, x))  # the same samples every time
    torch.testing.assert_close(out[:, :1].double(), mean.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out[:, 1:].double(), values.std((0, 1)), rtol=0.02, atol=0)


def test_attentive_process() -> None:
    learner, (episode, *_) = make("anp"), unstack(padded(5))
    fast, (x, y), heads = learner.adapt(episode.support), episode.support, learner.attention
    q, k = (layer(run(learner.place, at)) for layer, at in ((heads.query, episode.query.x), (heads.key, x)))
    v = heads.value(run(learner.encoder, torch.cat([x, y], 1)))
    parts = [
        torch.softmax(q[:, i : i + 2] @ k[:, i : i + 2].T / 2**0.5, 1) @ v[:, i : i + 2]  # a head of 8 has 2 features
        for i in range(0, 16, 2)
    ]
    seen = heads.out(torch.cat(parts, 1))
    read = torch.cat([seen, episode.query.x], 1)
    torch.testing.assert_close(learner.reads(fast, episode.query.x), read)
    code = fast.latent.mean + fast.latent.deviation * learner.samples[3]
    raw = run(learner.decoder.layers, torch.cat([code.expand(6, -1), read], 1))
    torch.testing.assert_close(learner.draws(fast, episode.query.x)[3, :, :1], raw[:, :1])


def test_a_recorded_step_draws_anew() -> None:
    learner, tasks = make("np"), padded()

    def losses(how: str) -> list[float]:
        torch.manual_seed(1)
        return [backward(learner, tasks, how).item() for _ in range(3)]  # type: ignore[arg-type]

    assert losses("captured") == pytest.approx(losses("vmap"), rel=1e-5)
    assert len(set(losses("captured"))) == 3


def test_gaussian_likelihood() -> None:
    mean, deviation, y = torch.randn(5, 2), torch.rand(5, 2) + 0.1, torch.randn(5, 2)
    expected = -Independent(Normal(mean, deviation), 1).log_prob(y).mean()
    torch.testing.assert_close(gaussian_nll(torch.cat([mean, deviation], 1), y), expected)
    with pytest.raises(ValueError, match="predicts both"):
        gaussian_nll(mean, y)


def test_divergence() -> None:
    a, b = (Gaussian(torch.randn(4), torch.rand(4) + 0.1) for _ in range(2))
    torch.testing.assert_close(divergence(a, b), kl_divergence(Normal(*a), Normal(*b)).sum())


def test_evaluate_scores_the_query_points() -> None:
    learner, tasks = make("np"), padded()
    expected = [
        learner.criterion(learner.predict(learner.adapt(e.support), e.query.x), e.query.y) for e in unstack(tasks)
    ]
    scores = evaluate(learner, [tasks], gaussian_nll)
    torch.testing.assert_close(scores.values.float(), torch.stack(expected).detach())


def test_a_deviation_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="least=0"):
        CNP(1, 1, least=0)
