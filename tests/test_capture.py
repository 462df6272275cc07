"""A recorded step equals the step itself, follows the settings, and is refused where it would freeze something."""

# pyright: reportArgumentType=false

import copy
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mapsto import Episode, Examples, MetaLearner, capture, fit
from mapsto.algorithms import MAML, SGD, Adam, ProtoNet, Reptile
from mapsto.capture import _RECORDED, OFTEN, CannotRecord
from mapsto.data import Sinusoid
from mapsto.episode import Tree
from mapsto.losses import mse
from mapsto.meta_gradient import backward, records
from mapsto.models import MLP, BatchNorm, Conv4


def waves(tasks: int = 6, shot: int = 5) -> Episode:
    return tree_map(lambda leaf: leaf.double(), Sinusoid(shot, 7).batch(0, tasks))


def maml(steps: int = 2, **options) -> MAML:  # noqa: ANN003
    torch.manual_seed(0)
    return MAML(MLP(1, 1, (8, 8)), 0.05, steps, criterion=mse, **options).double()


def gradient(learner: MetaLearner, tasks: Episode, how: str, chunk: int | None = None) -> list[Tensor]:
    for p in learner.parameters():
        p.grad = None
    loss = backward(learner, tasks, how, chunk)
    return [loss, *(p.grad.clone() for p in learner.parameters() if p.grad is not None)]


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


class Heads(nn.Module):
    """Stacks of matrices, turned about other axes than their own."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.tanh().unflatten(-1, (5, 2)).transpose(-2, -3)
        return (heads @ heads.mT @ heads).transpose(-2, -3).flatten(-2)


LEARNERS = {
    "maml": lambda: maml(),
    "fomaml": lambda: maml(first_order=True),
    "momentum": lambda: maml(optimizer=SGD(0.05, momentum=0.9)),
    "adam": lambda: maml(optimizer=Adam(0.01)),
    "anil": lambda: maml(adapts="head."),
    "reptile": lambda: Reptile(MLP(1, 1, (8,)), 0.01, criterion=mse).double(),
    "norm": lambda: MAML(nn.Sequential(nn.Linear(1, 8), BatchNorm(8), nn.Linear(8, 1)), 0.05, criterion=mse).double(),
    "heads": lambda: MAML(nn.Sequential(nn.Linear(1, 10), Heads(), nn.Linear(10, 1)), 0.05, criterion=mse).double(),
    "heads by the loop": lambda: MAML(
        nn.Sequential(nn.Linear(1, 10), nn.LayerNorm(10), Heads(), nn.Linear(10, 1)), 0.05, criterion=mse
    ).double(),
    "by the loop": lambda: MAML(
        nn.Sequential(nn.Linear(1, 8), nn.LayerNorm(8), nn.Linear(8, 1)), criterion=mse
    ).double(),
}


def test_running_averages_and_draws_are_those_of_the_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), BatchNorm(8, stats="running"), nn.Dropout(0.3), nn.Linear(8, 4)).double()
    recorded, plain = ProtoNet(model), ProtoNet(copy.deepcopy(model))
    y = torch.eye(3).double().repeat(4, 1, 1)
    for _ in range(3):
        tasks = Episode(*(Examples(torch.randn(4, 3, 1).double(), y) for _ in range(2)))
        before = torch.get_rng_state()
        ours, after = gradient(recorded, tasks, "captured"), torch.get_rng_state()
        torch.set_rng_state(before)
        assert_equal(ours, gradient(plain, tasks, "loop"))
        assert torch.equal(after, torch.get_rng_state())
    assert_equal([*recorded.buffers()], [*plain.buffers()])
    nn.utils.clip_grad_norm_(recorded.parameters(), 1e-3)  # in place


@pytest.mark.parametrize("name", LEARNERS)
def test_captured_equals_the_loop(name: str) -> None:
    learner, tasks = LEARNERS[name](), waves()
    assert_equal(gradient(learner, tasks, "captured"), gradient(learner, tasks, "loop"))
    with torch.no_grad():
        for p in learner.parameters():
            p.mul_(0.9)
    for _ in range(2):  # memory is laid out at the first replay, and used again from the second on
        tasks = tree_map(lambda leaf: leaf.flip(0) + 0.1, tasks)
        assert_equal(gradient(learner, tasks, "captured"), gradient(learner, tasks, "loop"))


class Ridge(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.solve(x.mT @ x + torch.eye(x.shape[-1], dtype=x.dtype), x.mT).mT


def test_a_solver_s_check_has_no_result() -> None:
    torch.manual_seed(0)
    learner = ProtoNet(nn.Sequential(nn.Linear(1, 8), Ridge(), nn.Linear(8, 4))).double()
    y = torch.eye(3).double().repeat(4, 1, 1)
    tasks = Episode(*(Examples(torch.randn(4, 3, 1).double(), y) for _ in range(2)))
    assert_equal(gradient(learner, tasks, "captured"), gradient(learner, tasks, "loop"))


def test_what_a_replay_found_outlives_the_next() -> None:
    learner, tasks = maml(), waves()
    recording = capture.recorded(learner, tasks, "vmap", "captured")
    loss, grads = recording(tasks)
    kept = [loss.clone(), *(grad.clone() for grad in grads)]
    for _ in range(3):
        recording(tree_map(lambda leaf: leaf * 2, tasks))
    assert all(torch.equal(a, b) for a, b in zip([loss, *grads], kept, strict=True))


@pytest.mark.parametrize("name", LEARNERS)
def test_compiled_equals_the_loop(name: str, caplog: pytest.LogCaptureFixture) -> None:
    learner, tasks = LEARNERS[name](), waves()
    assert_equal(gradient(learner, tasks, "compiled"), gradient(learner, tasks, "loop"))
    assert not said(caplog)  # torch's compiler would have said that it takes a while
    one = tree_map(lambda leaf: leaf[:1].flip(1), tasks)
    assert_equal(gradient(learner, one, "compiled"), gradient(learner, one, "loop"))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "mapsto"]


def test_what_is_not_written_out_goes_to_torchs_compiler(caplog: pytest.LogCaptureFixture) -> None:
    """The layer norm's derivatives work in place, which torch's compiler must not see."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.LayerNorm(4), Turn(), nn.Linear(4, 1))
    learner, tasks = MAML(model, 0.05, criterion=mse).double(), waves(2)
    assert_equal(gradient(learner, tasks, "compiled"), gradient(learner, tasks, "loop"))
    assert "compiling a graph" in said(caplog)[-1]


