"""Omniglot: splits, rotations, damaged archives. What needs the images is skipped where they are absent."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mapsto.data import omniglot
from mapsto.data.files import data_root
from mapsto.data.omniglot import Omniglot
from mapsto.errors import DataError, MapstoError

ZIPS = ("images_background.zip", "images_evaluation.zip")
needs_images = pytest.mark.skipif(
    not all((data_root() / "omniglot" / file).exists() for file in ZIPS),
    reason="the Omniglot archives are not in the data root (set MAPSTO_DATA)",
)


def test_names_are_the_characters_in_order_of_path() -> None:
    names = omniglot._names()
    assert len(names) == len(set(names)) == 1623
    assert len({name.split("/")[0] for name in names}) == 50
    assert names[:964] == sorted(names[:964]) and names[964:] == sorted(names[964:])
    assert (names[0], names[963]) == ("Alphabet_of_the_Magi/character01", "Tifinagh/character55")
    assert (names[964], names[-1]) == ("Angelic/character01", "ULOG/character26")


SPLITS = {
    "vinyals": (omniglot._vinyals(omniglot._names()), [1028, 172, 423]),
    "random": (omniglot._random(0), [1100, 100, 423]),
    "background": (omniglot._background(omniglot._names()), [883, 81, 659]),
}


@pytest.mark.parametrize("kind", SPLITS)
def test_splits_partition_the_characters(kind: str) -> None:
    parts, sizes = SPLITS[kind]
    assert [len(part) for part in parts] == sizes
    assert sorted(i for part in parts for i in part) == list(range(1623))


def test_the_background_split_keeps_alphabets_whole() -> None:
    names = omniglot._names()
    held = [[names[i] for i in part] for part in omniglot._background(names)]
    kinds = [{name.partition("/")[0] for name in part} for part in held]
    assert [len(kind) for kind in kinds] == [25, 5, 20] and not set.intersection(*kinds)
    assert sorted(held[0] + held[1]) == sorted(names[:964])  # Lake's background set
    sizes = [[len(classes) for classes in omniglot.alphabets(part)] for part in held]
    assert sorted(sizes[1]) == [14, 14, 16, 17, 20] and min(sizes[0]) >= 20  # as Meta-Dataset says of its five


def test_alphabets_of_a_part() -> None:
    names = ["A/character01/rot000", "A/character01/rot090", "B/character01", "A/character02"]
    assert omniglot.alphabets(names) == [[0, 1, 3], [2]]


def test_random_split_depends_on_the_seed() -> None:
    assert omniglot._random(1) == omniglot._random(1) != omniglot._random(2)


def test_unknown_split_is_named() -> None:
    with pytest.raises(MapstoError, match="official"):
        Omniglot(split="official")  # pyright: ignore[reportArgumentType]


@needs_images
def test_shapes_names_and_ink() -> None:
    data = Omniglot()
    for part, characters in ((data.train, 1028), (data.val, 172), (data.test, 423)):
        classes = characters * 4
        assert part.x.shape == (classes * 20, 1, 28, 28) and part.x.is_contiguous()
        assert len(part.names) == len(set(part.names)) == classes
        np.testing.assert_array_equal(part.y, np.repeat(np.arange(classes), 20))
        assert part.x.float().mean() < 60  # ink is bright, and rare
    assert data.train.names[:2] == [
        "Alphabet_of_the_Magi/character01/rot000",
        "Alphabet_of_the_Magi/character01/rot090",
    ]


@needs_images
def test_rotations_turn_the_same_drawings() -> None:
    turned, plain = Omniglot().val, Omniglot(rotations=False).val
    assert plain.names[3] == "Armenian/character04" and len(plain.names) == 172
    for k in range(4):
        expected = plain.x[60:80].rot90(k, dims=(2, 3))
        assert turned.x[(12 + k) * 20 : (13 + k) * 20].equal(expected)
        assert turned.names[12 + k] == f"Armenian/character04/rot{90 * k:03d}"


@needs_images
@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_damaged_archive_is_named_with_the_remedy(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data" / "omniglot"
    folder.mkdir(parents=True)
    source, target = data_root() / "omniglot" / ZIPS[0], folder / ZIPS[0]
    if damage == "truncated":
        target.write_bytes(source.read_bytes()[:-1000])
    else:
        shutil.copy(data_root() / "omniglot" / ZIPS[1], target)  # a good archive, of other images
    monkeypatch.setenv("MAPSTO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError) as caught:
        Omniglot()
    assert str(target) in str(caught.value) and f"delete {target} and download it again from https" in str(caught.value)
    assert [entry.name for entry in folder.iterdir()] == [ZIPS[0]]
    assert not list((tmp_path / "cache").glob("*.npy"))
