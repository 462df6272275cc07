"""CIFAR-FS and FC100: the 100 classes of CIFAR-100, split for few-shot learning.

CIFAR-100: A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images, 2009.
https://www.cs.toronto.edu/~kriz/cifar.html; no licence is stated.
CIFAR-FS: L. Bertinetto et al. Meta-learning with differentiable closed-form solvers, 2019,
https://arxiv.org/abs/1805.08136, https://github.com/bertinetto/r2d2.
FC100: B. Oreshkin et al. TADAM: Task dependent adaptive metric for improved few-shot learning, 2018,
https://arxiv.org/abs/1805.10123.
The lists of classes are those of torchmeta (MIT licence).

What differs: images are not normalised beyond [0, 1] (as in R2D2's code; MetaOptNet's subtracts a mean and divides by a
standard deviation, which a `transform` of `Tasks` can do), and there is no random crop, flip or colour jitter.
"""

import hashlib
import json
import tarfile
from itertools import chain
from pathlib import Path

import numpy as np

from mapsto.data.files import data_root, find
from mapsto.data.labelled import Labelled
from mapsto.data.mapped import mapped_parts

_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
_ARCHIVE = "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"  # SHA-256 of the official file
_FOLDER = "ac470612f7d045e7911f7f866b79797a9d1a80ddb0581b82f097fff5e0302ea3"  # of what it holds (see _content)
_FILES = ("train.bin", "test.bin")
_ASSET = Path(__file__).parent / "assets" / "cifar100.json"
_CLASSES, _EACH, _SIDE = 100, 600, 32
_RECORD = 2 + 3 * _SIDE * _SIDE  # bytes: superclass, class, then red, green and blue


class CIFARFS:
    """CIFAR-FS: uint8 images `[n, 3, 32, 32]`, 64 / 16 / 20 random classes, the 600 images of a class in a row.

    The official binary archive, `<MAPSTO_DATA>/cifar100/cifar-100-binary.tar.gz`, or the folder it unpacks to is read
    once and its train and test images are joined; the result, 184 MB, is mapped from the cache from then on. Within a
    class the images are in the order of their bytes, so that tasks do not depend on the order in the files.

    Attributes:
        train, val, test: a `Labelled` each; names are CIFAR-100's, such as `"aquarium_fish"`.

    Raises:
        DataError: the archive is damaged, or is absent and cannot be downloaded.
    """

    def __init__(self) -> None:
        self.train, self.val, self.test = _parts("cifar-fs")


class FC100:
    """FC100: as `CIFARFS`, but 60 / 20 / 20 classes of 12 / 4 / 4 superclasses; test classes are less like training's.

    Attributes:
        train, val, test: a `Labelled` each; names are CIFAR-100's.

    Raises:
        DataError: the archive is damaged, or is absent and cannot be downloaded.
    """

    def __init__(self) -> None:
        self.train, self.val, self.test = _parts("fc100")


def verify() -> None:
    """Find (or download) CIFAR-100 and check its contents.

    Raises:
        DataError: it is damaged, or is absent and cannot be downloaded.
    """
    _source()


def _split(name: str) -> list[list[str]]:
    """The names of the classes in train, val and test."""
    asset = json.loads(_ASSET.read_text())
    parts = [asset[name][part] for part in ("train", "val", "test")]
    if name == "fc100":  # lists superclasses
        parts = [chain.from_iterable(asset["superclasses"][name] for name in part) for part in parts]
    return [sorted(part) for part in parts]


def _parts(name: str) -> list[Labelled]:
    split = _split(name)
    sizes = [_EACH] * _CLASSES
    return mapped_parts(f"{name}-{_SIDE}-v1", lambda: _images(list(chain.from_iterable(split))), split, sizes)


def _source() -> Path:
    """The verified folder, or else the verified archive."""
    folder = data_root() / "cifar100" / "cifar-100-binary"
    if all((folder / file).exists() for file in _FILES):
        return find("cifar100", folder.name, _URL, _FOLDER, _content)
    return find("cifar100", "cifar-100-binary.tar.gz", _URL, _ARCHIVE)


def _images(order: list[str]) -> np.ndarray:
    """Read both parts: uint8 `[60000, 3, 32, 32]`, the classes in the order given, the images of one by their bytes."""
    records = _records(_source())
    every = sorted(order)  # CIFAR-100 numbers its classes in this order
    pixels = []
    for name in order:
        ours = records[records[:, 1] == every.index(name), 2:]
        pixels += [ours[i] for i in sorted(range(len(ours)), key=lambda i: ours[i].tobytes())]
    return np.stack(pixels).reshape(-1, 3, _SIDE, _SIDE)


def _records(path: Path) -> np.ndarray:
    """The records of both parts, uint8 `[60000, 3074]`, of an archive or a folder."""
    if path.is_dir():
        parts = [(path / file).read_bytes() for file in _FILES]
    else:
        parts = []
        with tarfile.open(path) as archive:
            for file in _FILES:
                member = archive.extractfile(f"cifar-100-binary/{file}")
                assert member is not None  # a plain file in the archive that `find` verified
                parts.append(member.read())
    return np.concatenate([np.frombuffer(part, np.uint8).reshape(-1, _RECORD) for part in parts])


def _content(folder: Path) -> str:
    """SHA-256 over the sorted SHA-256 of all (class, pixels): the same for any order of the images."""
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(row[1:]).digest() for row in _records(folder)))).hexdigest()
