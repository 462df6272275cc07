"""Glyphs: disjoint parts, determinism, pictures that can be learnt from."""

from pathlib import Path

import numpy as np
import pytest

from mapsto.data import glyphs
from mapsto.data.glyphs import Glyphs
from mapsto.errors import MapstoError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPSTO_CACHE", str(cache))


@pytest.fixture
def data(_own_cache: None) -> Glyphs:
    return Glyphs(samples=2)


def test_shapes_labels_and_scripts(data: Glyphs) -> None:
    for part, classes, scripts in (
        (data.train, 994, {"LATIN", "GREEK"}),
        (data.val, 121, {"CYRILLIC"}),
        (data.test, 112, {"ARMENIAN", "GEORGIAN"}),
    ):
        assert part.x.shape == (2 * classes, 1, 28, 28) and part.x.is_contiguous()
        np.testing.assert_array_equal(part.y, np.repeat(np.arange(classes), 2))
        assert len(set(part.names)) == classes and {name.split()[0] for name in part.names} == scripts


def test_pictures_hold_ink_that_is_bright_and_not_cut_off(data: Glyphs) -> None:
    for part in (data.train, data.val, data.test):
        assert part.x.amax(dim=(1, 2, 3)).min() > 128
        assert 10 < part.x.float().mean() < 60
        edge = part.x.clone()
        edge[..., 1:-1, 1:-1] = 0
        assert (edge.amax(dim=(1, 2, 3)) > 128).float().mean() < 0.05


def test_instances_differ(data: Glyphs) -> None:
    for part in (data.train, data.val, data.test):
        assert len(part.x.flatten(1).unique(dim=0)) == len(part.x)


def test_no_letter_looks_like_another() -> None:
    letters = glyphs._letters()
    font = glyphs._fonts()[0]
    pictures = {glyphs._draw(chr(code), font).tobytes() for code in letters[:, 1]}
    assert len(pictures) == len(letters)
    kept = {chr(code) for code in letters[:, 1]}
    assert "A" in kept and not kept & {"Α", "А", "ё", "օ"}  # Greek, Cyrillic (twice), Armenian look-alikes


def test_an_image_depends_on_seed_letter_and_index_alone() -> None:
    all_of_them = glyphs._render(["a", "ж", "ა"], seed=3, samples=3)
    assert all_of_them.shape == (3, 3, 28, 28) and all_of_them.dtype == np.uint8
    np.testing.assert_allclose(glyphs._render(["ж"], 3, 2)[0].astype(int), all_of_them[1, :2].astype(int), atol=1)
    assert (glyphs._render(["ж"], 4, 2)[0] != all_of_them[1, :2]).any()


def test_second_load_is_the_same(data: Glyphs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "_render", None)  # so the cache must serve it
    assert Glyphs(samples=2).test.x.equal(data.test.x)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(MapstoError, match="samples=0"):
        Glyphs(samples=0)
    with pytest.raises(MapstoError, match="seed=-1"):
        Glyphs(seed=-1)
