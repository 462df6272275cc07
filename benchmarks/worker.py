"""One contestant in a process of its own: it makes itself ready, then runs a timed burst each time it is told to.

It reads a line of JSON that says who it is, answers with a line, and then answers each line "seconds" by the time of a
step. Standard output belongs to these lines alone; whatever packages print goes to standard error.
"""

import importlib
import json
import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from benchmarks import machine
from benchmarks.contest import Contest, NotOffered


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    if sys.platform == "linux":  # XLA takes as many threads as there are cores to run on
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["threads"]])
    try:
        _work(job, answers)
    except NotOffered as reason:
        _say(answers, state="not offered", note=str(reason))
    except ModuleNotFoundError as error:
        _say(answers, state="not installed", note=f"no module {error.name}")
    except Exception as error:
        first = str(error).partition("\n")[0][:200]
        _say(answers, state="failed", note=f"{type(error).__name__}: {first}")
        raise


def _work(job: dict[str, Any], answers: TextIO) -> None:
    module, _, name = job["contests"].partition(":")
    contest: Contest = getattr(importlib.import_module(module), name)[job["contest"]]
    entry = contest.entries[job["name"]](job["device"])
    _settle(job["threads"])
    memory = _Memory(job["device"])
    first = _timed(entry.step, 1, memory.wait)
    again = _timed(entry.step, 1, memory.wait)
    with Path(job["outcome"]).open("wb") as file:
        pickle.dump(entry.outcome(), file)
    memory.forget()
    _say(answers, state="ready", first_ms=first)
    for line in sys.stdin:
        steps = max(1, round(1000 * float(line) / again))
        ms = _timed(entry.step, steps, memory.wait)
        again = ms
        _say(answers, ms=ms, peak_mb=memory.peak(), work_mb=memory.peak() - memory.base)


def _timed(step: Callable[[], object], steps: int, wait: Callable[[], None]) -> float:
    """Milliseconds a step."""
    wait()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return 1000 * (time.perf_counter() - begin) / steps


class _Memory:
    """The memory of the device where the work is done."""

    def __init__(self, device: str) -> None:
        self.cuda = sys.modules["torch"].cuda if device == "cuda" and "torch" in sys.modules else None
        self.base = 0.0

    def forget(self) -> None:
        """Begin anew: `base` is what is held now, between steps."""
        self.base = self.cuda.memory_allocated() / 2**20 if self.cuda else machine.at_rest()
        self.cuda.reset_peak_memory_stats() if self.cuda else machine.forget_peak()

    def peak(self) -> float:
        return self.cuda.max_memory_allocated() / 2**20 if self.cuda else machine.peak()

    def wait(self) -> None:
        if self.cuda:
            self.cuda.synchronize()


def _settle(threads: int) -> None:
    """The same settings for everybody who uses torch; tf32 where there is a GPU."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
        sys.modules["torch"].backends.cudnn.allow_tf32 = True
        sys.modules["torch"].backends.cuda.matmul.allow_tf32 = True


def _say(answers: TextIO, **what: object) -> None:
    answers.write(json.dumps(what) + "\n")


if __name__ == "__main__":
    main()
