"""The law of imports, and other rules that a machine can check."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "mapsto").rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES}


def imports(path: Path) -> set[str]:
    """The modules of mapsto that a file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name.split(".")[0] == "mapsto"}


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_law(path: Path) -> None:
    used, (top, *rest) = imports(path), path.relative_to(ROOT / "mapsto").with_suffix("").parts
    if top == "algorithms" and len(rest) > 1:
        family = f"mapsto.algorithms.{rest[0]}"
        common = ("episode", "applied", "attention", "learner", "losses", "errors")
        allowed = (*(f"mapsto.{name}" for name in common), family)
        assert not {name for name in used if not within(name, *allowed)}
    if top in ("models", "data"):
        assert not {name for name in used if within(name, "mapsto.algorithms")}
    if top == "rl":
        allowed = ("rl", "episode", "errors", "data.streams", "algorithms.model_based")
        assert not {name for name in used if not within(name, *(f"mapsto.{name}" for name in allowed))}
    else:
        assert not {name for name in used if within(name, "mapsto.rl")}
    if top in (
        "train",
        "evaluate",
        "learner",
        "axis",
        "applied",
        "episode",
        "losses",
        "metrics",
        "errors",
        "capture",
        "passes",
        "native",
    ):
        above = ("algorithms", "models", "data", "build", "recipes", "run", "finished", "checkpoint")
        assert not {name for name in used if within(name, *(f"mapsto.{name}" for name in above))}
    assert not {name for name in used if within(name, "mapsto.cli")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_house_rules(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "hasattr"]
