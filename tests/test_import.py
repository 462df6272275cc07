"""`import mapsto` is light."""

import json
import subprocess
import sys

CODE = """
import json, sys
import numpy, torch
before = set(sys.modules)
import mapsto
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_import_loads_torch_and_numpy_only() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    new = json.loads(done.stdout)
    foreign = {name.split(".")[0] for name in new} - set(sys.stdlib_module_names) - {"mapsto", "torch", "numpy"}
    # jaxtyping holds the types of shapes; wadler_lindig prints them.
    assert {name for name in foreign if not name.startswith("_")} <= {"jaxtyping", "wadler_lindig"}
    heavy = ("mapsto.data", "mapsto.cli", "mapsto.plots", "mapsto.report", "mapsto.run", "mapsto.recipes", "mapsto.rl")
    assert not [name for name in new if name.startswith(heavy)]
    assert done.stderr == ""


def test_at_most_40_names() -> None:
    import mapsto

    public = [name for name in vars(mapsto) if not name.startswith("_")]
    modules = [name for name in public if type(getattr(mapsto, name)).__name__ == "module"]
    assert len(public) - len(modules) <= 40
