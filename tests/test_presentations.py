"""The study of accuracy by presentation, on a small run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_studies import example
from tiny import PROTONET, Tiny

from mapsto import build, run
from mapsto.algorithms import LSTM
from mapsto.episode import Episode, Shape


def test_the_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(build.IMAGES, "tiny", Tiny)
    module = example("presentations")
    for name, value in {
        "RESULT": tmp_path / "deep" / "presentations.json", "PAGE": tmp_path / "page.md",
        "PICTURE": tmp_path / "page.png", "TASKS": 40, "TIMES": 5,
    }.items():  # fmt: skip
        monkeypatch.setattr(module, name, value)
    plain = replace(PROTONET, model_options={"filters": 4, "stats": "running"}, steps=2, validate=2, tasks=4)
    reader = replace(
        plain, algorithm="lstm", model="pixels", options={"hidden": 32}, model_options={"size": 8},
        train=Shape(5, 2, 1), test=Shape(5, 1, 1), steps=2, batch=2, validate=2,
    )  # fmt: skip
    run.train("lstm/omniglot-5way-1shot", reader, tmp_path / "reader", command="mapsto train it")
    run.train("protonet/omniglot-5way-1shot", plain, tmp_path / "plain", command="")

    def right(self: LSTM, episode: Episode) -> torch.Tensor:  # at first where the first example is of the first class
        assert episode.support.y.shape == (25, 5) and episode.query.y.shape == (5, 5)
        return torch.cat([episode.support.y[0, :1], torch.ones(4)])

    monkeypatch.setattr(LSTM, "by_presentation", right)
    module.main([str(tmp_path / "reader")])
    (row,) = json.loads(module.RESULT.read_text())
    assert row["train_steps"] == 2 and row["command"] == "mapsto train it" and len(row["accuracy"]) == 5
    first = row["accuracy"][0]
    assert 0 < first < 0.5 and row["accuracy"][1:] == [1, 1, 1, 1] and row["interval"][1:] == [0, 0, 0, 0]
    assert row["interval"][0] == pytest.approx(1.96 * (first * (1 - first) / 39) ** 0.5, abs=1e-4)
    assert "| lstm/omniglot-5way-1shot (2 meta-steps) | 3 | " in module.PAGE.read_text()
    assert module.PICTURE.stat().st_size > 5_000 and "2 meta-steps" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="does not answer as it reads"):
        module.main([str(tmp_path / "plain")])
