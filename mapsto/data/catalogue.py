"""What `mapsto data` shows: each data set, where it is read from, and whether it is all right."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from mapsto.data import cifar, omniglot
from mapsto.data.cifar import CIFARFS, FC100
from mapsto.data.files import cache_root, data_root
from mapsto.data.glyphs import Glyphs
from mapsto.data.imagenet import Absent, MiniImageNet, TieredImageNet
from mapsto.data.labelled import Labelled
from mapsto.data.omniglot import Omniglot
from mapsto.errors import DataError


class Entry(NamedTuple):
    """One data set: what it is, its licence, and how to make sure of it."""

    about: str
    licence: str
    check: Callable[[], str]


class _Parts(Protocol):
    train: Labelled
    val: Labelled
    test: Labelled


def _reads(data: Callable[[], _Parts], verify: Callable[[], None] | None = None) -> Callable[[], str]:
    """A check: verify the original files, where there are some to download; read the data set; count."""

    def check() -> str:
        if verify:
            verify()
        whole = data()
        sizes = (f"{len(p.names)} classes of {_count(p)} images" for p in (whole.train, whole.val, whole.test))
        return f"train, val, test: {', '.join(sizes)}"

    return check


def _count(part: Labelled) -> str:
    """The images of a class, or the fewest and the most where classes differ."""
    sizes = np.bincount(part.y)
    return f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"


CATALOGUE: dict[str, Entry] = {
    "omniglot": Entry(
        "1,623 handwritten characters of 50 alphabets, 20 drawers each", "MIT", _reads(Omniglot, omniglot.verify)
    ),
    "glyphs": Entry("letters drawn from matplotlib's DejaVu fonts, no download", "Bitstream Vera", _reads(Glyphs)),
    "cifar-fs": Entry("CIFAR-100, 64 / 16 / 20 classes at random", "none stated", _reads(CIFARFS, cifar.verify)),
    "fc100": Entry("CIFAR-100, 60 / 20 / 20 classes by superclass", "none stated", _reads(FC100, cifar.verify)),
    "mini-imagenet": Entry("100 classes of ImageNet, to be had by hand", "ImageNet's terms", _reads(MiniImageNet)),
    "tiered-imagenet": Entry("608 classes of ImageNet, to be had by hand", "ImageNet's terms", _reads(TieredImageNet)),
    "sinusoid": Entry("MAML's sine waves, made on the fly", "none needed", lambda: "nothing to check"),
    "folder": Entry("your own pictures: one sub-folder a class", "yours", lambda: "checked when it is read"),
}


def describe() -> Iterator[str]:
    """A line a data set, then where files are looked for."""
    for name, entry in CATALOGUE.items():
        yield f"{name:15} {entry.about} (licence: {entry.licence})"
    yield f"data root (MAPSTO_DATA): {data_root()}; decoded arrays (MAPSTO_CACHE): {cache_root()}"


def check() -> Iterator[str]:
    """Read every data set through, a line each.

    Raises:
        DataError: after the last line, where one of them is damaged, or is missing and could not be downloaded. What
            must be had by hand may be missing.
    """
    bad = []
    for name, entry in CATALOGUE.items():
        try:
            yield f"{name:15} ok: {entry.check()}"
        except Absent as error:
            yield f"{name:15} not here: {error}"
        except DataError as error:
            bad.append(name)
            yield f"{name:15} {error}"
    if bad:
        raise DataError(f"not all right: {', '.join(bad)} (see above)")
