"""The studies in examples/: what they measure, on small runs, and what they say about it."""

import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tiny import PROTONET, Tiny

from mapsto import build, run
from mapsto.data import Labelled, Omniglot, Tasks
from mapsto.data.files import data_root
from mapsto.data.fitted import fitted
from mapsto.episode import Shape
from mapsto.errors import MapstoError
from mapsto.models import Conv4

EXAMPLES = Path(__file__).parent.parent / "examples"
needs_omniglot = pytest.mark.skipif(
    not (data_root() / "omniglot" / "one-shot-classification").exists(),
    reason="Omniglot and the runs are not in the data root (set MAPSTO_DATA)",
)


class Letters:
    """`Tiny` at 28 x 28."""

    def __init__(self) -> None:
        tiny = Tiny()
        self.train, self.val, self.test = (fitted(part, (1, 28, 28)) for part in (tiny.train, tiny.val, tiny.test))


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cross(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """examples/cross_domain.py, with two small domains; it writes elsewhere."""
    module = example("cross_domain")
    noise = Labelled(torch.randint(0, 256, (80, 3, 32, 32)).to(torch.uint8), np.arange(80) % 8, list("abcdefgh"))
    monkeypatch.setattr(
        module, "DOMAINS", {"Letters": ("letters", lambda: Letters().test), "Noise": ("noise", lambda: noise)}
    )
    monkeypatch.setattr(module, "QUERY", 4)
    monkeypatch.setattr(module, "Conv4", partial(Conv4, filters=4))
    monkeypatch.setattr(module, "RESULT", tmp_path / "studies" / "cross-domain.json")
    monkeypatch.setattr(module, "PAGE", tmp_path / "cross-domain.md")
    monkeypatch.setitem(build.IMAGES, "glyphs", Letters)
    return module


def train(folder: Path, **changes: object) -> Path:
    settings = replace(PROTONET, data="glyphs", steps=1, tasks=2, train=Shape(4, 1, 3), **changes)
    run.train(f"{settings.algorithm}/glyphs-5way-1shot", settings, folder, command=f"mapsto train {folder.name}")
    return folder


def test_every_learner_meets_the_same_tasks_of_every_domain(cross: ModuleType, tmp_path: Path) -> None:
    found = cross.study([train(tmp_path / "protonet")], tasks=6)
    rows = {(row["learner"], row["domain"], row["shot"]): row for row in found["rows"]}
    assert len(rows) == 4 * 2 * 2 and {learner for learner, _, _ in rows} == {"protonet", *cross.plain()}
    for (_, domain, _), row in rows.items():
        assert row["score"] > 0.5 if domain == "Letters" else row["score"] < 0.35
    right = []
    for i in range(6):  # nearest centroids, plainly
        support, query = Tasks(Letters().test, 5, 5, 4)[i]
        centroids = support.x.reshape(5, 5, -1).double().mean(1)
        nearest = torch.cdist(query.x.flatten(1).double(), centroids).argmin(1)
        right.append((nearest == query.y.argmax(1)).double().mean())
    pixels = rows["nearest centroid of pixels", "Letters", 5]
    assert pixels["score"] == pytest.approx(float(torch.stack(right).mean()))
    for gain in found["gains"]:
        place = gain["domain"], gain["shot"]
        best = max(rows[name, *place]["score"] for name in cross.plain())
        assert gain["meta"] == "protonet" and rows[gain["plain"], *place]["score"] == best
        assert gain["gain"] == pytest.approx(rows["protonet", *place]["score"] - best, abs=1e-9)


def test_logistic_regression_of_pixels(cross: ModuleType) -> None:
    # at scikit-learn's optimum the gradient of its own objective vanishes: C sum of losses + |w|^2 / 2
    support, query = Tasks(Letters().test, 5, 2, 4)[0]
    fast = cross.PixelRegression().adapt(support)
    w, b = (torch.tensor(part, dtype=torch.double, requires_grad=True) for part in (fast.coef_, fast.intercept_))
    log_p = (support.x.flatten(1).double() @ w.T + b).log_softmax(1)
    (0.5 * (w * w).sum() - (support.y * log_p).sum()).backward()
    assert w.grad is not None and w.grad.abs().max() < 0.01
    p = cross.PixelRegression().predict(fast, query.x)
    torch.testing.assert_close(p, (query.x.flatten(1).double() @ w.T + b).softmax(1).float(), atol=1e-5, rtol=0)


def test_the_page_is_made_of_the_numbers(cross: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross, "TASKS", 4)
    folder = train(tmp_path / "protonet")
    cross.main([str(folder)])
    found = json.loads(cross.RESULT.read_text())
    text = cross.PAGE.read_text()
    assert text == cross.page(found) and f"- protonet: `mapsto train {folder.name}`" in text
    for row in found["rows"]:
        assert f"{100 * row['score']:.1f} ± {100 * row['interval']:.1f} %" in text


def test_verdicts(cross: ModuleType) -> None:
    def gain(domain: str, value: float) -> dict:
        return {"domain": domain, "shot": 1, "meta": "maml", "plain": "pixels", "gain": value, "interval": 0.02}

    items, summary = cross.verdicts([gain("A", 0.3), gain("B", -0.0001), gain("C", -0.03), gain("D", 0.03)])
    lines = items.splitlines()
    assert lines[0] == "- A 1-shot: maml less pixels is +30.0 ± 2.0 points."
    assert lines[1] == "- B 1-shot: maml less pixels is +0.0 ± 2.0 points."
    assert lines[2] == "- C 1-shot: maml less pixels is -3.0 ± 2.0 points."
    assert summary == (
        "Meta-learning on Glyphs helps on A 1-shot, D 1-shot; makes no clear difference on B 1-shot; "
        "loses to a plain baseline on C 1-shot."
    )


def test_runs_that_do_not_fit(cross: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train(tmp_path / "protonet")
    with pytest.raises(MapstoError, match="holds protonet once more"):
        cross.study([folder, folder], 2)
    with pytest.raises(SystemExit, match=r"cross_domain: .*is not a run folder"):
        cross.main([str(tmp_path / "nothing")])
    monkeypatch.setitem(build.IMAGES, "tiny", Letters)
    run.train("x", replace(PROTONET, steps=1, tasks=2), tmp_path / "other", command="")
    with pytest.raises(MapstoError, match="was trained on tiny: give runs trained on glyphs"):
        cross.study([tmp_path / "other"], 2)


@pytest.mark.skipif(not (data_root() / "digits_da").exists(), reason="MNIST's test digits are not in the data root")
def test_mnist() -> None:
    digits = example("cross_domain").mnist()
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # as published
    assert np.bincount(digits.y).tolist() == counts and digits.x.shape == (10000, 1, 28, 28)
    assert digits.y[:5].tolist() == [7, 2, 1, 0, 4] and digits.x.float().mean() < 60  # ink is bright


@needs_omniglot
def test_characters_seen_in_training_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = example("lake_runs")
    asked = lake.characters()
    assert len(asked) == len(asked & set(Omniglot("background", rotations=False).test.names)) == 200
    monkeypatch.setitem(build.IMAGES, "glyphs", Letters)
    folder = train(tmp_path / "protonet")

    class Overlapping(Letters):
        """Seven of the runs' characters are among the training classes."""

        def __init__(self) -> None:
            super().__init__()
            names = [f"{name}/rot090" for name in sorted(asked)[:7]] + ["Greek/character01/rot000"]
            self.train = self.train._replace(names=names)

    monkeypatch.setitem(build.IMAGES, "glyphs", Overlapping)
    assert lake.judged(folder)["seen"] == 7


@needs_omniglot
def test_lake_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lake = example("lake_runs")
    monkeypatch.setattr(lake, "RESULT", tmp_path / "studies" / "lake-runs.json")
    monkeypatch.setitem(build.IMAGES, "glyphs", Letters)
    lake.main([str(train(tmp_path / "protonet"))])
    found = json.loads(lake.RESULT.read_text())
    assert 0.2 < found["runs"][0]["error"] < 0.95 and 0.4 < found["pixels"]["error"] < 0.95
    out = capsys.readouterr().out
    assert out.strip() == lake.table(found) and "| people | 4.5 % | – | – |" in out
    assert f"| protonet/glyphs-5way-1shot | {100 * found['runs'][0]['error']:.1f} ± " in out and "| 0 of " in out
    with pytest.raises(SystemExit, match="it can't do 20-way ones"):
        lake.main([str(train(tmp_path / "maml", algorithm="maml", options={"lr": 0.1}, test=Shape(4, 1, 3)))])


def test_what_a_learner_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    choosing = example("choosing")
    monkeypatch.setattr(choosing, "ROUNDS", 1)
    rows = [choosing.timed(recipe) for recipe in ("protonet/omniglot-5way-1shot", "maml/omniglot-5way-1shot")]
    assert [(row["gradient_steps"], row["any_way"]) for row in rows] == [(None, True), (3, False)]
    assert all(row["adapt_ms"] > 0 and row["answer_ms"] > 0 for row in rows)
    text = choosing.table(rows)
    assert "| protonet | metric-based | 98.70 ± 0.15 % |" in text and text.count("\n") == 3


def test_bandits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bandits = example("bandits")
    for name, place in (("RUNS", "runs"), ("RESULT", "studies/bandits.json"), ("PAGE", "bandits.md")):
        monkeypatch.setattr(bandits, name, tmp_path / place)
    monkeypatch.setattr(bandits, "SETTINGS", {(3, 2): bandits.Setting(2, 8, 50)})
    monkeypatch.setattr(bandits, "PAPERS", {(3, 2): ("1", "2", "3")})
    bandits.main(["3", "2"])
    text = bandits.PAGE.read_text()
    bandits.main(["3", "2"])  # judges what is trained
    assert bandits.PAGE.read_text() == text
    bandits.main(["3", "2", "lstm"])
    rows = json.loads(bandits.RESULT.read_text())
    assert [row["policy"] for row in rows] == ["snail", "lstm"] and rows[0]["rules"] == rows[1]["rules"]
    assert bandits.PAGE.read_text() == bandits.page(rows)
    for row in rows:
        less = row["reward"][0] - row["rules"]["Gittins"][0]
        assert row["less_gittins"][0] == pytest.approx(less, abs=2e-4)
        assert f"{row['reward'][0]:.2f} ± {row['reward'][1]:.2f}" in bandits.PAGE.read_text()
    with pytest.raises(SystemExit, match=r"usage: python examples/bandits.py PULLS ARMS \[lstm\], of 3 2"):
        bandits.main(["3", "0"])
