"""What `mapsto data` shows: each data set, where it is read from, and whether it is all right."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mapsto.data.files import cache_root, data_root
from mapsto.data.glyphs import Glyphs
from mapsto.data.labelled import Labelled
from mapsto.data.omniglot import Omniglot, verify
from mapsto.errors import DataError


class Entry(NamedTuple):
    """One data set: what it is, its licence, and how to make sure of it."""

    about: str
    licence: str
    check: Callable[[], str]


def _counts(*parts: Labelled) -> str:
    sizes = ", ".join(f"{len(part.names)} classes of {len(part.x)} images" for part in parts)
    return f"train, val, test: {sizes}"


def _omniglot() -> str:
    verify()
    data = Omniglot()
    return _counts(data.train, data.val, data.test)


def _glyphs() -> str:
    data = Glyphs()
    return _counts(data.train, data.val, data.test)


CATALOGUE: dict[str, Entry] = {
    "omniglot": Entry("1,623 handwritten characters of 50 alphabets, 20 drawers each", "MIT", _omniglot),
    "glyphs": Entry("letters drawn from matplotlib's DejaVu fonts, no download", "Bitstream Vera", _glyphs),
    "sinusoid": Entry("MAML's sine waves, made on the fly", "none needed", lambda: "nothing to check"),
    "folder": Entry("your own pictures: one sub-folder a class", "yours", lambda: "checked when it is read"),
}


def describe() -> Iterator[str]:
    """A line a data set, then where files are looked for."""
    for name, entry in CATALOGUE.items():
        yield f"{name:10} {entry.about} (licence: {entry.licence})"
    yield f"data root (MAPSTO_DATA): {data_root()}; decoded arrays (MAPSTO_CACHE): {cache_root()}"


def check() -> Iterator[str]:
    """Read every data set through, a line each.

    Raises:
        DataError: after the last line, where one of them is damaged or missing.
    """
    bad = []
    for name, entry in CATALOGUE.items():
        try:
            yield f"{name:10} ok: {entry.check()}"
        except DataError as error:
            bad.append(name)
            yield f"{name:10} {error}"
    if bad:
        raise DataError(f"not all right: {', '.join(bad)} (see above)")
