"""Finding, downloading and caching data files."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from mapsto.data.files import cache_root, cached_array, data_root, find
from mapsto.errors import DataError

CONTENT = b"published"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPSTO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))


@pytest.fixture
def url(tmp_path: Path) -> str:
    (tmp_path / "published").write_bytes(CONTENT)
    return (tmp_path / "published").as_uri()  # urllib reads file: addresses, so no network is needed


def test_roots_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (data_root(), cache_root()) == (tmp_path / "data", tmp_path / "cache")
    monkeypatch.setenv("MAPSTO_DATA", "")
    monkeypatch.delenv("MAPSTO_CACHE")
    assert (data_root(), cache_root()) == (tmp_path / "user/mapsto/data", tmp_path / "user/mapsto/arrays")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root() == Path.home() / ".cache/mapsto/data"


def test_present_file_is_used_and_a_given_data_root_is_never_written(tmp_path: Path, url: str) -> None:
    assert find("set", "file", url, DIGEST) == tmp_path / "cache/downloads/set/file"
    assert not (tmp_path / "data").exists()
    (tmp_path / "data/set").mkdir(parents=True)
    (tmp_path / "data/set/file").write_bytes(CONTENT)
    assert find("set", "file", "file:///nowhere", DIGEST) == tmp_path / "data/set/file"


def test_download_goes_to_the_users_cache_once(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAPSTO_DATA")
    path = find("set", "file", url, DIGEST)
    assert path == tmp_path / "user/mapsto/data/set/file"
    assert find("set", "file", "file:///nowhere", DIGEST) == path
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_without_network_the_error_names_file_address_and_place(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        find("set", "file", "file:///nowhere", DIGEST)
    for part in ("set/file", "file:///nowhere", str(tmp_path / "data/set/file")):
        assert part in str(caught.value)


def test_altered_download_leaves_nothing(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match="not the published file"):
        find("set", "file", url, "0" * 64)
    assert list((tmp_path / "cache/downloads/set").iterdir()) == []


def test_altered_file_is_refused(tmp_path: Path, url: str) -> None:
    (tmp_path / "data/set").mkdir(parents=True)
    (tmp_path / "data/set/file").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="delete"):
        find("set", "file", url, DIGEST)


def test_cached_array_is_made_once_and_mapped() -> None:
    made = []

    def make() -> np.ndarray:
        made.append(1)
        return np.arange(1000)

    first, second = cached_array("a", make), cached_array("a", make)
    assert len(made) == 1 and isinstance(second, np.memmap) and not second.flags.writeable
    np.testing.assert_array_equal(first, second)
    assert [entry.name for entry in cache_root().iterdir()] == ["a.npy"]


@pytest.mark.parametrize("keep", [0, 5, 60, 500])
def test_truncated_cache_is_rebuilt(keep: int) -> None:
    cached_array("a", lambda: np.arange(1000))
    path = cache_root() / "a.npy"
    path.write_bytes(path.read_bytes()[:keep])
    np.testing.assert_array_equal(cached_array("a", lambda: np.arange(1000)), np.arange(1000))
    np.testing.assert_array_equal(np.load(path), np.arange(1000))


def test_failed_make_leaves_nothing() -> None:
    with pytest.raises(ZeroDivisionError):
        cached_array("a", lambda: np.array(1 // 0))
    assert not cache_root().exists() or list(cache_root().iterdir()) == []


def test_unwritable_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="MAPSTO_CACHE"):
        cached_array("a", lambda: np.arange(3))
