"""MAML, FOMAML, ANIL: against `higher`, and what it must refuse; memory that does not grow with the steps."""

import warnings

import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto import Episode, Examples, check, evaluate
from mapsto.algorithms import MAML, SGD, Adam
from mapsto.episode import unstack
from mapsto.losses import mse
from mapsto.models import MLP, BatchNorm


def small(norm: nn.Module | None = None) -> nn.Module:
    # No bias before a norm: its gradient would be rounding noise, which Adam makes large.
    layers = [nn.Linear(6, 7)] if norm is None else [nn.Linear(6, 7, bias=False), norm]
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(7, 3)).double()


def meta_grads(learner: MAML, episodes: Episode, how: str = "loop") -> dict[str, Tensor]:
    learner.zero_grad()
    learner(episodes, how=how).backward()
    return {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}


def close(a: dict[str, Tensor], b: dict[str, Tensor], tol: float = 1e-10) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tol, atol=tol)


# ------------------------------------------------------------------------------------------------ against higher


@pytest.mark.parametrize("how", ["loop", "vmap"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("first_order", [False, True], ids=["second", "first"])
@pytest.mark.parametrize("inner", ["sgd", "momentum", "adam"])
def test_meta_gradients_equal_those_of_higher(
    inner: str, first_order: bool, norm: bool, how: str, make_episodes: Maker
) -> None:
    higher = pytest.importorskip("higher", reason="pip install higher, to compare meta-gradients with it")
    model, episodes = small(BatchNorm(7) if norm else None), make_episodes()
    twin = small(nn.BatchNorm1d(7, track_running_stats=False) if norm else None)
    twin.load_state_dict(model.state_dict())
    ours, theirs = {
        "sgd": (SGD(0.3), lambda p: torch.optim.SGD(p, 0.3)),
        "momentum": (SGD(0.2, momentum=0.9), lambda p: torch.optim.SGD(p, 0.2, momentum=0.9)),
        # higher adds eps before the bias correction, torch and mapsto after it: without eps they agree.
        "adam": (Adam(0.02, eps=0.0), lambda p: torch.optim.Adam(p, 0.02, eps=0.0)),
    }[inner]
    # higher calls a first-order step that is still connected to the initialisation "detached gradients".
    callback = (lambda grads: [g.detach() for g in grads]) if first_order else None
    total = torch.zeros((), dtype=torch.float64)
    for support, query in unstack(episodes):
        with (
            warnings.catch_warnings(),
            higher.innerloop_ctx(twin, theirs(twin.parameters()), copy_initial_weights=False) as (fast, optimizer),
        ):
            warnings.simplefilter("ignore")
            for _ in range(3):
                optimizer.step(F.cross_entropy(fast(support.x), support.y.argmax(1)), grad_callback=callback)
            loss = F.cross_entropy(fast(query.x), query.y.argmax(1)) / 3
            loss.backward()
            total += loss.detach()
    expected = {n: p.grad for n, p in twin.named_parameters() if p.grad is not None}
    learner = MAML(model, steps=3, first_order=first_order, optimizer=ours)
    close(meta_grads(learner, episodes, how), expected)
    torch.testing.assert_close(learner(episodes, how=how).detach(), total, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------------ orders and parts


def test_first_order_is_the_query_gradient_at_the_adapted_weights(make_episodes: Maker) -> None:
    # pitfall: "second-order" code whose inner gradients carry no graph, and first-order code that gives no gradient
    model, episode = small(), make_episodes(tasks=1)
    fomaml, maml = MAML(model, 0.5, 3, first_order=True), MAML(model, 0.5, 3)
    (one,) = unstack(episode)
    adapted = {n: p.detach().requires_grad_() for n, p in maml.adapt(one.support).params.items()}
    query = F.cross_entropy(torch.func.functional_call(model, adapted, (one.query.x,)), one.query.y.argmax(1))
    expected = dict(zip(adapted, torch.autograd.grad(query, list(adapted.values())), strict=True))
    first, second = meta_grads(fomaml, episode), meta_grads(maml, episode)
    close(first, expected)
    assert max(float((first[n] - second[n]).abs().max()) for n in first) > 1e-3


def test_second_order_equals_finite_differences_of_the_whole_objective(make_episodes: Maker) -> None:
    learner, episodes = MAML(small(), 0.5, 3), make_episodes(tasks=2)
    grads = meta_grads(learner, episodes)
    for name, p in learner.model.named_parameters():
        flat, numeric = p.data.view(-1), []
        for i in range(min(3, flat.numel())):
            values = []
            for h in (1e-5, -1e-5):
                flat[i] += h
                values.append(learner(episodes).item())
                flat[i] -= h
            numeric.append((values[0] - values[1]) / 2e-5)
        torch.testing.assert_close(
            grads[name].view(-1)[: len(numeric)], torch.tensor(numeric).double(), rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize("how", ["loop", "vmap"])
@pytest.mark.parametrize(("part", "rest"), [("head.", "body."), ("body.", "head.")], ids=["anil", "boil"])
def test_only_the_named_part_adapts_and_all_of_it_is_meta_learned(
    part: str, rest: str, how: str, make_episodes: Maker
) -> None:
    learner, episodes = MAML(MLP(6, 3, (8,)).double(), 0.5, adapts=(part,)), make_episodes()
    fast = learner.adapt(unstack(episodes)[0].support).params
    own = dict(learner.model.named_parameters())
    assert fast and all(name.startswith(part) and not p.equal(own[name]) for name, p in fast.items())
    grads = meta_grads(learner, episodes, how)
    assert all(grads[name].abs().max() > 0 for name in own) and any(name.startswith(rest) for name in grads)


@pytest.mark.parametrize("how", ["loop", "vmap"])
def test_first_order_anil_still_teaches_its_body(how: str, make_episodes: Maker) -> None:
    # pitfall: a first-order shortcut that leaves the part that does not adapt without its gradient
    model, episodes = MLP(6, 3, (8,)).double(), make_episodes(tasks=1)
    learner = MAML(model, 0.5, adapts=("head.",), first_order=True)
    (one,) = unstack(episodes)
    head = {n: p.detach() for n, p in learner.adapt(one.support).params.items()}
    body = {n: p for n, p in model.named_parameters() if n.startswith("body.")}
    loss = F.cross_entropy(torch.func.functional_call(model, head, (one.query.x,)), one.query.y.argmax(1))
    expected = dict(zip(body, torch.autograd.grad(loss, list(body.values())), strict=True))
    grads = meta_grads(learner, episodes, how)
    close({n: grads[n] for n in body}, expected)


def test_regression_with_its_own_criterion() -> None:
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).view(1, 8, 1)
    episodes = Episode(Examples(x, x.sin()), Examples(x, x.sin()))
    learner = MAML(MLP(1, 1, (8,)).double(), 0.1, criterion=mse)
    (one,) = unstack(episodes)
    expected = mse(learner.predict(learner.adapt(one.support), one.query.x), one.query.y)
    torch.testing.assert_close(learner(episodes), expected)
    assert evaluate(learner, [episodes], mse, steps=40).mean < evaluate(learner, [episodes], mse, steps=0).mean


# ------------------------------------------------------------------------------------------------ refusals


def test_unknown_part() -> None:
    with pytest.raises(ValueError, match=r"classifier\..*head\.weight"):
        MAML(MLP(6, 3), adapts=("classifier.",))


def test_a_part_is_one_name_not_its_letters(make_episodes: Maker) -> None:
    # pitfall: "head." taken for the five prefixes h, e, a, d and .
    (one,) = unstack(make_episodes(tasks=1))
    as_text, as_tuple = (MAML(MLP(6, 3, (8,)).double(), adapts=parts) for parts in ("head.", ("head.",)))
    as_tuple.load_state_dict(as_text.state_dict())
    fast, same = (learner.adapt(one.support).params for learner in (as_text, as_tuple))
    assert list(fast) == ["head.weight", "head.bias"] and all(fast[n].equal(same[n]) for n in fast)


def test_everything_frozen() -> None:
    with pytest.raises(ValueError, match="unfrozen"):
        MAML(MLP(6, 3).requires_grad_(False))


class Spare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(6, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


@pytest.mark.parametrize("how", ["loop", "vmap", "auto"])
@pytest.mark.parametrize("first_order", [False, True])
def test_a_parameter_that_would_never_adapt_is_named(how: str, first_order: bool, make_episodes: Maker) -> None:
    # pitfall: gradients of unused parameters silently taken for zero
    learner = MAML(Spare().double(), first_order=first_order)
    with pytest.raises(ValueError, match=r"spare\.weight, spare\.bias"):
        learner(make_episodes(), how=how)
    learner.model.spare.requires_grad_(False)
    assert learner(make_episodes(), how=how).isfinite()


def test_a_head_of_the_wrong_way_is_refused(make_episodes: Maker) -> None:
    with pytest.raises(ValueError, match="as many outputs"):
        MAML(MLP(6, 4).double())(make_episodes(way=3))


# ------------------------------------------------------------------------------------------------ memory


class Saved:
    """Counts the tensors that autograd holds at once for a backward pass."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> "Held":
        return Held(self, tensor)

    @staticmethod
    def unpack(held: "Held") -> Tensor:
        return held.tensor


class Held:
    def __init__(self, count: Saved, tensor: Tensor) -> None:
        self.count, self.tensor = count, tensor
        count.now += 1
        count.most = max(count.most, count.now)

    def __del__(self) -> None:
        self.count.now -= 1


def most_saved(learner: MAML, episode: Episode, training: bool) -> int:
    saved = Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack), torch.set_grad_enabled(training):
        learner.criterion(learner.predict(learner.adapt(episode.support), episode.query.x), episode.query.y)
    return saved.most


@pytest.mark.parametrize("first_order", [False, True])
def test_evaluation_memory_is_flat_in_the_steps(first_order: bool, make_episodes: Maker) -> None:
    # pitfall: second-order graphs built at test, where nobody will differentiate
    (one,) = unstack(make_episodes(tasks=1))
    few, many = (most_saved(MAML(small(), 0.1, n, first_order), one, training=False) for n in (5, 50))
    assert 0 < few == many


def test_first_order_training_builds_no_second_order_graph(make_episodes: Maker) -> None:
    (one,) = unstack(make_episodes(tasks=1))
    few, many = (most_saved(MAML(small(), 0.1, n, first_order=True), one, training=True) for n in (5, 50))
    assert few == many
    five, ten = (most_saved(MAML(small(), 0.1, n), one, training=True) for n in (5, 10))
    assert five > 2 * few and ten > 1.8 * five  # the count does see a second-order graph where there is one


@pytest.mark.parametrize("how", ["loop", "vmap"])
def test_without_grad_the_adapted_parameters_carry_no_graph(how: str, make_episodes: Maker) -> None:
    learner, episodes = MAML(small()), make_episodes()
    with torch.no_grad():
        assert not learner(episodes, how=how).requires_grad
        fast = learner.adapt(unstack(episodes)[0].support).params
    assert not any(p.requires_grad and p.grad_fn for p in fast.values())


def test_steps_at_test_are_recorded(make_episodes: Maker) -> None:
    # pitfall: other steps at test than in training, and nobody can tell afterwards
    learner, episodes = MAML(small(), steps=1), make_episodes()
    assert evaluate(learner, [episodes]).steps == 1
    more = evaluate(learner, [episodes], steps=10)
    assert more.steps == 10 and learner.steps == 1
    assert more.values.equal(evaluate(MAML(learner.model, steps=10), [episodes]).values)


def test_it_passes_the_contract() -> None:
    found = check(MAML(MLP(6, 3, (16,)), lr=0.5), train_steps=20)
    assert found["gradient equals finite differences"] == found["loop equals vmap"] == "holds"
