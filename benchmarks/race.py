"""The contestants of one contest, each in its own process, taking turns."""

import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contest import ROOT, Contest, Outcome, gap
from benchmarks.machine import CEILINGS, gflops

LONG = 300.0
"""Seconds after which a contest has had enough rounds, if it has had three."""


@dataclass
class Row:
    """What became of one contestant.

    Attributes:
        state: "timed", "wrong", "not offered", "not installed" or "failed".
        note: why it is not timed.
        ms: the median time of a unit, in milliseconds; `rounds` holds each round's.
        ratios: the median over rounds of its time divided by one of ours, by our names.
        fraction: of the machine's matrix-product rate, by the kind of product.
        first_ms: its first step, which compiles and captures.
        peak_mb, work_mb: the process's peak memory in its turns, and that less what it held when it was ready.
        gap: the outcome's distance from the reference's.
    """

    name: str
    state: str
    note: str = ""
    ms: float | None = None
    rounds: list[float] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    fraction: dict[str, float] = field(default_factory=dict)
    first_ms: float | None = None
    peak_mb: float | None = None
    work_mb: float | None = None
    gap: float | None = None


class Worker:
    """A process that waits for its turns."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.outcome, number = Path(job["outcome"]), str(job["threads"])
        settings = {
            "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }  # fmt: skip
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [_python(), "-m", "benchmarks.worker"], cwd=ROOT, env=os.environ | settings,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, bufsize=1,
        )  # fmt: skip
        self.hello = self._ask(json.dumps(job))

    def turn(self, seconds: float) -> dict[str, Any]:
        """A burst of steps of about so many seconds in all, at least one step."""
        return self._ask(str(seconds))

    def close(self) -> None:
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        self.process.wait()
        if not self.log.closed:
            self.log.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(line + "\n")
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            return json.loads(answer)
        self.log.seek(0)
        last = (self.log.read().strip().splitlines() or ["no word"])[-1]
        return {"state": "failed", "note": f"the process ended with {self.process.wait()}: {last}"}


def _python() -> str:
    """The interpreter that has the peers, where it was made."""
    peers = ROOT / ".venv-bench" / "bin" / "python"
    return str(peers) if peers.exists() else sys.executable


def race(
    contest: Contest,
    job: Mapping[str, Any],
    names: Sequence[str] | None = None,
    rounds: int | None = None,
    seconds: float = 0.3,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[Row], dict[str, float]]:
    """Let the contestants work in turns.

    Args:
        contest: what they do.
        job: where the workers find it ("contests", "contest"), "threads" and "device".
        names: who takes part, besides ours and the reference; by default everybody.
        rounds: how many turns each has; by default 7, or as many as fit in five minutes and at least three.
        seconds: the length of a turn, at least one step.
        say: told what goes on.

    Returns:
        A row for each contestant, and the median rates of the matrix products in GFLOP/s.
    """
    device = job["device"]
    chosen = [n for n in contest.entries if names is None or n in names or n in contest.ours or n == contest.reference]
    chosen.sort(key=lambda name: name != contest.reference)  # the reference first
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def start(name: str, **where: str) -> Worker:
            say(f"{name}: getting ready")
            worker = Worker({**job, **where, "name": name, "outcome": f"{folder}/{name}.pickle"})
            stack.callback(worker.close)
            return worker

        rows: list[Row] = []
        racing: list[tuple[Row, Worker]] = []
        right: Outcome | None = None
        for name in chosen:
            worker = start(name)
            row = judged(contest, name, worker, right, device)
            rows.append(row)
            if row.state == "timed":
                racing.append((row, worker))
            elif name == contest.reference:
                raise RuntimeError(f"the reference, {name}, could not do the work: {row.note}")
            else:
                say(f"{name}: {row.state}: {row.note}")
                worker.close()
            if name == contest.reference:
                right = _read(worker.outcome)
        kinds = list(CEILINGS[device].entries) if contest.flops else []
        products = {kind: start(kind, contests="benchmarks.machine:CEILINGS", contest=device) for kind in kinds}
        rates: dict[str, list[float]] = {kind: [] for kind in kinds}
        begun, done = time.monotonic(), 0
        while done < (rounds or 7) and (rounds or done < 3 or time.monotonic() - begun < LONG):
            say(f"round {done + 1}")
            for kind, worker in products.items():
                rates[kind].append(gflops(worker.turn(seconds)["ms"], device))
            first = done % len(racing)
            for row, worker in racing[first:] + racing[:first]:
                _take_turn(row, worker, contest, seconds)
            racing = [(row, worker) for row, worker in racing if row.state == "timed"]
            done += 1
    compare(rows, contest, rates)
    return rows, {kind: statistics.median(each) for kind, each in rates.items()}


def judged(contest: Contest, name: str, worker: Worker, right: Outcome | None, device: str) -> Row:
    """A contestant's row when it is ready: whether its outcome is that of the reference."""
    hello = worker.hello
    if hello["state"] != "ready":
        return Row(name, hello["state"], hello["note"])
    row = Row(name, "timed", first_ms=hello["first_ms"], gap=0.0)
    if right is not None:
        row.gap = gap(_read(worker.outcome), right)
        allowed = contest.tolerance * (30 if device == "cuda" else 1)
        if not row.gap <= allowed:
            row.state, row.note = "wrong", f"off by {row.gap:.2g} of the reference, {allowed:.2g} allowed"
    return row


def _read(path: Path) -> Outcome:
    return pickle.loads(path.read_bytes())


def _take_turn(row: Row, worker: Worker, contest: Contest, seconds: float) -> None:
    answer = worker.turn(seconds)
    if "ms" not in answer:
        row.state, row.note, row.rounds = "failed", answer["note"], []
        return
    row.rounds.append(answer["ms"] / contest.per_step)
    row.peak_mb, row.work_mb = answer["peak_mb"], answer["work_mb"]


def compare(rows: Sequence[Row], contest: Contest, rates: Mapping[str, Sequence[float]]) -> None:
    """Fill in the medians: times, their ratios to ours round by round, and the fractions of the machine's rates."""
    timed = {row.name: row for row in rows if row.state == "timed" and row.rounds}
    for row in timed.values():
        row.ms = statistics.median(row.rounds)
        for name in contest.ours:
            if name in timed:
                pairs = zip(row.rounds, timed[name].rounds, strict=True)
                row.ratios[name] = statistics.median(theirs / own for theirs, own in pairs)
        for kind, each in rates.items():
            pairs = zip(row.rounds, each, strict=True)
            row.fraction[kind] = statistics.median(
                contest.flops / (ms * contest.per_step) / 1e6 / rate for ms, rate in pairs
            )


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for a file, with figures rounded to what they are good for."""
    return [{key: _short(value) for key, value in asdict(row).items()} for row in rows]


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _short(part) for key, part in value.items()}
    return [_short(part) for part in value] if isinstance(value, list) else value
