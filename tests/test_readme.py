"""What the README says is what the code does."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mapsto import build, check
from mapsto.data.files import data_root
from mapsto.listing import measured, reported
from mapsto.models import MLP
from mapsto.recipes import RECIPES

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def table() -> ModuleType:
    """results/table.py."""
    spec = importlib.util.spec_from_file_location("table", ROOT / "results" / "table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_made_of_the_results(table: ModuleType) -> None:
    assert table.updated(TEXT) == TEXT, "run `python results/table.py`"
    assert table.page() == table.PAGE.read_text(), "run `python results/table.py`"
    assert table.shipped() == table.ASSET.read_text(), "run `python results/table.py`"


def test_every_result_is_in_the_page_and_nothing_else(
    table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = [json.loads(path.read_text()) for path in table.HERE.glob("*.json")]
    commands = {r["command"] for r in stored if "recipe" in r}
    assert commands and all(f"`{command}`" in table.PAGE.read_text() for command in commands)
    shutil.copy(table.HERE / "maml-omniglot-5way-1shot.json", tmp_path)
    (tmp_path / "benchmarks.json").write_text('{"maml": {"ratio": 2.0}}')
    (tmp_path / "more.json").write_text("[1, 2]")
    monkeypatch.setattr(table, "HERE", tmp_path)
    assert [r["recipe"] for r in table.results()] == ["maml/omniglot-5way-1shot"]


def test_the_page_names_every_learner_and_recipe(table: ModuleType) -> None:
    page = table.page()
    for name, entry in RECIPES.items():
        assert f"| {name} |" in page and f"**{name}**" in page and entry.origin.link in page
    for name, learner in build.ALGORITHMS.items():
        assert f"(`{learner.__name__}`)" in page, name


def test_other_tasks_are_held_against_the_number_for_them() -> None:
    def paper(recipe: str, way: int, shot: int) -> str | None:
        return reported({"recipe": recipe, "way": way, "shot": shot})

    assert paper("maml/cifar-fs-5way-1shot", 5, 1) == "58.9 ± 1.9 %"
    assert paper("maml/cifar-fs-5way-1shot", 5, 5) == "71.5 ± 1.0 %"
    assert paper("protonet/omniglot-5way-1shot", 20, 1) == "96.0 %"
    assert paper("protonet/omniglot-5way-1shot", 10, 1) is None
    assert paper("maml/sinusoid", 1, 5) is not None and paper("maml/sinusoid", 1, 10) is None


def test_what_is_far_from_the_paper_is_explained() -> None:
    for result in measured():
        paper = re.match(r"([\d.]+)", reported(result) or "")
        if result["metric"] == "accuracy" and paper and abs(100 * result["score"] - float(paper[0])) > 1.5:
            assert RECIPES[result["recipe"]].gap, f"{result['recipe']} is far from {paper[0]}: say why in its gap"


def test_learner_of_your_own() -> None:
    names: dict = {}
    exec(BLOCKS[1], names)
    check(names["Nearest"](MLP(6, 8)))


def test_a_classifier_of_pictures() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    pictures, more_pictures, new_pictures = (rng.integers(0, 256, (n, 40, 40, 3), dtype=np.uint8) for n in (3, 2, 4))
    names: dict = {"pictures": pictures, "more_pictures": more_pictures, "new_pictures": new_pictures}
    exec(BLOCKS[2].replace(", ...]", "]"), names)
    assert list(names["classifier"].predict_proba(new_pictures).sum(1)) == pytest.approx([1] * 4)
    assert list(names["classifier"].classes_) == ["bird", "cat", "dog"]


@pytest.mark.skipif(
    not all((data_root() / "omniglot" / f"images_{part}.zip").exists() for part in ("background", "evaluation")),
    reason="Omniglot is not in the data root",
)
def test_real_use(capsys: pytest.CaptureFixture[str]) -> None:
    code = BLOCKS[0].replace("steps=500", "steps=1").replace("batch=16", "batch=2").replace("tasks=200", "tasks=4")
    exec(code.replace("evaluate(learner, test)", "evaluate(learner, test, tasks=4)"), {})
    assert capsys.readouterr().out.count("±") == 2


def test_pictures_are_there() -> None:
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", TEXT):
        assert (ROOT / picture).stat().st_size > 1000
