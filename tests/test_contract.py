"""Every learner in every setting passes the contract, and the contract catches learners that break it."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mapsto import ContractError, Episode, Examples, MetaLearner, check
from mapsto.algorithms import MAML, SGD, Adam, Matching, ProtoNet, Reptile, Siamese
from mapsto.data import Sinusoid
from mapsto.episode import Tree
from mapsto.losses import mse
from mapsto.models import MLP, BatchNorm, Conv4


def mlp(way: int = 5) -> MLP:
    return MLP(8, way, (16,))


def normed(stats: str, outputs: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), BatchNorm(16, stats), nn.ReLU(), nn.Linear(16, outputs))


def images(stats: str, outputs: int = 0) -> nn.Module:
    return Conv4(outputs, filters=4, down="stride", stats=stats)


LEARNERS: dict[str, Callable[[], MetaLearner]] = {
    "maml": lambda: MAML(mlp(), 0.5),
    "fomaml": lambda: MAML(mlp(), 0.5, first_order=True),
    "maml-one-step": lambda: MAML(mlp(), 0.5, steps=1),
    "maml-momentum": lambda: MAML(mlp(), optimizer=SGD(0.2, momentum=0.9)),
    "maml-nesterov": lambda: MAML(mlp(), optimizer=SGD(0.2, momentum=0.9, nesterov=True)),
    "maml-adam": lambda: MAML(mlp(), optimizer=Adam(0.05)),
    "anil": lambda: MAML(mlp(), 0.5, adapts=("head.",)),
    "boil": lambda: MAML(mlp(), 0.5, adapts=("body.",)),
    "maml-dropout": lambda: MAML(nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.1), nn.Linear(16, 5)), 0.5),
    "maml-layer-norm": lambda: MAML(nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 5)), 0.5),
    **{f"maml-{s}": lambda s=s: MAML(normed(s), 0.5) for s in ("transductive", "support", "running")},
    "protonet": lambda: ProtoNet(mlp(16)),
    "protonet-cosine": lambda: ProtoNet(mlp(16), "cosine", 0.1),
    **{f"protonet-{s}": lambda s=s: ProtoNet(normed(s, 16)) for s in ("transductive", "support", "running")},
    "reptile": lambda: Reptile(mlp(), 0.02, 8),
    "reptile-minibatches": lambda: Reptile(mlp(), 0.02, 8, batch=5),
    "reptile-sgd": lambda: Reptile(mlp(), steps=8, optimizer=SGD(0.5)),
    "reptile-carry": lambda: Reptile(mlp(), 0.02, 8, carry=True),
    "reptile-transductive": lambda: Reptile(normed("transductive"), 0.02, 8),
    "reptile-support": lambda: Reptile(normed("support"), 0.02, 8),
}

IMAGES: dict[str, Callable[[], MetaLearner]] = {
    "maml-images": lambda: MAML(images("transductive", 5), 0.5, 2),
    "maml-images-support": lambda: MAML(images("support", 5), 0.5, 2),
    "siamese": lambda: Siamese(mlp(16), 16),
    "siamese-contrastive": lambda: Siamese(mlp(16), 16, "contrastive"),
    "siamese-triplet": lambda: Siamese(mlp(16), 16, "triplet"),
    "matching": lambda: Matching(mlp(16), 16),
    "matching-context": lambda: Matching(mlp(16), 16, full_context=True),
    "protonet-images": lambda: ProtoNet(images("transductive")),
    "protonet-images-running": lambda: ProtoNet(images("running")),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_keeps_the_contract(name: str) -> None:
    learner = LEARNERS[name]()
    before = {n: t.clone() for n, t in learner.state_dict().items()}
    found = check(learner, train_steps=30)
    assert all(t.equal(before[n]) for n, t in learner.state_dict().items()) and learner.training
    assert found["learns"].startswith("holds")
    # What is not claimed is not claimed on purpose.
    unclaimed = {clause for clause, text in found.items() if not text.startswith("holds")}
    allowed: set[str] = set()
    if not learner.exact:
        allowed.add("gradient equals finite differences")
    if name in ("reptile-minibatches", "matching-context"):
        allowed.add("support order does not matter")
    if "transductive" in name:
        allowed.add("queries do not see each other")
    if name.endswith(("running", "layer-norm", "carry")):
        allowed.add("loop equals vmap")
    assert unclaimed == allowed


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str) -> None:
    assert check(IMAGES[name](), train_steps=20)["learns"].startswith("holds")


def test_regression() -> None:
    tasks = Sinusoid(shot=10, query=10).batch(0, 8)
    found = check(MAML(MLP(1, 1, (20, 20)), 0.05, criterion=mse), tasks, train_steps=40)
    assert "accuracy" not in found["learns"] and found["gradient equals finite differences"] == "holds"


def test_a_dict_of_inputs() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 6)

        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return self.inner(x["values"] * x["mask"])

    y = torch.eye(3).repeat(2, 1).expand(4, 6, 3)
    centres = torch.randn(4, 3, 8).repeat(1, 2, 1)

    def part() -> Examples:
        mask = (torch.rand(4, 6, 8) < 0.9).float()
        return Examples({"values": centres + 0.3 * torch.randn(4, 6, 8), "mask": mask}, y)

    check(ProtoNet(Masked()), Episode(part(), part()), train_steps=5)


# ------------------------------------------------------------------------------------------------ broken learners


class Detached(ProtoNet):
    def embed(self, x: Tree, support_x: Tree = None) -> Tensor:
        return self.model.head(self.model.body(x).detach())


class HalfDetached(ProtoNet):
    """Its gradient arrives everywhere, yet is not the loss's: the prototypes are held constant."""

    def loss(self, episode: Episode) -> Tensor:
        fast = self.adapt(episode.support)
        return self.criterion(self.predict(fast._replace(what=fast.what.detach()), episode.query.x), episode.query.y)


