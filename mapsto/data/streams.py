"""Random numbers for tasks: a stream for each, that begins anew in a microsecond."""

from typing import Any

import numpy as np

MOST = 10_000
"""Of how many at most `choices` chooses: from more NumPy may choose in another way."""

_SEED = np.random.SeedSequence(0)  # of no consequence, but asking the system for one takes longer


class Streams:
    """Independent streams of random numbers, stream i a pure function of (seed, i).

    They are Philox's, a counter-based generator: to set its key is all there is to do.
    """

    def __init__(self, seed: int) -> None:
        self._key = [seed & (2**64 - 1), 0]
        # Lists, as NumPy takes three times as long to read arrays here.
        self._state: Any = {"bit_generator": "Philox", "state": {"counter": [0] * 4, "key": self._key}}
        self._state |= {"buffer": [0] * 4, "buffer_pos": 4, "has_uint32": 0, "uinteger": 0}
        self._bits = np.random.Philox(_SEED)
        self._generator = np.random.Generator(self._bits)

    def at(self, i: int) -> np.random.Generator:
        """Stream i from its beginning. It is the same generator each time: one stream is read at a time."""
        self._key[1] = i
        self._bits.state = self._state
        return self._generator

    def words(self, start: int, size: int, count: int) -> np.ndarray:
        """The first 64-bit words of streams `start` to `start + size - 1`: uint64 `[size, count]`."""
        found, raw = np.empty((size, count), np.uint64), self._bits.random_raw
        for k in range(size):
            self.at(start + k)
            found[k] = raw(count)
        return found


def uniform(words: np.ndarray) -> np.ndarray:
    """The numbers in [0, 1) that `Generator.random` makes of words."""
    return (words >> np.uint64(11)) * 2.0**-53


def choices(words: np.ndarray, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """What `Generator.choice(n, k, replace=False)` makes of each row of words, for n up to `MOST`.

    Floyd's algorithm, and then a shuffle (NumPy, `_generator.pyx`), with Lemire's bounded numbers of 32 bits each.

    Args:
        words: uint64 `[rows, k]`, or one less where k is n.

    Returns:
        The choices, int64 `[rows, k]`; and whether the row is right `[rows]`. A few in a million are not: those where
        NumPy would have drawn some number again.
    """
    low, high = words & np.uint64(2**32 - 1), words >> np.uint64(32)
    halves = np.stack([low, high], 2).reshape(len(words), -1)
    bounds = np.array([*range(n - k + 1, n + 1), *range(k, 1, -1)], np.uint64)  # exclusive
    bounds = bounds[bounds > 1]  # for which nothing is drawn
    product = halves[:, : len(bounds)] * bounds
    right = np.all(product & np.uint64(2**32 - 1) >= 2**32 % bounds, axis=1)
    drawn = (product >> np.uint64(32)).astype(np.int64)
    found, rows = np.zeros((len(words), k), np.int64), np.arange(len(words))
    for j in range(k):
        if n - k + j > 0:
            value, drawn = drawn[:, 0], drawn[:, 1:]
            known = np.any(found[:, :j] == value[:, None], axis=1)
            found[:, j] = np.where(known, n - k + j, value)
    for j in range(k - 1, 0, -1):
        place, drawn = drawn[:, 0], drawn[:, 1:]
        found[rows, place], found[:, j] = found[:, j], found[rows, place]
    return found, right
