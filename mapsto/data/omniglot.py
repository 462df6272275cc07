"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people.

B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum. Human-level concept learning through probabilistic program induction.
Science 350(6266), 2015. https://github.com/brendenlake/omniglot, MIT licence.
Split "vinyals": O. Vinyals et al. Matching Networks for One Shot Learning, 2016, https://arxiv.org/abs/1606.04080; the
list is the one of torchmeta (MIT licence), whose alphabet Gurmukhi lies partly in train and partly in test.
Split "background": E. Triantafillou et al. Meta-Dataset, 2020, https://arxiv.org/abs/1903.03096.
"""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from tqdm import tqdm

from mapsto.data.files import cached_array, find
from mapsto.data.labelled import Labelled
from mapsto.errors import MapstoError

_URL = "https://github.com/brendenlake/omniglot/raw/master/python/"
# File -> digest of its contents (see _content): archives that were packed again are accepted, altered images are not.
_ZIPS = {
    "images_background.zip": "deaa02f758afda524b3a045c7af40311f2d9ded3e2a39f715ece8470d474bc6a",
    "images_evaluation.zip": "3d5e035f27423c362bf9a181af649b43cda64c1008f842177ddc5203269c901e",
}
_ASSET = Path(__file__).parent / "assets" / "omniglot_vinyals.json"
_CHARACTERS, _DRAWERS, _SIDE = 1623, 20, 28
_RANDOM = (1100, 1200)  # where the random split cuts the shuffled characters: 1,100 train, 100 val, 423 test
_SMALLEST = (  # the five background alphabets with the fewest characters, Meta-Dataset's for validation
    "Alphabet_of_the_Magi",
    "Blackfoot_(Canadian_Aboriginal_Syllabics)",
    "Inuktitut_(Canadian_Aboriginal_Syllabics)",
    "Ojibwe_(Canadian_Aboriginal_Syllabics)",
    "Tagalog",
)

Split = Literal["vinyals", "random", "background"]


class Omniglot:
    """Omniglot, split by characters: uint8 images `[n, 1, 28, 28]`, ink bright, the 20 drawings of a class in a row.

    The 105 x 105 originals are reduced by Pillow's Lanczos filter and inverted, once; later loads map the result from
    disk (`mapsto.data.files.cached_array`).

    Args:
        split: `"vinyals"`: 1,028 / 172 / 423 characters, the list in common use. `"random"`: 1,100 / 100 / 423 drawn
            from `seed`, as in MAML's code (https://github.com/cbfinn/maml: 1,200 characters less 100 for validation).
            `"background"`: 883 / 81 / 659, whole alphabets: Lake's background set of 30, its five smallest for
            validation, and his evaluation set of 20 for test, as in Meta-Dataset. The other two splits mix these sets.
        rotations: whether each character, turned counter-clockwise by 0, 90, 180 and 270 degrees, is four classes, in
            all three parts, as in Prototypical Networks.
        seed: draws the random split; unused by the others.

    Attributes:
        train, val, test: a `Labelled` each; names are `"Alphabet/character01"`, with `"/rot090"` where `rotations`.

    Raises:
        DataError: an archive is damaged, or is absent and cannot be downloaded.
        MapstoError: an unknown split.
    """

    def __init__(self, split: Split = "vinyals", rotations: bool = True, seed: int = 0) -> None:
        if split not in get_args(Split):
            raise MapstoError(f"Omniglot has no split {split!r}: choose one of {', '.join(get_args(Split))}.")
        images = cached_array(f"omniglot-{_SIDE}-lanczos-v1", _images)
        names = _names()
        parts = {"vinyals": _vinyals, "random": lambda _: _random(seed), "background": _background}[split](names)
        self.train, self.val, self.test = (_labelled(images, names, part, rotations) for part in parts)


def alphabets(names: list[str]) -> list[list[int]]:
    """The classes of each alphabet, as indices into the names of a part, in the order of their first classes."""
    found: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        found.setdefault(name.partition("/")[0], []).append(i)
    return list(found.values())


def _labelled(images: np.ndarray, names: list[str], part: list[int], rotations: bool) -> Labelled:
    turns = range(4 if rotations else 1)
    chosen = images[part]  # [characters, drawers, side, side], a copy in memory
    x = np.stack([np.rot90(chosen, k, axes=(2, 3)) for k in turns], axis=1)  # [characters, turns, drawers, side, side]
    named = [names[c] + (f"/rot{90 * k:03d}" if rotations else "") for c in part for k in turns]
    return Labelled(torch.from_numpy(x.reshape(-1, 1, _SIDE, _SIDE)), np.repeat(np.arange(len(named)), _DRAWERS), named)


def _vinyals(names: list[str]) -> list[list[int]]:
    """The indices in `names` of the three parts."""
    index = {name: i for i, name in enumerate(names)}
    ranges = json.loads(_ASSET.read_text())
    return [
        [index[f"{alphabet}/character{number:02d}"] for alphabet, number in _expand(ranges[part])]
        for part in ("train", "val", "test")
    ]


def _random(seed: int) -> list[list[int]]:
    order = np.random.default_rng(seed).permutation(_CHARACTERS)
    return [sorted(part.tolist()) for part in np.split(order, _RANDOM)]


def _background(names: list[str]) -> list[list[int]]:
    background = json.loads(_ASSET.read_text())["background"]
    parts: list[list[int]] = [[], [], []]
    for i, name in enumerate(names):
        alphabet = name.partition("/")[0]
        parts[2 if alphabet not in background else 1 if alphabet in _SMALLEST else 0].append(i)
    return parts


def _names() -> list[str]:
    """All characters in the order of the decoded array: background before evaluation, then by path.

    The asset alone tells them, so a cached array needs no archive beside it.
    """
    asset = json.loads(_ASSET.read_text())
    everything = [pair for part in ("train", "val", "test") for pair in _expand(asset[part])]
    background = set(asset["background"])
    everything.sort(key=lambda pair: (pair[0] not in background, pair))
    return [f"{alphabet}/character{number:02d}" for alphabet, number in everything]


def _expand(ranges: dict[str, list[list[int]]]) -> list[tuple[str, int]]:
    """(alphabet, number of the character) of the asset's `{alphabet: [[first, last], ...]}`."""
    return [(a, n) for a, runs in ranges.items() for first, last in runs for n in range(first, last + 1)]


