"""The machine: what it is, how fast it multiplies matrices, and what memory a process holds."""

import ctypes
import gc
import os
import platform
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.contest import Contest, Entry

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def describe(threads: int, device: str) -> dict[str, object]:
    """What belongs beside every figure."""
    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), cpu)
    wide = torch.backends.cpu.get_cpu_capability()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {"cpu": f"{cpu} ({wide})", "cores": cores(), "threads": threads, "memory_gib": round(memory)}
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found | {"torch": torch.__version__, "python": platform.python_version()}


def held() -> float:
    """The memory that this process holds now, in MB."""
    return _status("VmRSS")


def at_rest() -> float:
    """What it holds when freed memory has gone back to the system, in MB."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return held()


def peak() -> float:
    """The most that it has held since `forget_peak`, in MB."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the peak be what is held now, where the system can."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def _status(field: str) -> float:
    if not _STATUS.exists():
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**10


SIZE = {"cpu": 1024, "cuda": 8192}


def _product(device: str, kind: str) -> Entry:
    import torch

    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIZE[device], SIZE[device], generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(a)
    return Entry(lambda: torch.mm(a, b, out=out), lambda: {"sum": np.array(1.0)})


def _products(*kinds: str) -> dict[str, Callable[[str], Entry]]:
    return {kind: partial(_product, kind=kind) for kind in kinds}


CEILINGS = {
    "cpu": Contest("float32 matrix product", _products("float32"), (), "float32"),
    "cuda": Contest("tf32 and bf16 matrix products", _products("tf32", "bf16"), (), "tf32"),
}
"""The machine's own rate: square matrix products, measured between the contestants' turns."""


def gflops(ms: float, device: str) -> float:
    """The rate, in GFLOP/s, where one product took so long."""
    return 2 * SIZE[device] ** 3 / ms / 1e6
