"""docs/from-other-libraries.md: its `# mapsto` blocks run, and do what the blocks before them do."""

import copy
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from mapsto.data import Labelled, Tasks

TEXT = (Path(__file__).parent.parent / "docs" / "from-other-libraries.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
BLOCK = re.compile(r"```python\n# (\w+)\n(.*?)```", re.DOTALL)


def blocks(section: str, library: str) -> list[str]:
    return [code for name, code in BLOCK.findall(SECTIONS[section]) if name == library]


def names() -> dict[str, Any]:
    """What the page takes for granted, tiny and in float64."""
    generator = torch.Generator().manual_seed(0)

    def labelled(n: int) -> tuple[Tensor, Tensor]:
        return torch.randn(n, 6, generator=generator, dtype=torch.float64), torch.arange(n) % 3

    (x, y), (query_x, query_y), (many_x, many_y) = labelled(6), labelled(9), labelled(60)
    tasks = Tasks((many_x, many_y), way=3, shot=2, query=3, transform=lambda x: x)
    return {
        "torch": torch, "F": F, "x": x, "y": y, "query_x": query_x, "query_y": query_y,
        "model": nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double(),
        "minibatches": [(x[:3], y[:3]), (x[3:], y[3:])],
        "tasks": tasks, "test_tasks": tasks, "my_dataset": TensorDataset(many_x.float(), torch.arange(60) % 6),
    }  # fmt: skip


def grads(model: nn.Module) -> list[Tensor]:
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert found and len(found) == len(list(model.parameters()))
    return found


def test_the_page_has_its_sections_and_every_block_is_python() -> None:
    assert list(SECTIONS) == ["higher", "learn2learn", "torchmeta"]
    for name, code in BLOCK.findall(TEXT):
        compile(code, f"{name} block", "exec")
    assert TEXT.count("```python") == len(BLOCK.findall(TEXT))


def test_higher() -> None:
    there, here, scope = blocks("higher", "higher"), blocks("higher", "mapsto"), names()
    start = copy.deepcopy(scope["model"])
    results = []
    for code in here:
        scope["model"].zero_grad()
        exec(code, scope)
        results.append([g.clone() for g in grads(scope["model"])])
    assert all(p.equal(q) for p, q in zip(start.parameters(), scope["model"].parameters(), strict=True))
    higher = pytest.importorskip("higher", reason="pip install higher, to compare meta-gradients with it")
    assert len(there) == 2
    for code, ours in zip(there, results, strict=False):
        theirs = {**names(), "higher": higher, "model": copy.deepcopy(start)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(code, theirs)
        torch.testing.assert_close(ours, grads(theirs["model"]), rtol=1e-10, atol=1e-12)


def test_learn2learn(capsys: pytest.CaptureFixture[str]) -> None:
    fitting, by_hand, tasks = blocks("learn2learn", "mapsto")
    scope = names()
    exec(fitting.replace("60_000", "2").replace("tasks=600", "tasks=4"), scope)
    assert "(4 tasks)" in capsys.readouterr().out
    # What clone() and adapt() do there, written out.
    maml, (support, query), fast = scope["maml"], scope["tasks"][0], dict(scope["model"].named_parameters())
    for _ in range(5):
        loss = F.cross_entropy(torch.func.functional_call(maml.model, fast, (support.x,)), support.y.argmax(1))
        steps = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
        fast = {n: p - 0.5 * g for (n, p), g in zip(fast.items(), steps, strict=True)}
    loss = F.cross_entropy(torch.func.functional_call(maml.model, fast, (query.x,)), query.y.argmax(1))
    expected = torch.autograd.grad(loss, list(maml.parameters()))
    maml.zero_grad()
    exec(by_hand, scope)
    torch.testing.assert_close(grads(maml), list(expected), rtol=1e-10, atol=1e-12)
    exec(tasks, scope)
    assert scope["x"].shape == (5, 6) and scope["y"].shape == (5, 5) and scope["query_x"].shape == (5, 6)


def test_torchmeta(monkeypatch: pytest.MonkeyPatch) -> None:
    step, batches = blocks("torchmeta", "mapsto")
    scope = {key: thing.float() if key in ("x", "query_x") else thing for key, thing in names().items()}
    exec(step, scope)
    model = scope["model"]
    inner = torch.autograd.grad(F.cross_entropy(model(scope["x"]), scope["y"]), list(model.parameters()))
    for p, g, (name, moved) in zip(model.parameters(), inner, scope["params"].items(), strict=True):
        torch.testing.assert_close(moved, p - 0.4 * g, msg=name)
    grads(model)

    class Characters:
        train = Labelled(
            torch.zeros(6 * 20, 1, 28, 28, dtype=torch.uint8), torch.arange(120).numpy() % 6, list("abcdef")
        )

    monkeypatch.setattr("mapsto.data.Omniglot", Characters)
    exec(batches.replace("range(100)", "range(2)"), scope)
    assert scope["x"].shape == (16, 25, 1, 28, 28) and scope["y"].shape == (16, 25, 5)
    assert scope["labels"].shape == (16, 25) and scope["query_x"].shape == (16, 75, 1, 28, 28)
