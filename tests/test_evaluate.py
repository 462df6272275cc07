"""Evaluation: the interval, nothing changed, tasks independent of each other."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportUnusedExpression=false

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import Maker
from torch import Tensor, nn

from mapsto import DataError, Examples, MetaLearner, Scores, evaluate, stack
from mapsto.algorithms import MAML, ProtoNet, Reptile
from mapsto.data import Sinusoid, Tasks
from mapsto.episode import Tree, unstack
from mapsto.losses import mse
from mapsto.metrics import accuracy
from mapsto.models import MLP, BatchNorm


def source(seed: int = 0) -> Tasks:
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(120) % 12
    x = torch.randn(12, 6, generator=generator)[labels] + torch.randn(120, 6, generator=generator)
    return Tasks((x, labels), way=3, shot=2, query=4, seed=seed)


def random_states() -> tuple:
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), (kind, keys.tolist(), *rest), random.getstate()


class Stateful(MetaLearner):
    """All that a learner should not do at test: random numbers from everywhere, and buffers that change."""

    def __init__(self, how: str = "in place") -> None:
        super().__init__()
        self.model, self.how = MLP(6, 4, (5,)), how
        self.drop = nn.Dropout(0.3).eval()
        self.register_buffer("seen", torch.zeros(()))

    def adapt(self, support: Examples) -> Tree:
        torch.rand(3), np.random.rand(3), random.random()
        if self.how == "in place":
            self.seen += 1
        else:
            self.seen = self.seen + 1
        return self.model(support.x).mean() + self.seen

    def predict(self, fast: Tree, x: Tree) -> Tensor:
        return self.model(x)[:, :3] + fast * torch.tensor([0.0, 1.0, 0.0])


LEARNERS: dict[str, Callable[[], MetaLearner]] = {
    "maml": lambda: MAML(MLP(6, 3, (8,)), 0.5),
    "maml-running": lambda: MAML(nn.Sequential(nn.Linear(6, 8), BatchNorm(8, "running"), nn.Linear(8, 3)), 0.5),
    "maml-torch-norm": lambda: MAML(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), 0.5),
    "maml-dropout": lambda: MAML(nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 3)), 0.5),
    "protonet": lambda: ProtoNet(MLP(6, 4)),
    "protonet-running": lambda: ProtoNet(nn.Sequential(nn.Linear(6, 8), BatchNorm(8, "running"))),
    "reptile-carry": lambda: Reptile(MLP(6, 3, (8,)), 0.05, carry=True),
    "in place": Stateful,
    "anew": lambda: Stateful("anew"),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_nothing_changes(name: str) -> None:
    # pitfall: evaluation that moves the meta-parameters, because it restores references to what it trained in place
    learner = LEARNERS[name]()
    learner.train()
    list(learner.modules())[-1].eval()  # a mode of its own for a part must survive as well
    modes = [m.training for m in learner.modules()]
    before = {n: t.clone() for n, t in learner.state_dict().items()}
    objects = {n: t.data_ptr() for n, t in [*learner.named_parameters(), *learner.named_buffers()]}
    states, steps = random_states(), learner.steps
    evaluate(learner, source(), tasks=20, steps=None if learner.steps is None else 7)
    assert random_states() == states
    assert [m.training for m in learner.modules()] == modes and learner.steps == steps
    assert all(t.equal(before[n]) for n, t in learner.state_dict().items())
    assert objects == {n: t.data_ptr() for n, t in [*learner.named_parameters(), *learner.named_buffers()]}
    assert all(p.grad is None for p in learner.parameters()) and torch.is_grad_enabled()


@pytest.mark.parametrize("name", LEARNERS)
def test_a_task_scores_the_same_wherever_it_stands(name: str) -> None:
    learner, episodes = LEARNERS[name](), source().batch(0, 6)
    parts = unstack(episodes)

    def score(items: list, how: str) -> Tensor:
        return evaluate(learner, items, lambda p, y: learner.criterion(p, y), how=how).values

    first = score([episodes], "loop")
    assert first.equal(score([stack(parts[::-1])], "loop").flip(0))
    assert first.equal(score([stack([part]) for part in parts], "loop"))
    torch.testing.assert_close(first, score([episodes], "auto"), rtol=1e-4, atol=1e-6)


def test_everything_is_put_back_after_an_exception() -> None:
    learner = Stateful()
    before, states = {n: t.clone() for n, t in learner.state_dict().items()}, random_states()

    def fails(prediction: Tensor, y: Tensor) -> Tensor:
        torch.rand(2), np.random.rand(2), random.random()
        raise ArithmeticError("no score")

    with pytest.raises(ArithmeticError):
        evaluate(learner, source(), fails, tasks=4)
    assert random_states() == states and learner.training and not learner.drop.training
    assert all(t.equal(before[n]) for n, t in learner.state_dict().items())
    maml = MAML(MLP(6, 3), steps=2)
    with pytest.raises(ArithmeticError):
        evaluate(maml, source(), fails, tasks=4, steps=9)
    assert maml.steps == 2 and maml.training


def test_interval() -> None:
    # pitfall: a bare mean; or a spread of batch means, or of the population, under the name of a confidence interval
    values = torch.tensor([0.2, 0.4, 0.9, 0.5], dtype=torch.float64)
    scores = Scores(values, None, "none")
    assert scores.mean == pytest.approx(0.5)
    assert scores.interval == pytest.approx(1.96 * np.std(values.numpy(), ddof=1) / math.sqrt(4), rel=1e-12)
    assert str(scores) == f"0.5000 ± {scores.interval:.4f} (4 tasks)"
    assert math.isnan(Scores(values[:1], None, "none").interval)


@pytest.mark.parametrize("batch", [1, 7, 16])
def test_values_are_one_a_task_whatever_the_batch(batch: int) -> None:
    learner, tasks = ProtoNet(MLP(6, 4)), source()
    scores = evaluate(learner, tasks, tasks=20, batch=batch)
    expected = []
    for i in range(20):
        with torch.no_grad():
            prediction = learner.predict(learner.adapt(tasks[i].support), tasks[i].query.x)
        expected.append((prediction.argmax(1) == tasks[i].query.y.argmax(1)).double().mean())
    assert scores.values.dtype == torch.float64 and scores.values.equal(torch.stack(expected))


def test_a_source_gives_a_thousand_tasks_by_default() -> None:
    assert len(evaluate(ProtoNet(nn.Flatten()), source(), batch=250).values) == 1000


def test_another_shape_and_other_steps_at_test() -> None:
    # pitfall: as many queries as shots, or the inner steps of training, because nothing else can be said
    learner, seen = ProtoNet(MLP(6, 4)), []

    def metric(prediction: Tensor, y: Tensor) -> Tensor:
        seen.append(tuple(prediction.shape))
        return accuracy(prediction, y)

    evaluate(learner, source(), metric, tasks=2, way=5, shot=1, query=6, how="loop")
    assert seen == [(30, 5)] * 2
    learner = Reptile(MLP(6, 3, (8,)), 0.05, steps=2)
    few, many = (evaluate(learner, source(), lambda p, y: learner.criterion(p, y), tasks=10, steps=n) for n in (0, 20))
    assert (few.steps, many.steps) == (0, 20) and many.mean < few.mean


def test_variable_shapes() -> None:
    tasks = source().replace(way=(2, 6), shot=(1, 4))
    assert len(evaluate(ProtoNet(MLP(6, 4)), tasks, tasks=20).values) == 20


def test_iterables() -> None:
    learner, tasks = ProtoNet(MLP(6, 4)), source()
    batches = [tasks.batch(0, 4), tasks.batch(4, 4), tasks.batch(8, 4)]
    whole = evaluate(learner, tasks, tasks=12, how="loop").values
    assert evaluate(learner, iter(batches), how="loop").values.equal(whole)
    assert evaluate(learner, (b for b in batches), tasks=6, how="loop").values.equal(whole[:6])
    assert evaluate(learner, [unstack(batches[0])]).values.shape == (4,)


def test_progress() -> None:
    seen: list[int] = []
    evaluate(ProtoNet(nn.Flatten()), source(), tasks=10, batch=4, on_batch=lambda values: seen.append(len(values)))
    assert seen == [4, 8, 10]


def test_regression() -> None:
    scores = evaluate(MAML(MLP(1, 1), 0.01, criterion=mse), Sinusoid(), mse, tasks=50)
    assert 0 < scores.mean < 20 and scores.norm == "none"
    with pytest.raises(ValueError, match="metric=mse"):
        evaluate(MAML(MLP(1, 1), 0.01, criterion=mse), Sinusoid(), tasks=5)


def test_mistakes_are_named(make_episodes: Maker) -> None:
    learner, episodes = ProtoNet(MLP(6, 4)), make_episodes(dtype=torch.float32)
    with pytest.raises(ValueError, match="ProtoNet takes no inner steps"):
        evaluate(learner, [episodes], steps=5)
    with pytest.raises(ValueError, match="only for a source"):
        evaluate(learner, [episodes], way=2)
    with pytest.raises(ValueError, match="no tasks"):
        evaluate(learner, [])
    with pytest.raises(ValueError, match="no tasks"):
        evaluate(learner, source(), tasks=0)
    with pytest.raises(DataError, match="13-way"):
        evaluate(learner, source(), way=13)
    with pytest.raises(ValueError, match=r"as many outputs|one shape"):
        evaluate(MAML(MLP(6, 3)), source(), tasks=2, way=5, how="loop")
