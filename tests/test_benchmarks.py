"""The benchmarks' own arithmetic, and their verdicts: a wrong contestant is not timed. No peer need be installed."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import page
from benchmarks.contest import Contest, Entry, gap
from benchmarks.evaluation import MAKERS as EXAMINED
from benchmarks.evaluation import Exam
from benchmarks.gradients import MAKERS, PEERS
from benchmarks.growth import POINTS, draw
from benchmarks.machine import describe
from benchmarks.race import Row, as_json, compare, race
from benchmarks.sampling import Made, found
from benchmarks.works import Work, conv4_flops, meta_flops, mini, omniglot, sine
from mapsto.data import Sinusoid, Tasks
from mapsto.episode import Episode
from mapsto.models import Conv4

FAKE = """
import time
import numpy as np
from benchmarks.contest import Contest, Entry, NotOffered

def entry(ms, loss):
    return Entry(lambda: time.sleep(ms / 1000), lambda: {"loss": np.array(loss), "gradient": np.full(4, loss)})

def refuses(device):
    raise NotOffered("no first order")

def missing(device):
    import there_is_no_such_package

def breaks(device):
    raise ValueError("one, two\\nthree")

def dies(device):
    import os
    os._exit(3)

ENTRIES = {
    "mapsto": lambda device: entry(5, 2.0001), "loop": lambda device: entry(20, 2.0),
    "liar": lambda device: entry(1, 2.1), "lost": lambda device: entry(1, float("nan")),
    "refuses": refuses, "missing": missing, "breaks": breaks, "dies": dies,
}
CONTESTS = {"fake": Contest("sleeping", ENTRIES, unit="nap", per_step=2)}
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """A race of contestants that only sleep."""
    folder = tmp_path_factory.mktemp("fake")
    (folder / "fake_contests.py").write_text(FAKE)
    names = ("mapsto", "loop", "liar", "lost", "refuses", "missing", "breaks", "dies")
    contest = Contest("sleeping", dict.fromkeys(names, lambda _: Entry(int, dict)), unit="nap", per_step=2)
    job = {"contests": "fake_contests:CONTESTS", "contest": "fake", "threads": 1, "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        found, rates = race(contest, job, rounds=1, seconds=0.02)
    assert rates == {}
    return {row.name: row for row in found}


def test_wrong_is_not_timed(rows: dict[str, Row]) -> None:
    for name, off in (("liar", 0.05), ("lost", float("inf"))):
        row = rows[name]
        assert row.state == "wrong" and row.ms is None and not row.rounds
        assert row.gap == pytest.approx(off) and f"{off:.2g}" in row.note


def test_who_cannot_is_told_apart(rows: dict[str, Row]) -> None:
    assert (rows["refuses"].state, rows["refuses"].note) == ("not offered", "no first order")
    assert (rows["missing"].state, rows["missing"].note) == ("not installed", "no module there_is_no_such_package")
    assert (rows["breaks"].state, rows["breaks"].note) == ("failed", "ValueError: one, two")
    assert rows["dies"].state == "failed" and "ended with 3" in rows["dies"].note


def test_right_is_timed(rows: dict[str, Row]) -> None:
    ours, theirs = rows["mapsto"], rows["loop"]
    assert ours.state == theirs.state == "timed" and ours.gap == pytest.approx(5e-5) and theirs.gap == 0
    assert ours.ms is not None and 2.5 <= ours.ms < 10  # two naps a step
    assert theirs.ratios["mapsto"] > 1.5
    assert ours.peak_mb is not None and ours.peak_mb > 1


def test_reference_must_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake_contests.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    contest = Contest("", {"breaks": lambda _: Entry(int, dict)}, ours=(), reference="breaks")
    job = {"contests": "fake_contests:CONTESTS", "contest": "fake", "threads": 1, "device": "cpu"}
    with pytest.raises(RuntimeError, match="breaks, could not do the work: ValueError"):
        race(contest, job)


def test_ratios_are_medians_of_rounds() -> None:
    a, b = Row("mapsto", "timed", rounds=[1.0, 2.0, 4.0]), Row("b", "timed", rounds=[6.0, 8.0, 8.0])
    wrong = Row("c", "wrong")
    compare([a, b, wrong], Contest("", {}, flops=3e9), {"float32": [1000.0, 3000.0, 500.0]})
    assert (a.ms, b.ms, wrong.ms) == (2.0, 8.0, None)
    assert b.ratios == {"mapsto": 4.0} and a.ratios == {"mapsto": 1.0}  # 6, 4, 2; not 8 / 2 by chance alone
    assert a.fraction["float32"] == pytest.approx(1.5)  # 3, 0.5, 1.5 of the rates


def test_gap() -> None:
    right = {"loss": np.array(2.0), "gradient": np.array([3.0, 4.0])}
    assert gap(right, right) == 0
    assert gap({**right, "gradient": np.array([3.0, 4.5])}, right) == pytest.approx(0.1)
    assert gap({**right, "gradient": np.array([3.0])}, right) == float("inf")
    assert gap({"loss": right["loss"]}, right) == float("inf")


@pytest.mark.parametrize("name", ["mapsto", *(name for name in PEERS if name != "jax-meta")])
@pytest.mark.parametrize("work", [sine(3, 2), omniglot(5, 2, 1, 8)], ids=["sine", "conv"])
def test_contestants_agree(work: Work, name: str) -> None:
    if name in PEERS:
        pytest.importorskip(name)
    outcomes = []
    for each in ("loop", name):
        entry = MAKERS[each](work, "cpu")
        for _ in range(2):  # so that a gradient left over would show
            entry.step()
        outcomes.append(entry.outcome())
    assert gap(outcomes[1], outcomes[0]) < 1e-4
    assert len(outcomes[0]["gradient"]) == sum(p.numel() for p in work.plain().parameters())


def test_evaluations_agree() -> None:
    exam = Exam(sine(1, 2), lambda device: Sinusoid(10, 10, device=device), 20)
    scores = {}
    for name in ("mapsto", "pure adaptation", "loop"):
        entry = EXAMINED[name](exam, "cpu")
        entry.step()
        scores[name] = entry.outcome()
    assert gap(scores["mapsto"], scores["loop"]) < 1e-5 and gap(scores["pure adaptation"], scores["loop"]) < 1e-5


def test_samplers_are_judged() -> None:
    x = torch.zeros(1100 * 20, 1, 28, 28, dtype=torch.uint8)
    number = torch.arange(len(x))
    for pixel, value in enumerate((number // 20 // 256, number // 20 % 256, number % 20)):
        x[:, 0, 0, pixel] = value.to(torch.uint8)
    tasks = Tasks((x, number.numpy() // 20)).batch(0, 32)
    assert isinstance(tasks, Episode)
    support, query = tasks
    made = Made(support.x, support.y.argmax(2), query.x, query.y.argmax(2))
    right = found(made)
    assert (right["images a task"] == 80).all() and (right["classes a task"] == 5).all()
    assert gap(found(made._replace(query_x=query.x.flip(1))), right) > 0.1  # labels of other classes
    leak = torch.cat([support.x[:, :1], query.x[:, 1:]], 1)
    assert gap(found(made._replace(query_x=leak)), right) > 0  # a support example among the queries


def test_operations() -> None:
    model, count = Conv4(down="stride", fused=False), 0

    def add(module: torch.nn.Module, given: tuple, out: torch.Tensor) -> None:
        nonlocal count
        if isinstance(module, torch.nn.Conv2d):
            count += 2 * module.weight.numel() * out.shape[2] * out.shape[3]

    for module in model.modules():
        module.register_forward_hook(add)
    model(torch.zeros(2, 1, 28, 28))
    assert sum(conv4_flops(1, 64, "stride", 28)) == count
    assert meta_flops((1.0, 10.0), support=5, query=15, steps=2, second=True) == 15 * 32 + 2 * 5 * 94
    assert mini(first_order=True).flops < mini().flops


def record() -> dict:
    """What a contest leaves in the file."""
    a, b = Row("mapsto", "timed", rounds=[1.0], first_ms=2.0, work_mb=3.0), Row("loop", "timed", rounds=[5.0])
    b.first_ms, b.work_mb = 2.0, 3.0
    rows = [a, b, Row("liar", "wrong", "off by 0.5 of the reference"), Row("old", "not offered", "no first order")]
    compare(rows, Contest("", {}, flops=1e9), {"float32": [100.0]})
    head = {"about": "a work", "date": "2026-01-01", "unit": "step", "ours": ["mapsto"], "flops": 1e9, "rounds": 1}
    return {**head, "gflops": {"float32": 100.0}, "rows": as_json(rows)}


def test_table() -> None:
    text = page.table(json.loads(json.dumps(record())))
    lines = text.splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:4]] == ["**mapsto**", "1", "1"]
    assert [cell.strip() for cell in lines[3].split("|")[1:4]] == ["loop", "5", "5"]
    assert "wrong" in lines[4] and "1000 %" in lines[2]
    assert lines[-1] == "Not timed: liar (wrong: off by 0.5 of the reference); old (not offered: no first order)."
    assert page.headline(record()) == "The fastest PyTorch peer, loop, takes 5 times as long as mapsto."


def test_file() -> None:
    machine = describe(1, "cpu")
    first = page.merged({}, machine, {"b": record()}, [])
    both = page.merged(first, machine, {"a": record()}, [{"growth": "steps"}])
    assert list(both["contests"]) == ["a", "b"] and both["growth"]
    assert page.merged(both, machine, {}, [])["growth"] == both["growth"]
    assert list(page.merged(both, {**machine, "threads": 99}, {"a": record()}, [])["contests"]) == ["a"]
    text = page.updated("x\n<!-- benchmarks: begin -->\nstale\n<!-- benchmarks: end -->\ny", both)
    assert "stale" not in text and "**a. a work**" in text and page.updated(text, both) == text


@pytest.mark.skipif(not page.FILE.exists(), reason="there are no measurements yet")
def test_page_is_made_of_the_file() -> None:
    data = json.loads(page.FILE.read_text())
    text = page.PAGE.read_text()
    assert page.updated(text, data) == text, "run `python -m benchmarks table`"
    keys = {field.name for field in fields(Row)}
    for contest in data["contests"].values():
        assert contest.keys() == record().keys() and all(row.keys() == keys for row in contest["rows"])


def test_pictures(tmp_path: Path) -> None:
    names = ("mapsto", "mapsto, recomputing", "loop", "higher")
    points = [{"growth": "steps", "name": who, "value": n, "ms": n, "work_mb": n} for n in (1, 5) for who in names]
    draw(points, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["growth-steps.png"]
    assert all(name in POINTS for name in ("steps-50", "tasks-mlp-256", "width-256"))
