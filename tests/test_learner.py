"""The task axis: loop, vmap and auto agree; what vmap would get wrong is refused; meta-gradients are exact."""

# pyright: reportArgumentType=false, reportIncompatibleMethodOverride=false, reportOperatorIssue=false

import warnings
from collections.abc import Callable

import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto import Episode, Examples, MetaLearner, over_tasks, stack
from mapsto.algorithms import MAML, ProtoNet
from mapsto.episode import unstack
from mapsto.models import MLP, BatchNorm, Conv4
from mapsto.train import backward


def value_and_grads(learner: MetaLearner, episodes: object, **kw: object) -> tuple[Tensor, dict[str, Tensor]]:
    learner.zero_grad()
    loss = learner(episodes, **kw)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None}


def assert_same(a: tuple[Tensor, dict[str, Tensor]], b: tuple[Tensor, dict[str, Tensor]], tol: float = 1e-11) -> None:
    torch.testing.assert_close(a[0], b[0], rtol=tol, atol=tol)
    assert a[1].keys() == b[1].keys()
    for name in a[1]:
        torch.testing.assert_close(a[1][name], b[1][name], rtol=tol, atol=tol, msg=lambda m, n=name: f"{n}: {m}")


# ------------------------------------------------------------------------------------------------ loop, vmap, auto


@pytest.mark.parametrize(
    "make",
    [
        lambda: MAML(MLP(6, 3, (8,)), steps=2),
        lambda: MAML(MLP(6, 3, (8,)), steps=2, first_order=True),
        lambda: MAML(nn.Sequential(nn.Linear(6, 8), BatchNorm(8), nn.Tanh(), nn.Linear(8, 3)), steps=2),
        lambda: MAML(nn.Sequential(nn.Linear(6, 8), BatchNorm(8, "support"), nn.Tanh(), nn.Linear(8, 3)), steps=2),
        lambda: MAML(
            nn.Sequential(nn.Linear(6, 8), nn.GroupNorm(2, 8), nn.RMSNorm(8), nn.Tanh(), nn.Linear(8, 3)), steps=2
        ),
        lambda: ProtoNet(MLP(6, 4, (8,))),
        lambda: ProtoNet(nn.Sequential(nn.Linear(6, 8), BatchNorm(8)), "cosine", 0.1),
    ],
    ids=["maml", "fomaml", "maml-transductive", "maml-support", "maml-group-rms", "protonet", "protonet-cosine"],
)
def test_loop_vmap_and_auto_are_one(make: Callable[[], MetaLearner], make_episodes: Maker) -> None:
    # pitfall: losses and gradients that differ between the batched and the one-by-one computation
    learner, episodes = make().double(), make_episodes(tasks=5)
    loop = value_and_grads(learner, episodes, how="loop")
    assert_same(loop, value_and_grads(learner, episodes, how="vmap"))
    assert_same(loop, value_and_grads(learner, episodes, how="vmap", chunk=2))
    assert_same(loop, value_and_grads(learner, episodes))
    assert_same(loop, value_and_grads(learner, unstack(episodes)))  # a list of single tasks


def test_convolutions_agree_too(make_episodes: Maker) -> None:
    learner = MAML(Conv4(3, filters=3, size=16), steps=1).double()
    episodes = make_episodes((1, 16, 16), tasks=2)
    assert_same(value_and_grads(learner, episodes, how="loop"), value_and_grads(learner, episodes, how="vmap"))


@pytest.mark.parametrize("how", ["loop", "vmap", "auto"])
@pytest.mark.parametrize("chunk", [None, 1, 2, 4, 100])
def test_gradients_gathered_in_parts_are_those_of_the_mean(how: str, chunk: int | None, make_episodes: Maker) -> None:
    # pitfall: the sum of per-task losses where the mean is meant, or a last, smaller part weighted like the others
    learner, episodes = MAML(MLP(6, 3, (8,)), steps=1).double(), make_episodes(tasks=5)
    whole = value_and_grads(learner, episodes, how="loop")
    learner.zero_grad()
    loss = backward(learner, episodes, how=how, chunk=chunk)
    assert_same(whole, (loss.double(), {n: p.grad for n, p in learner.named_parameters() if p.grad is not None}))


def test_ragged_tasks_are_averaged_by_task(make_episodes: Maker) -> None:
    learner = ProtoNet(MLP(6, 4, (8,))).double()
    parts = [make_episodes(way=w, shot=s, tasks=1) for w, s in ((2, 1), (3, 2), (5, 4))]
    singles = [unstack(part)[0] for part in parts]
    ragged = stack(singles)
    assert isinstance(ragged, list)
    expected = torch.stack([learner.loss(one) for one in singles]).mean()
    torch.testing.assert_close(learner(ragged), expected)
    torch.testing.assert_close(backward(learner, ragged).double(), expected.detach())
    with pytest.raises(ValueError, match="different shapes"):
        learner(ragged, how="vmap")


