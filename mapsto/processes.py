"""Work shared out over a CPU's cores by copies of this process (fork).

Threads would share Python's lock, which holds up even convolutions of 75 images (measured: 1.1 times one thread's speed
with two, where processes have 1.7).
"""

import os
import pickle
import select
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakSet

import torch
from torch import nn

from mapsto.episode import Tree

PATIENCE = 60.0
"""Seconds for which a copy may take longer than twenty times this process did for as many tasks."""

ALONE: WeakSet[nn.Module] = WeakSet()
"""Modules that turned out to draw random numbers, or whose processes failed."""


def over_processes(fn: Callable[[list], Tree], module: nn.Module | None, parts: list) -> list[Tree]:
    """`fn` of each of as many shares of the parts as torch has threads, in order, each on a core of its own.

    The shares but the first are computed by copies of this process (fork), which hold all that it holds: nothing is
    sent but the results. If a copy fails or draws random numbers, its share is computed here.
    """
    cores = min(torch.get_num_threads(), len(parts))
    shares = [parts[len(parts) * i // cores : len(parts) * (i + 1) // cores] for i in range(cores)]
    state, threads, begin = torch.get_rng_state(), torch.get_num_threads(), time.monotonic()
    children: list[tuple[int, int]] = []
    try:
        for share in shares[1:]:
            children.append(_fork(fn, share))
        torch.set_num_threads(1)
        results = [fn(shares[0])]
        limit = begin + PATIENCE + 20 * (time.monotonic() - begin)
        answers = [_answer(reader, limit) for _, reader in children]
    finally:
        torch.set_num_threads(threads)
        for child, reader in children:
            os.close(reader)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)  # one that answered has ended, or is about to
            os.waitpid(child, 0)
    drew = any(answer is not None and answer[0] for answer in answers) or not torch.equal(torch.get_rng_state(), state)
    if drew or None in answers:
        if module is not None:
            ALONE.add(module)
        if drew:
            torch.set_rng_state(state)
            return [fn(share) for share in shares]
        warnings.warn("a process of this step failed; its tasks are computed again, here", stacklevel=2)
    return results + [fn(share) if a is None else a[1] for share, a in zip(shares[1:], answers, strict=True)]


def _fork(fn: Callable[[list], Tree], share: list) -> tuple[int, int]:
    """A process that computes `fn(share)`: its number, and the end of the pipe where its answer will come out."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads hold nothing that the copy will want
        child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    try:
        torch.set_num_threads(1)
        state = torch.get_rng_state()
        result = fn(share)
        with os.fdopen(writer, "wb") as file:
            pickle.dump((not torch.equal(torch.get_rng_state(), state), result), file)
    finally:
        os._exit(0)  # whatever happened: the rest of the program is the parent's


def _answer(reader: int, limit: float) -> tuple[bool, Tree] | None:
    chunks: list[bytes] = []
    while select.select([reader], [], [], max(0.0, limit - time.monotonic()))[0]:
        chunk = os.read(reader, 1 << 20)
        if not chunk:
            with suppress(EOFError, pickle.UnpicklingError):
                return pickle.loads(b"".join(chunks))
            return None
        chunks.append(chunk)
    return None