class Turn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.atan(x)


WITHOUT = """
from tests.test_capture import assert_equal, gradient, maml, waves
learner, tasks = maml(1), waves(3)
assert_equal(gradient(learner, tasks, "recorded"), gradient(learner, tasks, "loop"))
gradient(learner, tasks, "compiled")
"""


def test_without_a_compiler(tmp_path: Path) -> None:
    """In a process of its own, since torch remembers what compiler it found."""
    own = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=os.environ | own, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith(
        "how='compiled' needs a C++ compiler: install one (g++), or take how='captured'"
    )


def test_chunks_also_of_unequal_sizes() -> None:
    learner = maml()
    assert_equal(gradient(learner, waves(5), "captured", 2), gradient(learner, waves(5), "loop"))


def test_convolutions_are_recorded_task_by_task() -> None:
    torch.manual_seed(0)
    learner = MAML(Conv4(2, filters=3, size=16), 0.1, 2).double()
    y = torch.eye(2, dtype=torch.float64).repeat(20, 1).expand(3, 40, 2)
    tasks = Episode(*[Examples(torch.rand(3, 40, 1, 16, 16, dtype=torch.float64), y) for _ in range(2)])
    assert_equal(gradient(learner, tasks, "captured"), gradient(learner, tasks, "loop"))


