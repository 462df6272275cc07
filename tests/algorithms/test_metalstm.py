"""Meta-LSTM: the paper's equations coordinate by coordinate, its meta-gradient with constant inner gradients."""

import math

import pytest
import torch
from conftest import Maker
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from mapsto import Episode, Examples, check, evaluate, fit
from mapsto.algorithms import MAML, trainable
from mapsto.algorithms.optimization.metalstm import LSTMOptimizer, MetaLSTM, preprocess
from mapsto.episode import unstack
from mapsto.losses import mse
from mapsto.models import MLP


def lively(optimizer: LSTMOptimizer) -> LSTMOptimizer:
    """With weights large enough for every path to matter."""
    generator = torch.Generator().manual_seed(1)
    for p in optimizer.double().parameters():
        p.data = 0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return optimizer


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def size_and_sign(x: float) -> tuple[float, float]:
    """The paper's preprocessing, p = 10."""
    if abs(x) >= math.exp(-10):
        return math.log(abs(x)) / 10, math.copysign(1, x)
    return -1.0, math.exp(10) * x


# ------------------------------------------------------------------------------------------------ the equations


def test_preprocessing() -> None:
    x = [0.0, 1e-6, -1e-6, math.exp(-10), -1.001 * math.exp(-10), 1e-3, -1.0, 20.0]
    found = preprocess(torch.tensor(x, dtype=torch.float64))
    torch.testing.assert_close(found.T, torch.tensor([size_and_sign(v) for v in x], dtype=torch.float64))
    assert preprocess(torch.tensor(1.0)).tolist() == [0, 1]


