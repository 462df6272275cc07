"""Tasks over several processes: the same numbers as one after the other, and refused where they would not be."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import copy
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mapsto import Episode, Examples, MetaLearner, evaluate, over_tasks, processes
from mapsto.algorithms import MAML, ProtoNet, Reptile
from mapsto.axis import forks
from mapsto.meta_gradient import backward
from mapsto.models import Conv4

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


@pytest.fixture(autouse=True)
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def images(tasks: int = 5, way: int = 3) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def part(each: int) -> Examples:
        y = torch.eye(way).repeat(each, 1).expand(tasks, way * each, way)
        return Examples(torch.rand(tasks, way * each, 1, 20, 20, generator=generator), y)

    return Episode(part(2), part(3))


def net(outputs: int = 3) -> Conv4:
    torch.manual_seed(0)
    return Conv4(outputs, filters=4)


def gradient(learner: MetaLearner, tasks: Episode, how: str) -> list[Tensor]:
    twin = copy.deepcopy(learner)
    loss = backward(twin, tasks, how)
    return [loss, *(p.grad for p in twin.parameters() if p.grad is not None)]


@pytest.mark.parametrize("make", [lambda: MAML(net(), 0.1, 2), lambda: ProtoNet(net(0)), lambda: Reptile(net(), 0.01)])
def test_processes_equal_the_loop(make) -> None:  # noqa: ANN001
    learner = make().double()
    tasks = tree_map(lambda leaf: leaf.double(), images())
    for a, b in zip(gradient(learner, tasks, "processes"), gradient(learner, tasks, "loop"), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    scores = [evaluate(learner, [tasks], how=how).values for how in ("processes", "loop")]
    assert torch.equal(*scores)


def test_processes_are_deterministic() -> None:
    found = [gradient(MAML(net(), 0.1, 2), images(), "processes") for _ in range(3)]
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_gradients_add_up() -> None:
    learner = MAML(net(), 0.1, 1)
    once = gradient(learner, images(), "processes")[1:]
    backward(learner, images(), "processes")
    backward(learner, images(), "processes")
    assert all(torch.allclose(p.grad, 2 * g, rtol=1e-5) for p, g in zip(learner.parameters(), once, strict=True))


def test_shares_are_in_order_each_on_one_core() -> None:
    torch.set_num_threads(3)
    found = processes.over_processes(lambda share: (share, os.getpid(), torch.get_num_threads()), None, list(range(8)))
    assert [part for share, _, _ in found for part in share] == list(range(8))
    assert len({process for _, process, _ in found}) == 3 and {cores for _, _, cores in found} == {1}
    assert found[0][1] == os.getpid() and torch.get_num_threads() == 3


def test_ragged_tasks() -> None:
    tasks = [Episode(*(Examples(part.x[0], part.y[0]) for part in images(1, way))) for way in (2, 3, 4)]
    learner = ProtoNet(net(0)).double()
    tasks = tree_map(lambda leaf: leaf.double(), tasks)
    for a, b in zip(gradient(learner, tasks, "processes"), gradient(learner, tasks, "loop"), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_mistake_of_the_learner_s_arrives() -> None:
    learner = MAML(net(4), 0.1, 1)  # 4 outputs for 3 classes
    with pytest.raises((ValueError, RuntimeError), match="4"):
        backward(learner, images(), "processes")
    assert all(p.grad is None for p in learner.parameters()) and torch.get_num_threads() == 2


class FailsElsewhere(ProtoNet):
    """In a copy of the process it is killed, or hangs."""

    home = os.getpid()
    how = "killed"

    def loss(self, episode: Episode) -> Tensor:
        if os.getpid() != self.home:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
        return super().loss(episode)


@pytest.mark.parametrize("how", ["killed", "hangs"])
def test_a_process_that_fails_is_made_up_for(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.5)
    learner, good = FailsElsewhere(net(0)).double(), ProtoNet(net(0)).double()
    learner.how, tasks = how, tree_map(lambda leaf: leaf.double(), images())
    with pytest.warns(UserWarning, match="a process of this step failed"):
        found = gradient(learner, tasks, "processes")
    for a, b in zip(found, gradient(good, tasks, "loop"), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    assert not Path(f"/proc/self/task/{os.getpid()}/children").read_text().strip()


class Noisy(ProtoNet):
    def loss(self, episode: Episode) -> Tensor:
        return super().loss(episode) + torch.randn(())


def test_random_numbers_are_drawn_once_each() -> None:
    """Nobody can see beforehand that a function draws: it is noticed, and the step is taken one by one."""
    losses = []
    for how in ("loop", "processes"):
        torch.manual_seed(1)
        learner = Noisy(net(0))
        losses.append(backward(learner, images(), how))
    assert torch.isclose(losses[0], losses[1], rtol=1e-5)
    with pytest.raises(ValueError, match="draws random numbers"):
        backward(learner, images(), "processes")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: ProtoNet(Conv4(0, filters=4, stats="running")), "running statistics"),
        (lambda: ProtoNet(nn.Sequential(Conv4(0, filters=4), nn.Dropout(0.5))), "dropout"),
        (lambda: Reptile(net(), carry=True), "one after the other"),
        (lambda: ProtoNet(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())), "running statistics"),
    ],
)
def test_what_must_go_in_order_is_refused_and_auto_does_it(make, reason: str) -> None:  # noqa: ANN001
    learner = make().train()
    with pytest.raises(ValueError, match=reason):
        backward(learner, images(), "processes")
    backward(learner, images(), "auto")
    assert not forks(learner, images(200)) and forks(learner.eval(), images(200)) != learner.sequential


def test_little_work_stays_in_the_loop() -> None:
    assert forks(MAML(net()), images(200)) and not forks(MAML(net()), images(2))
    torch.set_num_threads(1)
    assert not forks(MAML(net()), images(200))


def test_a_graph_can_t_come_back_from_a_process() -> None:
    learner = ProtoNet(net(0))
    with pytest.raises(ValueError, match="no graph to give back"):
        over_tasks(learner.loss, images(), how="processes")
    with torch.no_grad():
        alone = over_tasks(learner.loss, images(), how="loop")
        assert torch.allclose(over_tasks(learner.loss, images(), how="processes"), alone, rtol=1e-5)


def test_an_unknown_way() -> None:
    with pytest.raises(ValueError, match="'auto', 'loop', 'processes' and 'vmap'"):
        over_tasks(ProtoNet(net(0)).loss, images(), how="parallel")