@pytest.mark.parametrize("first_order", [False, True])
def test_strided_convolutions_are_compiled(first_order: bool, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    learner = MAML(Conv4(2, filters=6, size=28, down="stride"), 0.1, 2, first_order).double()
    y = torch.eye(2, dtype=torch.float64).repeat(5, 1).expand(3, 10, 2)
    tasks = Episode(*[Examples(torch.rand(3, 10, 1, 28, 28, dtype=torch.float64), y) for _ in range(2)])
    assert_equal(gradient(learner, tasks, "compiled"), gradient(learner, tasks, "loop"))
    assert not said(caplog)


def test_settings_are_followed() -> None:
    """A recording freezes Python's part of the step: when that changes, another is made."""
    learner, tasks = maml(steps=1), waves()
    before = gradient(learner, tasks, "captured")
    learner.steps = 3
    assert_equal(gradient(learner, tasks, "captured"), gradient(learner, tasks, "loop"))
    learner.optimizer.lr = 0.2
    assert_equal(gradient(learner, tasks, "captured"), gradient(learner, tasks, "loop"))
    learner.get_parameter("model.body.0.weight").requires_grad_(False)
    assert_equal(gradient(learner, tasks, "captured"), gradient(learner, tasks, "loop"))
    learner.get_parameter("model.body.0.weight").requires_grad_(True)
    learner.steps, learner.optimizer.lr = 1, 0.05
    assert_equal(gradient(learner, tasks, "captured"), before)
    assert_equal(gradient(learner, waves(3, 4), "captured"), gradient(learner, waves(3, 4), "loop"))


class Fading(MAML):
    def at_step(self, step: int) -> None:
        self.optimizer.lr = 0.1 / (1 + step)


def test_settings_that_change_every_step_are_not_recorded_for_ever() -> None:
    learner, tasks = Fading(MLP(1, 1, (4,)), criterion=mse).double(), waves(2)
    for step in range(OFTEN):
        learner.at_step(step)
        backward(learner, tasks, "captured")
    learner.at_step(OFTEN)
    with pytest.raises(CannotRecord, match="change from step to step"):
        backward(learner, tasks, "captured")


class Looks(ProtoNet):
    """Decides by a number in a tensor."""

    def embed(self, x: Tree, support_x: Tree = None) -> Tensor:
        z = super().embed(x)
        return z if float(z.sum()) > 0 else 2 * z


def test_what_depends_on_values_is_refused() -> None:
    learner = Looks(MLP(2, 3)).double()
    y = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    tasks = Episode(*[Examples(torch.rand(2, 3, 2, dtype=torch.float64), y)] * 2)
    state = torch.get_rng_state()
    with pytest.raises(CannotRecord, match="Looks's step can't be recorded"):
        backward(learner, tasks, "captured")
    assert torch.equal(state, torch.get_rng_state())


def test_fit_records_long_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, source = maml(1).float(), Sinusoid(5, 5)
    assert records(learner, source.batch(0, 4), 1000) and not records(learner, source.batch(0, 4), 999)
    images = Episode(*[Examples(torch.rand(1, 80, 1, 28, 28), torch.rand(1, 80, 5))] * 2)
    many = tree_map(lambda leaf: leaf.repeat(torch.get_num_threads(), *[1] * (leaf.dim() - 1)), images)
    assert records(MAML(Conv4(5, filters=2)), many, 9999)
    assert torch.get_num_threads() == 1 or not records(MAML(Conv4(5, filters=2)), images, 9999)
    monkeypatch.setattr("mapsto.meta_gradient.WORTH", 3)
    twins = [copy.deepcopy(learner) for _ in range(2)]
    losses = [
        fit(twin, source, torch.optim.Adam(twin.parameters()), steps=4, batch=3, how=how)
        for twin, how in zip(twins, ("auto", "loop"), strict=True)
    ]
    assert twins[0] in _RECORDED and twins[1] not in _RECORDED
    assert torch.allclose(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-4)
    # What can't be recorded is trained all the same.
    looks = Looks(MLP(2, 3))
    y = torch.eye(3).expand(2, 3, 3)
    tasks = Episode(*[Examples(torch.rand(2, 3, 2), y)] * 2)
    with pytest.warns(UserWarning, match="vmap failed"):
        assert len(fit(looks, [tasks] * 4, torch.optim.Adam(looks.parameters()), steps=4)) == 4


def test_random_numbers_are_fresh_in_every_replay() -> None:
    learner = ProtoNet(nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 4)))
    y = torch.eye(3).expand(2, 3, 3)
    tasks = Episode(*[Examples(torch.rand(2, 3, 2), y)] * 2)
    losses = {float(backward(learner, tasks, "captured")) for _ in range(4)}
    assert len(losses) == 4


def test_recordings_die_with_their_learner() -> None:
    learner = maml()
    backward(learner, waves(), "captured")
    assert learner in _RECORDED
    gone = weakref.ref(learner)
    del learner
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("how", ["loop", "processes", "captured", "compiled"])
def test_gradients_lie_in_memory_as_their_parameters_do(how: str) -> None:
    """Fused optimisers read both number by number."""
    learner = MAML(Conv4(2, filters=3, size=28, down="stride"), 0.1, 1).double()
    x, y = torch.randn(3, 4, 1, 28, 28).double(), torch.eye(2).double().repeat(3, 2, 1)
    backward(learner, Episode(Examples(x, y), Examples(x.flip(1), y)), how)
    for p in learner.parameters():
        assert p.grad is not None
        steps = zip(p.shape, p.stride(), p.grad.stride(), strict=True)
        assert all(n == 1 or ours == own for n, ours, own in steps)
    plain = copy.deepcopy(learner)
    for p, q in zip(learner.parameters(), plain.parameters(), strict=True):
        assert p.grad is not None
        q.grad = p.grad.clone()
    torch.optim.Adam(learner.parameters(), fused=True).step()
    torch.optim.Adam(plain.parameters(), fused=False).step()
    assert_equal([*learner.parameters()], [*plain.parameters()])