@pytest.mark.parametrize("how", ["loop", "vmap", "auto"])
def test_over_tasks_takes_any_trees_and_keeps_the_order(how: str) -> None:
    a, b = torch.arange(12.0).view(4, 3), {"k": torch.arange(4.0)}
    out = over_tasks(lambda x, t: {"s": x.sum() + t["k"], "p": (x, t["k"])}, a, b, how=how)
    assert out["s"].equal(a.sum(1) + b["k"]) and out["p"][0].equal(a) and out["p"][1].equal(b["k"])


@pytest.mark.parametrize("how", ["loop", "vmap", "auto"])
def test_wrong_leading_axes(how: str, make_episodes: Maker) -> None:
    learner, episodes = MAML(MLP(6, 3, (8,))).double(), make_episodes()
    broken = episodes._replace(query=Examples(episodes.query.x[:2], episodes.query.y))
    with pytest.raises(ValueError, match=r"[tT]asks|inconsistent|size"):
        learner(broken, how=how)
    with pytest.raises(ValueError):
        over_tasks(lambda x, y: x + y, torch.zeros(3), torch.zeros(2), how=how)


def test_unknown_how(make_episodes: Maker) -> None:
    with pytest.raises(ValueError, match="'parallel'"):
        ProtoNet(MLP(6, 3)).double()(make_episodes(), how="parallel")


# ------------------------------------------------------------------------------------------------ what vmap gets wrong


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x[:, None])[0][:, -1])


class Functional(nn.Module):
    """A norm that no look at the modules can find."""

    def __init__(self, norm: str = "layer_norm") -> None:
        super().__init__()
        self.body, self.head, self.norm = nn.Linear(6, 8), nn.Linear(8, 3), norm
        self.scale, self.shift = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        if self.norm == "layer_norm":
            z = F.layer_norm(z, (8,), self.scale, self.shift)
        else:
            z = F.batch_norm(z, None, None, self.scale, self.shift, training=True)
        return self.head(z.tanh())


def image_model(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), norm, nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: image_model(nn.BatchNorm2d(4)), r"model\.2 \(BatchNorm2d\)"),
        (lambda: image_model(nn.BatchNorm2d(4, track_running_stats=False)), r"model\.2 \(BatchNorm2d\)"),
        (lambda: image_model(nn.InstanceNorm2d(4, affine=True)), r"model\.2 \(InstanceNorm2d\)"),
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.LayerNorm(3)), r"model\.1 \(LayerNorm\)"),
        (Recurrent, r"model\.memory \(LSTM\)"),
        (lambda: nn.Sequential(nn.Linear(6, 3), BatchNorm(3, "running")), r"model\.1 \(BatchNorm\)"),
    ],
    ids=["batch", "batch-nostats", "instance", "layer", "lstm", "own-running"],
)
def test_explicit_vmap_names_the_module_it_would_get_wrong(
    make: Callable[[], nn.Module], named: str, make_episodes: Maker
) -> None:
    # pitfall: vmap through these norms has silently wrong second derivatives, and recurrent layers have no rule for it
    learner, episodes = MAML(make(), steps=1).double(), make_episodes()
    with pytest.raises(ValueError, match=named):
        learner(episodes, how="vmap")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # auto knows beforehand and says nothing
        auto = value_and_grads(learner, episodes)
    assert_same(value_and_grads(learner, episodes, how="loop"), auto)


@pytest.mark.parametrize("norm", ["layer_norm", "batch_norm"])
def test_functional_norms_are_refused_and_auto_falls_back_to_the_right_numbers(norm: str, make_episodes: Maker) -> None:
    learner, episodes = MAML(Functional(norm), steps=2).double(), make_episodes()
    loop = value_and_grads(learner, episodes, how="loop")
    with pytest.raises(ValueError, match=norm):
        learner(episodes, how="vmap")
    with pytest.warns(UserWarning, match="one by one"):
        auto = value_and_grads(learner, episodes)
    assert_same(loop, auto)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns once
        assert_same(loop, value_and_grads(learner, episodes))


