"""Recipes, what is built of them, and what adding a learner takes."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import PROTONET, use_tiny

from mapsto import build, run
from mapsto.episode import Shape
from mapsto.errors import MapstoError
from mapsto.finished import load
from mapsto.recipes import RECIPES, Settings

ROOT = Path(__file__).parents[1]
INPUTS = {
    "sinusoid": (1,),
    "gaussian-process": (1,),
    "completion": (2,),
    "omniglot": (1, 28, 28),
    "glyphs": (1, 28, 28),
    "cifar-fs": (3, 32, 32),
    "projections": (64,),
    "tables": (5,),
}
"""What the data sets hold, known here from their papers."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an embedding."""
    folder = tmp_path_factory.mktemp("backbone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        use_tiny(patch)
        run.train("protonet", replace(PROTONET, steps=5), folder, command="")
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_built(name: str, trained: Path) -> None:
    """Its names are in the tables, and whatever it names takes the options."""
    settings = RECIPES[name].settings
    inputs = INPUTS[settings.data]
    assert settings.data in build.IMAGES or settings.data in INPUTS
    if settings.model.startswith(build.RUN):
        earlier = settings.model.removeprefix(f"{build.RUN}runs/")
        assert earlier in [other.replace("/", "-") for other in RECIPES], "no recipe makes that run"
        settings, inputs = replace(settings, model=f"{build.RUN}{trained}"), (1, 16, 16)
    learner = build.learner(settings, inputs)
    assert isinstance(learner, build.ALGORITHMS[settings.algorithm])
    assert (settings.test_steps is None) == (learner.steps is None)
    assert learner.headless or learner.supervised or settings.train.way == settings.test.way


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_where_it_comes_from(name: str) -> None:
    entry = RECIPES[name]
    assert re.fullmatch(r"[a-z0-9+-]+/[a-z0-9-]+", name)
    assert entry.origin.link.startswith("https://") and re.search(r"\b(19|20)\d\d$", entry.origin.venue)
    module = sys.modules[build.ALGORITHMS[entry.settings.algorithm].__module__]
    learner, _, _ = name.partition("/")
    if learner.replace("-", "").replace("++", "plusplus") == entry.settings.algorithm:  # not a variant such as FOMAML
        assert entry.origin.link in str(module.__doc__)
    for text in (entry.protocol, entry.gap):
        assert "{" not in text.format(steps="1,000")


def test_every_learner_has_a_recipe() -> None:
    assert {entry.settings.algorithm for entry in RECIPES.values()} == set(build.ALGORITHMS)


# ------------------------------------------------------------------------------------------------ a new learner

FILE = '''"""Nearest neighbour. C. Over, P. Hart. 1967. https://example.org/nearest."""

from torch import Tensor, nn

from mapsto.episode import Examples, Tree
from mapsto.learner import MetaLearner


class Nearest(MetaLearner):
    headless = True

    def __init__(self, model: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def adapt(self, support: Examples) -> tuple[Tensor, Tensor]:
        return self.model(support.x), support.y

    def predict(self, fast: tuple[Tensor, Tensor], x: Tree) -> Tensor:
        z, y = fast
        return (self.scale * self.model(x) @ z.T).softmax(1) @ y
'''
LINE = "from mapsto.algorithms.metric.nearest import Nearest as Nearest\n"
ENTRY = """    "nearest/glyphs": Recipe(
        "the nearest example decides",
        replace(PROTONET, algorithm="nearest", options={"scale": 2.0}, data="glyphs", data_options={}),
        Paper("Over & Hart", "1967", "https://example.org/nearest"),
        "90.0 %",
        "Here {steps} meta-steps.",
    ),
}
"""
CODE = """
import runpy, shlex
import pytest
from tiny import use_tiny
from mapsto import cli
use_tiny(pytest.MonkeyPatch())
cli._write_report = lambda folder: None
for command in (
    "train nearest/glyphs --data tiny --model-options.filters 4 --steps 2 --tasks 4 --train.way 4 --train.query 3 "
    "--test.way 3 --test.query 3 --out run",
    "evaluate run --way 4",
    "list nearest",
):
    assert cli.main(shlex.split(command)) == 0
print(runpy.run_path("results/table.py")["page"]())
"""


def test_adding_a_learner_takes_one_file_one_line_and_one_recipe(tmp_path: Path) -> None:
    for folder in ("mapsto", "results"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    package = tmp_path / "mapsto"
    (package / "algorithms" / "metric" / "nearest.py").write_text(FILE)
    table, recipes = package / "algorithms" / "__init__.py", package / "recipes" / "metric.py"
    table.write_text(table.read_text() + LINE)
    text = recipes.read_text()
    assert text.endswith("}\n")
    recipes.write_text(text.removesuffix("}\n") + ENTRY)
    path = f"{tmp_path}:{ROOT / 'tests'}"
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, page = done.stdout.split("# Learners")
    assert "Next: mapsto evaluate run --way 10" in said  # it is known to embed
    assert "accuracy " in said and "4-way" in said
    assert "nearest (metric-based): Over & Hart, 1967, https://example.org/nearest" in said
    assert "90.0 %" in said and "Here 4,000 meta-steps." in said
    assert "**nearest** (`Nearest`): [Over & Hart, 1967](https://example.org/nearest) | nearest/glyphs | 90.0 %" in page


def test_no_other_file_names_a_learner() -> None:
    """But for the report, which draws prototypes and memories, and the classifier of tables, which is one."""
    classes = {part.__name__ for part in build.ALGORITHMS.values()}
    for path in (ROOT / "mapsto").rglob("*.py"):
        if path.relative_to(ROOT / "mapsto").parts[0] not in ("algorithms", "recipes", "summary.py", "tabular.py"):
            found = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
            assert not found & classes, path


# ------------------------------------------------------------------------------------------------ what is built


def test_models_fit_the_data() -> None:
    """The size of the images reaches the head, and no recipe repeats it."""
    settings = Settings("maml", "conv4", "omniglot", model_options={"filters": 4})
    for size, features in ((28, 4), (32, 16), (84, 100)):
        learner = build.learner(settings, (3, size, size))
        assert learner.get_submodule("model.head").in_features == features
        assert learner.get_submodule("model")(torch.zeros(2, 3, size, size)).shape == (2, 5)
    assert build.learner(replace(settings, model="mlp", model_options={}), (2, 3)).get_submodule("model")(
        torch.zeros(7, 2, 3)
    ).shape == (7, 5)
    with pytest.raises(MapstoError, match=r"conv4 wants images, but an input of omniglot has shape \(7,\)"):
        build.learner(settings, (7,))


def test_own_options_come_first() -> None:
    settings = Settings("maml", "conv4", "omniglot", model_options={"size": 84, "filters": 4})
    assert build.learner(settings, (1, 28, 28)).get_submodule("model.head").in_features == 100


@pytest.mark.parametrize("algorithm", ["maml", "protonet"])
def test_backbone_of_another_run(
    trained: Path, algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that run's embedding, bit for bit, and stays so; what stands on it is drawn from this run's seed."""
    use_tiny(monkeypatch)
    before = load(trained).learner.get_submodule("model")
    settings = replace(
        PROTONET, algorithm=algorithm, model=f"run:{trained}", model_options={}, test=Shape(4, 1, 3), steps=3, tasks=4
    )
    heads = []
    for seed in (0, 1):
        learner = build.learner(replace(settings, seed=seed), (1, 16, 16))
        heads += [p for p in learner.parameters() if p.requires_grad]
        assert not any(part.training for name, part in learner.train().named_modules() if "body" in name)
    if algorithm == "protonet":
        assert not heads  # nothing is left to learn
        return
    weight, bias, other_weight, _ = heads
    assert weight.shape == (4, 4) and bias.shape == (4,) and not weight.equal(other_weight)
    run.train("x", settings, tmp_path / "run", command="")
    body = load(tmp_path / "run").learner.get_submodule("model.body.model")
    assert all(value.equal(body.state_dict()[name]) for name, value in before.state_dict().items())


def test_backbone_that_is_none(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    settings = replace(PROTONET, model=f"run:{tmp_path}")
    with pytest.raises(MapstoError, match="no finished run to build on: train it first"):
        build.learner(settings, (1, 16, 16))
    with pytest.raises(MapstoError, match="weights of another model"):
        build.learner(replace(settings, model=f"run:{trained}"), (3, 16, 16))
    headed = replace(PROTONET, algorithm="maml", test=PROTONET.train, steps=1, tasks=4)
    run.train("maml", headed, tmp_path / "maml", command="")
    with pytest.raises(MapstoError, match="has a head"):
        build.learner(replace(settings, model=f"run:{tmp_path / 'maml'}"), (1, 16, 16))
