"""Where data files live on disk: finding or downloading an original file, and caching what was decoded from it.

Environment variables: `MAPSTO_DATA` is a folder of data sets in their official layout, `<MAPSTO_DATA>/<name>/<file>`;
it is only ever read. `MAPSTO_CACHE` is where decoded arrays, and downloads that `MAPSTO_DATA` lacks, are written.
"""

import hashlib
import http.client
import os
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mapsto.errors import DataError

_CHUNK = 1 << 20  # bytes read at a time
_TIMEOUT = 30  # seconds without an answer
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError)  # what damaged archives raise


def data_root() -> Path:
    """The folder of data sets: `$MAPSTO_DATA`, else `mapsto/data` in the user's cache folder."""
    given = os.environ.get("MAPSTO_DATA")
    return Path(given).expanduser() if given else _user_cache() / "data"


def cache_root() -> Path:
    """The folder of decoded arrays: `$MAPSTO_CACHE`, else `mapsto/arrays` in the user's cache folder."""
    given = os.environ.get("MAPSTO_CACHE")
    return Path(given).expanduser() if given else _user_cache() / "arrays"


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(name: str, file: str, url: str, digest: str, digest_of: Callable[[Path], str] = sha256) -> Path:
    """Find an original file of a data set, or download it; either way, verify it.

    Every call computes the digest, so call it where the file is decoded: within `cached_array`'s `make`.

    Args:
        name: the data set's folder, such as `"omniglot"`.
        file: the file within that folder.
        url: its public address.
        digest: what `digest_of` must return for the right file.
        digest_of: the digest; by default the SHA-256 of the bytes.

    Returns:
        The path of the verified file: in the data root if it is there; else a download, in the user's cache folder,
        or in `cache_root()/downloads` where `MAPSTO_DATA` is set (a data root that the user gave is never written).

    Raises:
        DataError: the file is damaged, or is absent and cannot be downloaded.
    """
    home = cache_root() / "downloads" if os.environ.get("MAPSTO_DATA") else data_root()
    for path in (data_root() / name / file, home / name / file):
        if path.exists():
            _verify(path, f"delete {path} and download it again from {url}", digest, digest_of)
            return path
    path = home / name / file
    try:
        with _replacing(path) as draft:
            _download(url, draft, file)
            _verify(draft, f"the download from {url} was cut short or altered, so try again", digest, digest_of)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        wanted = data_root() / name / file
        raise DataError(
            f"{name}/{file} is not at {wanted} and could not be downloaded ({error}): get it from {url} on a machine "
            f"with network access and put it at {wanted}."
        ) from error
    return path


def cached_array(key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that is made once, kept as `cache_root()/<key>.npy`, and memory-mapped read-only from then on.

    Args:
        key: a file name without suffix that holds all that the array depends on: parameters, version of the code.
        make: makes the array; called where the file is absent, or cut short by a full disk, say.

    Raises:
        DataError: the cache folder cannot be written.
    """
    path = cache_root() / f"{key}.npy"
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        array = make()
    try:
        with _replacing(path) as draft, draft.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())  # else a crash after the rename could leave a file of zeros
        return np.load(path, mmap_mode="r")
    except OSError as error:
        raise DataError(
            f"the cache {path} cannot be written ({error}): set MAPSTO_CACHE to a writable folder."
        ) from error


def _user_cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "mapsto"


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A draft beside `path` that takes its place at the end, or vanishes with an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")  # same folder: the rename is atomic
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _download(url: str, target: Path, label: str) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, target.open("wb") as out:
        size = int(answer.headers.get("Content-Length", 0)) or None
        # disable=None: the bar shows on a terminal only
        with tqdm(total=size, desc=label, unit="B", unit_scale=True, disable=None) as bar:
            while chunk := answer.read(_CHUNK):
                out.write(chunk)
                bar.update(len(chunk))


def _verify(path: Path, remedy: str, digest: str, digest_of: Callable[[Path], str]) -> None:
    try:
        found = digest_of(path)
    except _DAMAGE as error:
        raise DataError(f"{path} is damaged ({error}): {remedy}.") from error
    if found != digest:
        raise DataError(f"{path} is not the published file (digest {found[:12]}, not {digest[:12]}): {remedy}.")
