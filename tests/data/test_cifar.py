"""CIFAR-FS and FC100: splits, images, damaged files. What needs the images is skipped where they are absent."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mapsto.data import CIFARFS, FC100, Tasks, cifar
from mapsto.data.files import cache_root, data_root, sha256
from mapsto.data.labelled import Labelled
from mapsto.errors import DataError

FORMS = [data_root() / "cifar100" / form for form in ("cifar-100-binary", "cifar-100-binary.tar.gz")]
HERE = [form for form in FORMS if form.exists()]
needs_images = pytest.mark.skipif(not HERE, reason="CIFAR-100 is not in the data root (set MAPSTO_DATA)")

# The classes that CIFAR-FS is tested on, and FC100's superclasses as TADAM numbers them.
CIFAR_FS_TEST = """baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper
    table telephone wardrobe whale woman worm"""
FC100_SUPERCLASSES = {
    "train": [1, 2, 3, 4, 5, 6, 9, 10, 15, 17, 18, 19],
    "val": [8, 11, 13, 16],
    "test": [0, 7, 12, 14],
}


@pytest.mark.parametrize(("name", "sizes"), [("cifar-fs", [64, 16, 20]), ("fc100", [60, 20, 20])])
def test_splits_partition_the_classes(name: str, sizes: list[int]) -> None:
    parts = cifar._split(name)
    assert [len(part) for part in parts] == sizes
    assert len({c for part in parts for c in part}) == 100


def test_splits_are_the_published_ones() -> None:
    asset = json.loads(cifar._ASSET.read_text())
    order = sorted(asset["superclasses"])  # CIFAR-100 numbers its superclasses in this order
    assert {part: [order.index(c) for c in names] for part, names in asset["fc100"].items()} == FC100_SUPERCLASSES
    assert [len(classes) for classes in asset["superclasses"].values()] == [5] * 20
    assert cifar._split("cifar-fs")[2] == CIFAR_FS_TEST.split()
    assert {"beaver", "bee", "baby", "fox"} <= set(cifar._split("fc100")[2])


# ------------------------------------------------------------------------------------------------ made-up archives


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data root of a made-up CIFAR-100 of 3 images a class, the archive and the folder of other orders."""
    records = np.random.default_rng(0).integers(0, 256, (300, 3074), np.uint8)
    records[:, 1] = np.arange(300) % 100
    folder = tmp_path / "data" / "cifar100" / "cifar-100-binary"
    folder.mkdir(parents=True)
    with tarfile.open(folder.parent / "cifar-100-binary.tar.gz", "w:gz") as archive:
        for file, rows in (("train.bin", records[::-1][100:]), ("test.bin", records[::-1][:100])):
            member = tarfile.TarInfo(f"cifar-100-binary/{file}")
            member.size = rows.size
            archive.addfile(member, io.BytesIO(rows.tobytes()))
    (folder / "train.bin").write_bytes(records[:200].tobytes())
    (folder / "test.bin").write_bytes(records[200:].tobytes())
    monkeypatch.setenv("MAPSTO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar, "_EACH", 3)
    monkeypatch.setattr(cifar, "_URL", "file:///nowhere")
    monkeypatch.setattr(cifar, "_ARCHIVE", sha256(folder.parent / "cifar-100-binary.tar.gz"))
    monkeypatch.setattr(cifar, "_FOLDER", cifar._content(folder))
    return folder


def test_archive_and_folder_give_the_same(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_folder = CIFARFS()
    records = np.fromfile(small / "train.bin", np.uint8).reshape(-1, 3074)
    label = sorted(c for part in cifar._split("cifar-fs") for c in part).index(from_folder.val.names[5])
    expected = {row[2:].tobytes() for row in records[records[:, 1] == label]}
    assert len(expected) == 2 and expected < {x.numpy().tobytes() for x in from_folder.val.x[15:18]}
    (small / "train.bin").unlink()  # so the archive is read
    monkeypatch.setenv("MAPSTO_CACHE", str(small / "other"))
    from_archive = CIFARFS()
    for a, b in zip(vars(from_folder).values(), vars(from_archive).values(), strict=True):
        assert a.x.equal(b.x) and a.names == b.names and (a.y == b.y).all()
    cifar.verify()


def test_decoded_once_and_mapped(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = FC100()
    monkeypatch.setattr(cifar, "_images", None)  # so the cache must serve it
    assert FC100().test.x.equal(first.test.x) and FC100().train.x.shape == (180, 3, 32, 32)
    assert [file.name for file in cache_root().iterdir()] == ["fc100-32-v1.npy"]


def test_damaged_and_missing_files_are_named_with_the_remedy(small: Path) -> None:
    train, archive = small / "train.bin", small.parent / "cifar-100-binary.tar.gz"
    good = train.read_bytes()
    for bad in (good[:-1000], good[:-1] + bytes([good[-1] ^ 1]), good[3074:]):  # cut short, altered, an image less
        train.write_bytes(bad)
        with pytest.raises(DataError, match=f"{small} is .*: delete {small} and download it again from file:"):
            CIFARFS()
    train.unlink()
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-1000])
    with pytest.raises(DataError, match=f"{archive} is not the published file"):
        CIFARFS()
    archive.unlink()
    with pytest.raises(DataError, match=r"could not be downloaded.*get it from file:///nowhere.*put it at"):
        FC100()
    assert not list(cache_root().glob("*.npy"))


# ------------------------------------------------------------------------------------------------ the real images


@needs_images
def test_images_are_those_of_cifar100() -> None:
    data = CIFARFS()
    for part, classes in ((data.train, 64), (data.val, 16), (data.test, 20)):
        assert part.x.shape == (classes * 600, 3, 32, 32) and part.x.is_contiguous() and part.x.dtype == torch.uint8
        np.testing.assert_array_equal(part.y, np.repeat(np.arange(classes), 600))
    some = torch.cat([part.x[5::12] for part in (data.train, data.val, data.test)]).float().div_(255)
    # The published statistics are of the 50,000 training images; these are of 5,000, hence the width.
    assert torch.allclose(some.mean((0, 2, 3)), torch.tensor([0.5071, 0.4865, 0.4409]), atol=3e-3)
    assert torch.allclose(some.std((0, 2, 3)), torch.tensor([0.2673, 0.2564, 0.2762]), atol=3e-3)
    oranges = data.train.x[data.train.y == data.train.names.index("orange")].float()
    red, green, blue = oranges.mean((0, 2, 3))
    assert red > green + 20 > blue + 40  # channels and names are in order


@pytest.fixture(scope="module")
def classes_of() -> dict[bytes, set[str]]:
    """The classes that an image is of, by the labels in the files; a few images are in two."""
    every = sorted(name for part in cifar._split("fc100") for name in part)
    classes: dict[bytes, set[str]] = {}
    for row in cifar._records(HERE[0]):
        classes.setdefault(row[2:].tobytes(), set()).add(every[row[1]])
    return classes


@needs_images
@pytest.mark.parametrize("kind", [CIFARFS, FC100])
def test_tasks_of_one_split_touch_no_class_of_another(kind: type, classes_of: dict[bytes, set[str]]) -> None:
    # pitfall: splits that are disjoint, of which tasks are drawn that are not

    def drawn(part: Labelled) -> set[str]:
        tasks, found = Tasks(part, query=2, transform=lambda x: x), set()
        for i in range(100):
            names = [tasks.names[c] for c in tasks.classes(i) for _ in range(2)]
            for x, name in zip(tasks[i].query.x, names, strict=True):
                assert name in classes_of[x.numpy().tobytes()]
            found |= set(names)
        return found

    data = kind()
    train, val, test = (drawn(part) for part in (data.train, data.val, data.test))
    assert len(train) > 55 and len(val) >= 16 and len(test) == 20
    assert not train & val and not train & test and not val & test