def verify() -> None:
    """Find (or download) the original archives and check their contents.

    Raises:
        DataError: one is damaged, or is absent and cannot be downloaded.
    """
    for file, digest in _ZIPS.items():
        find("omniglot", file, _URL + file, digest, _content)


def _images() -> np.ndarray:
    """Decode both archives: uint8 `[1623, 20, 28, 28]`, ink bright."""
    small = []
    for file, digest in _ZIPS.items():
        with zipfile.ZipFile(find("omniglot", file, _URL + file, digest, _content)) as archive:
            for member in tqdm(_members(archive), desc=f"decoding {file}", disable=None):
                small.append(reduced(archive.read(member)))
    return np.stack(small).reshape(_CHARACTERS, _DRAWERS, _SIDE, _SIDE)


def reduced(png: bytes) -> np.ndarray:
    """An original picture of a character in the pixels of `Omniglot`: uint8 `[28, 28]`, ink bright."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("L")
    return 255 - np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))


def _members(archive: zipfile.ZipFile) -> list[str]:
    return sorted(name for name in archive.namelist() if name.endswith(".png"))


def _content(path: Path) -> str:
    """SHA-256 over the lines `sha256(png)  path`, sorted by path: what is in the archive, not how it is packed."""
    total = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        for member in _members(archive):
            total.update(f"{hashlib.sha256(archive.read(member)).hexdigest()}  {member}\n".encode())
    return total.hexdigest()