def test_auto_falls_back_where_a_model_reads_values(make_episodes: Maker) -> None:
    class Branches(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (2.0 if x.sum().item() > 0 else 1.0)

    learner, episodes = MAML(Branches(6, 3), steps=1).double(), make_episodes()
    with pytest.raises(RuntimeError):
        learner(episodes, how="vmap")
    with pytest.warns(UserWarning, match="one by one"):
        auto = learner(episodes)
    torch.testing.assert_close(auto, learner(episodes, how="loop"))


def test_vmapped_dropout_differs_from_task_to_task() -> None:
    # pitfall: dropout under vmap raises, or gives every task the same mask
    dropped = over_tasks(nn.Dropout(0.5), torch.ones(4, 64), how="vmap")
    assert len({tuple(row.tolist()) for row in dropped}) == 4


def test_a_failed_vmap_leaves_the_random_state_as_a_loop_would(make_episodes: Maker) -> None:
    class Fails(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            x = F.dropout(x, 0.5)
            return F.layer_norm(super().forward(x), (3,))

    learner, episodes = ProtoNet(Fails(6, 3)).double(), make_episodes()
    torch.manual_seed(1)
    with pytest.warns(UserWarning):
        auto = learner(episodes)
    torch.manual_seed(1)
    assert auto.equal(learner(episodes, how="loop"))


def test_attention_has_second_derivatives_with_the_math_kernel(make_episodes: Maker) -> None:
    # pitfall: fused attention has no second derivative; torch says so, and its plain kernel is right
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.inner(x)[:, None, None]
            z = torch.cat([z, x[:, None, None]], 2)
            return self.head(F.scaled_dot_product_attention(z, z, z).mean((1, 2)))

    learner, episodes = MAML(Attends(), steps=1).double(), make_episodes()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert_same(value_and_grads(learner, episodes, how="loop"), value_and_grads(learner, episodes, how="vmap"))


# ------------------------------------------------------------------------------------------------ exact meta-gradients


class Odd(nn.Module):
    """Whatever real models have: a dict of inputs, a buffer, a tied, a frozen and two plain parameters."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = nn.Linear(6, 6)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.up.weight
        self.frozen = nn.Parameter(torch.randn(6), requires_grad=False)
        self.register_buffer("scale", torch.rand(6) + 0.5)
        self.head = nn.Linear(6, 3)
        self.dropout = dropout

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        z = self.up(x["values"]).tanh() * self.scale
        z = F.dropout(self.again(z).tanh() * x["mask"] + self.frozen, self.dropout)
        return self.head(z)

    def plain(self, p: dict[str, Tensor], x: dict[str, Tensor]) -> Tensor:
        z = torch.tanh(x["values"] @ p["up.weight"].T + p["up.bias"]) * self.scale
        z = torch.tanh(z @ p["up.weight"].T + p["again.bias"]) * x["mask"] + self.frozen
        z = F.dropout(z, self.dropout)
        return z @ p["head.weight"].T + p["head.bias"]


def by_hand(
    model: Odd, episodes: Episode, lr: float, steps: int, first_order: bool, adapts: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """MAML in plain autograd, sharing no line with the library."""
    theta = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters() if p.requires_grad}
    names = [n for n in theta if n.startswith(adapts)]
    losses = []
    for support, query in unstack(episodes):
        fast = dict(theta)
        for _ in range(steps):
            loss = F.cross_entropy(model.plain(fast, support.x), support.y.argmax(1))
            grads = torch.autograd.grad(loss, [fast[n] for n in names], create_graph=True)
            grads = [g.detach() for g in grads] if first_order else grads
            fast = fast | {n: fast[n] - lr * g for n, g in zip(names, grads, strict=True)}
        losses.append(F.cross_entropy(model.plain(fast, query.x), query.y.argmax(1)))
    total = torch.stack(losses).mean()
    grads = torch.autograd.grad(total, list(theta.values()))
    return total.detach(), {f"model.{n}": g for n, g in zip(theta, grads, strict=True)}


def with_masks(episodes: Episode) -> Episode:
    generator = torch.Generator().manual_seed(7)

    def dressed(part: Examples) -> Examples:
        mask = (torch.rand(part.x.shape, generator=generator) < 0.8).to(part.x)
        return Examples({"values": part.x, "mask": mask}, part.y)

    return Episode(dressed(episodes.support), dressed(episodes.query))


@pytest.mark.parametrize("how", ["loop", "vmap"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("adapts", ["", "head."])
def test_meta_gradient_is_that_of_plain_autograd(
    how: str, first_order: bool, adapts: str, make_episodes: Maker
) -> None:
    # pitfall: first order where second is meant; frozen and shared parameters that break or stay behind
    model, episodes = Odd().double(), with_masks(make_episodes())
    learner = MAML(model, lr=0.5, steps=3, first_order=first_order, adapts=(adapts,))
    expected = by_hand(model, episodes, 0.5, 3, first_order, adapts)
    assert_same(expected, value_and_grads(learner, episodes, how=how))
    assert model.frozen.grad is None and not model.scale.requires_grad
    assert model.again.weight is model.up.weight


def test_meta_gradient_with_dropout(make_episodes: Maker) -> None:
    model, episodes = Odd(dropout=0.4).double(), with_masks(make_episodes())
    torch.manual_seed(3)
    expected = by_hand(model, episodes, 0.5, 2, False, "")
    torch.manual_seed(3)
    assert_same(expected, value_and_grads(MAML(model, lr=0.5, steps=2), episodes, how="loop"))


def test_first_and_second_order_differ(make_episodes: Maker) -> None:
    model, episodes = Odd().double(), with_masks(make_episodes())
    exact = value_and_grads(MAML(model, lr=0.5, steps=3), episodes)
    first = value_and_grads(MAML(model, lr=0.5, steps=3, first_order=True), episodes)
    torch.testing.assert_close(exact[0], first[0])
    gap = max(float((exact[1][n] - first[1][n]).abs().max()) for n in exact[1])
    assert gap > 1e-3


def test_nothing_is_adapted_in_place(make_episodes: Maker) -> None:
    model, episodes = Odd().double(), with_masks(make_episodes())
    before = {n: t.clone() for n, t in model.state_dict().items()}
    learner = MAML(model, lr=0.5)
    learner(episodes)
    with torch.no_grad():
        learner(episodes)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