def by_hand(optimizer: LSTMOptimizer, theta: float, steps: list[tuple[float, float]]) -> float:
    """One coordinate's value after steps of (gradient, loss), scalar by scalar."""
    n = optimizer.hidden
    weight, bias, to_f, to_i = (
        p.tolist() for p in (optimizer.weight, optimizer.bias, optimizer.forget_weight, optimizer.input_weight)
    )
    h, cell, f, i = [0.0] * n, [0.0] * n, 0.0, 0.0
    for grad, loss in steps:
        x = [*size_and_sign(loss), *size_and_sign(grad), *h]
        raw = [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        for k in range(n):
            write, forget, output, new = (raw[part * n + k] for part in range(4))
            cell[k] = sigmoid(forget) * cell[k] + sigmoid(write) * math.tanh(new)
            h[k] = sigmoid(output) * math.tanh(cell[k])
        f = sum(w * v for w, v in zip(to_f, [*h, theta, f], strict=True)) + optimizer.forget_bias.item()
        i = sum(w * v for w, v in zip(to_i, [*h, theta, i], strict=True)) + optimizer.input_bias.item()
        theta = sigmoid(f) * theta - sigmoid(i) * grad
    return theta


def test_three_steps_are_the_papers_equations_coordinate_by_coordinate() -> None:
    optimizer = lively(LSTMOptimizer(3))
    params = {"a": torch.randn(2, 3).double(), "b": torch.randn(2).double()}
    steps = [({n: torch.randn(p.shape).double() * size for n, p in params.items()}, size) for size in (2.0, 1e-3, 1e-6)]
    state, fast = optimizer.init(params), params
    for grads, loss in steps:
        # A gradient's place in its dict means nothing.
        fast, state = optimizer.step(
            fast, dict(reversed(grads.items())), state, torch.tensor(loss, dtype=torch.float64)
        )
    for name, p in params.items():
        for at in torch.cartesian_prod(*(torch.arange(n) for n in p.shape)).view(p.numel(), -1):
            place = tuple(at.tolist())
            alone = [(grads[name][place].item(), loss) for grads, loss in steps]
            assert math.isclose(fast[name][place].item(), by_hand(optimizer, p[place].item(), alone), rel_tol=1e-12)


def test_it_begins_as_gradient_descent() -> None:
    optimizer = LSTMOptimizer()
    assert 4 < optimizer.forget_bias < 5 and -5 < optimizer.input_bias < -4
    rest = [p for n, p in optimizer.named_parameters() if "_bias" not in n]
    assert all(0.005 < p.abs().max() <= 0.01 for p in rest)
    params, loss = {"a": torch.randn(1000)}, torch.tensor(1.6)
    still, _ = optimizer.step(params, {"a": torch.zeros(1000)}, optimizer.init(params), loss)
    moved, _ = optimizer.step(params, {"a": torch.ones(1000)}, optimizer.init(params), loss)
    keep, rate = still["a"] / params["a"], still["a"] - moved["a"]
    assert ((keep > 0.98) & (keep < 0.994)).all() and ((rate > 0.0065) & (rate < 0.019)).all()


# ------------------------------------------------------------------------------------------------ the learner


def small() -> MetaLSTM:
    learner = MetaLSTM(MLP(6, 3, (4,)).double(), steps=3, hidden=4)
    lively(learner.optimizer)  # type: ignore[arg-type]
    return learner


def test_the_meta_gradient_is_that_with_constant_losses_and_gradients(make_episodes: Maker) -> None:
    learner, (one,) = small(), unstack(make_episodes(tasks=1))
    seen: list[tuple[dict[str, Tensor], Tensor]] = []

    def replayed() -> Tensor:
        """The query's loss; in the first call it takes losses and gradients, in later ones they are what they were."""
        fast = trainable(learner.model)
        state = learner.optimizer.init(fast)
        for step in range(3):
            if len(seen) == step:
                at = {n: p.detach().requires_grad_() for n, p in fast.items()}
                loss = F.cross_entropy(functional_call(learner.model, at, (one.support.x,)), one.support.y.argmax(1))
                grads = torch.autograd.grad(loss, list(at.values()))
                seen.append((dict(zip(at, grads, strict=True)), loss.detach()))
            grads, loss = seen[step]
            fast, state = learner.optimizer.step(fast, grads, state, loss)
        return F.cross_entropy(functional_call(learner.model, fast, (one.query.x,)), one.query.y.argmax(1))

    value = learner.loss(one)
    torch.testing.assert_close(replayed(), value)
    for p, grad in zip(learner.parameters(), torch.autograd.grad(value, list(learner.parameters())), strict=True):
        assert grad.abs().max() > 1e-6
        flat = p.data.view(-1)
        for i in range(min(4, flat.numel())):
            values = []
            for h in (1e-5, -1e-5):
                flat[i] += h
                values.append(replayed().item())
                flat[i] -= h
            assert math.isclose((values[0] - values[1]) / 2e-5, grad.view(-1)[i].item(), rel_tol=1e-5, abs_tol=1e-9)


def test_loop_equals_vmap(make_episodes: Maker) -> None:
    learner, episodes = small(), make_episodes()
    loop, vmap = (learner(episodes, how=how) for how in ("loop", "vmap"))
    torch.testing.assert_close(loop, vmap, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(value, list(learner.parameters())) for value in (loop, vmap)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


def test_it_passes_the_contract() -> None:
    found = check(MetaLSTM(MLP(8, 5, (16,)), steps=5), train_steps=30)
    assert found["learns"].startswith("holds")
    assert [clause for clause, text in found.items() if not text.startswith("holds")] == [
        "gradient equals finite differences"  # its inner gradients are constants
    ]


def test_with_maml_losses_and_gradients_are_differentiated_too(make_episodes: Maker) -> None:
    optimizer = LSTMOptimizer(5)
    for p in (optimizer.weight, optimizer.forget_weight, optimizer.input_weight):
        p.data *= 50  # else what the gates see hardly matters
    optimizer.input_bias.data.zero_()
    found = check(MAML(MLP(6, 3, (8,)), optimizer=optimizer), make_episodes(dtype=torch.float32), train_steps=25)
    assert found["gradient equals finite differences"] == found["loop equals vmap"] == "holds"


def test_regression_and_steps_at_test() -> None:
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).view(1, 8, 1)
    episodes = Episode(Examples(x, x.sin()), Examples(x, x.sin()))
    learner = MetaLSTM(MLP(1, 1, (8,)), criterion=mse).double()
    fit(learner, [episodes] * 30, torch.optim.Adam(learner.parameters(), 1e-2), steps=30)
    assert evaluate(learner, [episodes], mse, steps=12).mean < evaluate(learner, [episodes], mse, steps=0).mean


@pytest.mark.parametrize("training", [True, False])
def test_memory(training: bool) -> None:
    # As its docstring says: about 600 bytes a parameter and a step, and none where nobody will differentiate.
    learner, held = MetaLSTM(MLP(100, 5, (100,)), steps=10), {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor  # kept, so that no place is used twice
        return tensor

    support = Examples(torch.randn(5, 100), torch.eye(5))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.set_grad_enabled(training):
        learner.adapt(support)
    number = 10 * sum(p.numel() for p in learner.model.parameters())
    size = sum(tensor.untyped_storage().nbytes() for tensor in held.values()) / number
    assert 500 < size < 700 if training else size < 10