class ClaimsToBeExact(MAML):
    """First order under the name of second order."""

    def __init__(self) -> None:
        super().__init__(mlp(), 0.5, first_order=True)
        self.exact = True


class CountsInPlace(ProtoNet):
    def __init__(self) -> None:
        super().__init__(mlp())
        self.register_buffer("seen", torch.zeros(1))

    def predict(self, fast: Tree, x: Tree) -> Tensor:
        self.seen += 1
        return super().predict(fast, x)


class CountsAnew(CountsInPlace):
    def predict(self, fast: Tree, x: Tree) -> Tensor:
        self.seen = self.seen + 1
        return ProtoNet.predict(self, fast, x)


class Trains(ProtoNet):
    """Moves its own parameters while adapting, as an in-place inner optimizer does."""

    def adapt(self, support: Examples) -> Tree:
        if not self.training:
            with torch.no_grad():
                self.model.head.weight.mul_(0.99)
        return super().adapt(support)


class Remembers(ProtoNet):
    """Keeps what it learned from a task on itself, where the next task finds it."""

    last: Tensor | None = None

    def adapt(self, support: Examples) -> Tree:
        fast = super().adapt(support)
        if not self.training:
            old, self.last = self.last, fast.what.detach()
            fast = fast if old is None else fast._replace(what=fast.what + 0.5 * old)
        return fast


class MixesQueries(ProtoNet):
    def predict(self, fast: Tree, x: Tree) -> Tensor:
        out = super().predict(fast, x)
        return out - out.mean(0)


class FirstCounts(ProtoNet):
    """The order of the support examples matters."""

    def adapt(self, support: Examples) -> Tree:
        fast = super().adapt(support)
        return fast._replace(what=fast.what + 0.5 * self.embed(support.x)[0])


class NeverLearns(MetaLearner):
    """One model for all tasks; its loss falls while it becomes less sure of itself, its accuracy stays at chance."""

    def __init__(self) -> None:
        super().__init__()
        self.model = mlp()

    def adapt(self, support: Examples) -> Tree:
        return support.y

    def predict(self, fast: Tree, x: Tree) -> Tensor:
        return 5 * self.model(x)


class Explodes(ProtoNet):
    def loss(self, episode: Episode) -> Tensor:
        return super().loss(episode) * float("inf")


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda: Detached(mlp()), r"no gradient reaches model\.body"),
        (lambda: HalfDetached(mlp()), "finite differences"),
        (ClaimsToBeExact, "finite differences"),
        (CountsInPlace, "changes seen"),
        (CountsAnew, "changes seen"),
        (lambda: Trains(mlp()), r"changed model\.head\.weight"),
        (lambda: Remembers(mlp()), "tasks before it"),
        (lambda: MixesQueries(mlp()), "other queries"),
        (lambda: FirstCounts(mlp()), "ordered = True"),
        (NeverLearns, "does not learn"),
        (lambda: Explodes(mlp()), "not a finite scalar"),
    ],
    ids=lambda value: getattr(value, "__name__", None) if isinstance(value, type) else None,
)
def test_a_broken_learner_is_caught(broken: Callable[[], MetaLearner], complaint: str) -> None:
    with pytest.raises(ContractError, match=complaint):
        check(broken(), train_steps=30)


def test_what_depends_on_the_order_by_intent_says_so() -> None:
    learner = FirstCounts(mlp())
    learner.ordered = True
    assert check(learner, train_steps=10)["support order does not matter"] == "not claimed"


def test_no_toy_task_suits() -> None:
    with pytest.raises(ValueError, match="pass episodes"):
        check(ProtoNet(nn.Embedding(5, 5)))
