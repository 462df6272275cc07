"""A user's own images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mapsto.data.folder import class_folders, image_files, image_folder, read_image, split_classes
from mapsto.data.labelled import Labelled
from mapsto.errors import DataError, MapstoError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("b", (255, 0, 0)), ("a", (0, 0, 255))):
        (tmp_path / name).mkdir()
        for suffix in ("png", "JPG", "gif", "bmp", "webp"):
            Image.new("RGB", (40, 20), colour).save(tmp_path / name / f"image.{suffix}")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "readme.md").touch()
    return tmp_path


def test_reads_every_format_in_order(folder: Path) -> None:
    data = image_folder(folder, size=(8, 12), channels=3)
    assert data.names == ["a", "b"] and data.y.tolist() == [0] * 5 + [1] * 5
    assert data.x.shape == (10, 3, 8, 12) and data.x.dtype == torch.uint8 and data.x.is_contiguous()
    assert (data.x[:5, 2] > 240).all() and (data.x[:5, :2] < 15).all() and (data.x[5:, 0] > 240).all()
    assert image_folder(folder).x.shape == (10, 1, 28, 28)


def test_deep_greys_transparency_and_orientation(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((5, 5), 128 << 8, np.uint16)).save(tmp_path / "a" / "1.png")
    Image.new("P", (5, 5)).save(tmp_path / "a" / "2.png")
    turned = Image.new("L", (4, 2))
    turned.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned.save(tmp_path / "a" / "3.png", exif=exif)
    x = image_folder(tmp_path, size=(2, 4)).x
    assert (x[0] == 128).all() and x[2, 0, 1, 3] == 255 and x[2].sum() == 255


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_transparent_becomes_white(tmp_path: Path, kind: str) -> None:
    image = Image.new(kind, (8, 8))  # black where it is seen, which in the upper half it is not
    if kind == "P":
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.paste(1, (0, 4, 8, 8))
        image.save(tmp_path / "a.png", transparency=0)
    else:
        alpha = Image.new("L", (8, 8))
        alpha.paste(255, (0, 4, 8, 8))
        image.putalpha(alpha)
        image.save(tmp_path / "a.png")
    for channels in (1, 3):
        found = read_image(tmp_path / "a.png", 8, channels)
        assert found.shape == (channels, 8, 8) and (found[:, :4] == 255).all() and (found[:, 4:] == 0).all()


def test_an_image_of_pillows_stays_open(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert (read_image(image, 2, 3)[0] == 255).all()
        assert image.getpixel((0, 0)) == (255, 0, 0)


def test_class_folders(folder: Path) -> None:
    found = class_folders(folder)
    assert list(found) == ["a", "b"] and found["b"] == image_files(folder / "b") == sorted(found["b"])
    assert [file.name for file in found["a"]] == sorted(f"image.{s}" for s in ("JPG", "bmp", "gif", "png", "webp"))


def test_unreadable_image_is_named(folder: Path) -> None:
    broken = folder / "b" / "image.png"
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(DataError, match=r"image\.png cannot be read"):
        image_folder(folder)


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no sub-folders"):
        image_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no image"):
        image_folder(tmp_path)


def test_wrong_arguments_are_named(folder: Path) -> None:
    with pytest.raises(MapstoError, match="channels"):
        image_folder(folder, channels=2)
    with pytest.raises(MapstoError, match="size"):
        image_folder(folder, size=0)


def _classes(count: int) -> Labelled:
    y = np.tile(np.arange(count), 3)
    return Labelled(torch.from_numpy(y)[:, None], y, [f"class {c}" for c in range(count)])


@pytest.mark.parametrize(("count", "sizes"), [(3, [1, 1, 1]), (5, [3, 1, 1]), (100, [64, 16, 20])])
def test_split_shares_no_class(count: int, sizes: list[int]) -> None:
    parts = split_classes(_classes(count))
    assert [len(part.names) for part in parts] == sizes
    assert sorted(name for part in parts for name in part.names) == sorted(_classes(count).names)
    for part in parts:
        assert len(part.x) == 3 * len(part.names) and part.y.dtype == np.int64
        assert [part.names[label] for label in part.y] == [f"class {c}" for c in part.x[:, 0].tolist()]


def test_split_depends_on_the_seed_and_may_leave_a_part_empty() -> None:
    data = _classes(20)
    assert split_classes(data, seed=1)[0].names == split_classes(data, seed=1)[0].names
    assert split_classes(data, seed=1)[0].names != split_classes(data, seed=2)[0].names
    assert len(split_classes(data, (0.5, 0, 0.5))[1].names) == 0


def test_wrong_fractions_are_named() -> None:
    with pytest.raises(MapstoError, match="sum to 1"):
        split_classes(_classes(9), (0.5, 0.5, 0.5))
    with pytest.raises(MapstoError, match="2 classes"):
        split_classes(_classes(2))
