"""What the README says is what the code does."""

import importlib.util
import re
from pathlib import Path

import pytest

from mapsto import check
from mapsto.data.files import data_root
from mapsto.models import MLP

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_table_is_made_of_the_results() -> None:
    spec = importlib.util.spec_from_file_location("table", ROOT / "results" / "table.py")
    assert spec is not None and spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    assert table.updated(TEXT) == TEXT, "run `python results/table.py`"


def test_learner_of_your_own() -> None:
    names: dict = {}
    exec(BLOCKS[1], names)
    check(names["Nearest"](MLP(6, 8)))


@pytest.mark.skipif(not (data_root() / "omniglot").exists(), reason="Omniglot is not in the data root")
def test_real_use(capsys: pytest.CaptureFixture[str]) -> None:
    code = BLOCKS[0].replace("steps=500", "steps=1").replace("batch=16", "batch=2").replace("tasks=200", "tasks=4")
    exec(code.replace("evaluate(learner, test)", "evaluate(learner, test, tasks=4)"), {})
    assert capsys.readouterr().out.count("±") == 2


def test_pictures_are_there() -> None:
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", TEXT):
        assert (ROOT / picture).stat().st_size > 1000
