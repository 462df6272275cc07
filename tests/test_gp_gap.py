"""The study of the gap to the exact posterior, on small runs."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mapsto import run
from mapsto.data.gaussian_process import GaussianProcess
from mapsto.errors import MapstoError
from mapsto.finished import load
from mapsto.recipes import RECIPES


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gp_gap", Path(__file__).parents[1] / "examples" / "gp_gap.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small(name: str, folder: Path) -> Path:
    settings = RECIPES[name].settings
    options = {"width": 16}
    settings = replace(settings, options=options, steps=3, batch=2, tasks=4, validate=3)
    run.train(name, settings, folder / settings.algorithm, command="")
    return folder / settings.algorithm


def test_the_posteriors_score_by_hand(example: ModuleType) -> None:
    tasks = GaussianProcess(shot=(3, 6), query=5)
    y, found = tasks.batch(0, 3).query.y[..., 0], tasks.posterior(0, 3)
    for least in (0.0, 0.1):
        wanted = torch.distributions.Normal(found[..., 0], found[..., 1].clamp(min=least)).log_prob(y).mean(1)
        torch.testing.assert_close(example.exact(tasks, 3, least).float(), wanted)


def test_the_study(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(small(name, tmp_path)) for name in ("cnp/gp-rbf", "anp/gp-rbf")]
    result, drawn = tmp_path / "deep" / "gap.json", tmp_path / "bands.png"
    example.main(folders, 20, result, drawn)
    rows = json.loads(result.read_text())
    assert [row["recipe"] for row in rows] == ["cnp/gp-rbf", "anp/gp-rbf"] and drawn.stat().st_size > 10_000
    for row in rows:
        assert row["gap"][0] == pytest.approx(row["exact"][0] - row["learner"][0])
        assert row["learner"][0] < row["exact_with_floor"][0] < row["exact"][0]
    assert rows[0]["exact"] == rows[1]["exact"]  # the same tasks
    assert capsys.readouterr().out.count("\n| cnp/gp-rbf | ") == 1


def test_complaints(example: ModuleType) -> None:
    with pytest.raises(MapstoError, match="name the folders"):
        example.main([])


def test_other_runs_are_refused(example: ModuleType, tmp_path: Path) -> None:
    other = replace(RECIPES["maml/sinusoid"].settings, steps=2, batch=2, tasks=4, validate=2)
    run.train("maml/sinusoid", other, tmp_path / "run", command="")
    with pytest.raises(MapstoError, match="trained on sinusoid"):
        example.source(load(tmp_path / "run"))
