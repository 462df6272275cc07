"""Runs small enough for tests: a synthetic data set, settings, and the command line in a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mapsto import build, cli
from mapsto.data import Labelled
from mapsto.episode import Shape
from mapsto.recipes import RECIPES, Settings

CLASSES, EACH = 8, 10

SLOW = """
import sys, time
from mapsto import cli, run
run.CHECKPOINT_SECONDS = 0.05
cli._Bars.step = lambda *_: time.sleep(0.02)
cli._write_report = lambda folder: None
sys.exit(cli.main(sys.argv[1:]))
"""
"""The command line with slow steps, many checkpoints and no report."""


class Tiny:
    """Images of 16x16 noise, each class around a picture of its own; the test part lacks an image of class "c2"."""

    def __init__(self) -> None:
        self.train, self.val, test = (_labelled(seed) for seed in range(3))
        keep = np.arange(CLASSES * EACH) != 2 * EACH
        self.test = Labelled(test.x[torch.from_numpy(keep)], test.y[keep], test.names)


def _labelled(seed: int) -> Labelled:
    rng = np.random.default_rng(seed)
    labels = np.arange(CLASSES).repeat(EACH)
    x = rng.integers(0, 200, (CLASSES, 1, 16, 16))[labels] + rng.integers(0, 56, (CLASSES * EACH, 1, 16, 16))
    return Labelled(torch.from_numpy(x.astype(np.uint8)), labels, [f"c{i}" for i in range(CLASSES)])


SINUSOID = replace(RECIPES["maml/sinusoid"].settings, steps=90, batch=2, tasks=20, validate=30)
"""A few steps of `maml/sinusoid`."""

SINUSOID_FLAGS = ["--steps", "90", "--batch", "2", "--tasks", "20", "--validate", "30", "--threads", "1"]
"""The same for the command line."""

PROTONET = Settings(
    algorithm="protonet", model="conv4", data="tiny", model_options={"filters": 4, "stats": "running"},
    train=Shape(4, 1, 3), test=Shape(3, 1, 3), steps=50, tasks=20, validate=25, schedule="cosine",
)  # fmt: skip
"""A small convolutional network with running batch norm on `Tiny`."""


def use_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register `Tiny` as the data set "tiny"."""
    monkeypatch.setitem(build.IMAGES, "tiny", Tiny)


def start(*words: str, code: str | None = None) -> subprocess.Popen[str]:
    """The command line in a process of its own, or `code` in its place."""
    program = ["-m", "mapsto.cli"] if code is None else ["-c", code]
    return subprocess.Popen(
        [sys.executable, *program, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip


def complaint(words: list[str], capsys: pytest.CaptureFixture[str], status: int = 2) -> str:
    """What the command line says on standard error: one line, with that exit status."""
    capsys.readouterr()
    assert cli.main(words) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("mapsto: ") and err.count("\n") == 1, (out, err)
    return err


def rows(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what differs from run to run."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
