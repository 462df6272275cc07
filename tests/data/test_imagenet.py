"""mini- and tiered-ImageNet: the published lists, and made-up images in the layouts that are read."""

import hashlib
import json
import warnings
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mapsto import Episode
from mapsto.data import MiniImageNet, Tasks, TieredImageNet, imagenet
from mapsto.data.catalogue import check
from mapsto.data.files import cache_root
from mapsto.data.imagenet import Absent
from mapsto.data.labelled import Labelled
from mapsto.errors import DataError

PARTS = ("train", "val", "test")

# ------------------------------------------------------------------------------------------------ the lists

PUBLISHED = {  # SHA-256 of the authors' files
    "mini_imagenet": (
        "498519cd8e49ce97ed26a4a3638966698ae41ab35e9c68538319fc9b46ba7d2f",
        "5658a59921ca027ee76af92949869c5d6f41d77592ff3b18db325a9d10c893b9",
        "2b7cfa78342995761a572a8158e539bc4e0a80f9bbd7d00c1e17a460fbbb93fa",
    ),
    "tiered_imagenet": (
        "6b87c8440f610d406bce85ac70db018485cc1b036a9106d512e75e4988eb3e15",
        "e63540c17e82c2de98df9244b03cdb7e214ea513ae543d6dbc29998f9597cfc5",
        "a478b4481aae4003b6b3c7a09f9ddc56b36f54652e01b83d07a8e6ee1b789d56",
    ),
}


def asset(name: str) -> dict:
    return json.loads((imagenet._ASSETS / f"{name}.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_lists_are_the_authors_byte_for_byte(name: str) -> None:
    for part, digest in zip(PARTS, PUBLISHED[name], strict=True):
        if name == "mini_imagenet":
            pairs = [(s, k) for s, bits in asset(name)[part].items() for k in imagenet._numbers(bits)]
            lines = ["filename,label", *(f"{synset}{k:08d}.jpg,{synset}" for synset, k in pairs)]
        else:
            lines = [f"{synset},{group}" for group, synsets in asset(name)[part].items() for synset in synsets]
        assert hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest() == digest


def test_splits_are_disjoint_and_of_the_published_sizes() -> None:
    mini, tiered = (asset(name) for name in PUBLISHED)
    assert [len(mini[part]) for part in PARTS] == [64, 16, 20] and len(set(chain(*mini.values()))) == 100
    assert [len(tiered[part]) for part in PARTS] == [20, 6, 8] and len(set(chain(*tiered.values()))) == 34
    parts = [list(chain.from_iterable(tiered[part].values())) for part in PARTS]
    assert [len(part) for part in parts] == [351, 97, 160] and len(set(chain(*parts))) == 608
    assert sum(imagenet._TIERED_IMAGES) == 779_165


# ------------------------------------------------------------------------------------------------ made-up images


def save(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (20, 10), mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(file, "PNG" if file.suffix == ".png" else "JPEG", quality=95)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root, with lists of few classes in the place of the published ones."""
    monkeypatch.setenv("MAPSTO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path / "cache"))
    mini = {"train": {"n01": f"{0b1110:x}", "n02": f"{0b10110:x}"}, "val": {"n03": "e"}, "test": {"n04": "e"}}
    tiered = {"train": {"n90": ["n02", "n01"]}, "val": {"n91": ["n05"]}, "test": {"n92": ["n06"]}}
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "mini_imagenet.json").write_text(json.dumps(mini))
    (tmp_path / "assets" / "tiered_imagenet.json").write_text(json.dumps(tiered))
    monkeypatch.setattr(imagenet, "_ASSETS", tmp_path / "assets")
    monkeypatch.setattr(imagenet, "_TIERED_IMAGES", (5, 2, 3))
    return tmp_path / "data"


def colours(part: Labelled) -> list[tuple[str, int, int]]:
    """The class, and the red and green of the middle pixel, of each image; JPEG is right to 3 or so."""
    return [(part.names[y], int(x[0, 42, 42]), int(x[1, 42, 42])) for x, y in zip(part.x, part.y, strict=True)]


def close(found: list[tuple[str, int, int]], expected: list[tuple[str, int, int]]) -> bool:
    return [f[0] for f in found] == [e[0] for e in expected] and bool(
        (abs(np.array([f[1:] for f in found]) - np.array([e[1:] for e in expected])) <= 4).all()
    )


MINI = [("n01", 10, 20), ("n01", 10, 40), ("n01", 10, 60), ("n02", 20, 20), ("n02", 20, 40), ("n02", 20, 80)]


@pytest.mark.parametrize("layout", ["own", "imagenet"])
def test_mini_imagenet_in_both_layouts(root: Path, layout: str) -> None:
    for c in (1, 2, 3, 4):
        for k, number in enumerate((9, 18, 101, 1000), start=1):  # in the order of numbers, not of text
            own, imagenets = f"mini-imagenet/images/n0{c}{k:08d}.jpg", f"imagenet/train/n0{c}/n0{c}_{number}.JPEG"
            save(root / (own if layout == "own" else imagenets), (10 * c, 20 * k, 0))
    data = MiniImageNet()
    assert close(colours(data.train), MINI)
    assert data.val.names == ["n03"] and data.test.names == ["n04"] and len(data.val.x) == len(data.test.x) == 3
    assert data.train.x.shape == (6, 3, 84, 84) and data.train.x.dtype == torch.uint8
    assert data.train.y.dtype == np.int64 and [file.name for file in cache_root().iterdir()] == [
        "mini-imagenet-84-lanczos-v1.npy"
    ]


@pytest.mark.parametrize("layout", ["own", "imagenet"])
def test_tiered_imagenet_in_both_layouts(root: Path, layout: str) -> None:
    for part, c, count in (("train", 1, 2), ("train", 2, 3), ("val", 5, 2), ("test", 6, 3)):
        home = root / "tiered-imagenet" / part if layout == "own" else root / "imagenet" / "train"
        for k, (suffix, mode) in enumerate((("jpg", "RGB"), ("JPEG", "CMYK"), ("png", "RGBA"))[:count]):
            save(home / f"n0{c}" / f"{k}.{suffix}", (10 * c, 20 * k, 0), mode=mode)
        (home / f"n0{c}" / ".hidden.jpg").touch()
    save(root / "imagenet" / "train" / "n99" / "0.jpg", (0, 0, 0))  # of another class
    data = TieredImageNet()
    assert data.train.names == ["n02", "n01"] and np.bincount(data.train.y).tolist() == [3, 2]
    assert close(colours(data.test), [("n06", 60, 0), ("n06", 60, 20), ("n06", 60, 40)])
    assert close(colours(data.train)[3:], [("n01", 10, 0), ("n01", 10, 20)]) and len(data.val.x) == 2
    root.rename(root.with_name("gone"))
    assert TieredImageNet().train.x.equal(data.train.x)  # from the cache


def test_images_are_mapped_and_tasks_come_of_them_without_a_warning(root: Path) -> None:
    for c in (1, 2, 3, 4):
        for k in (1, 2, 3, 4):
            save(root / f"mini-imagenet/images/n0{c}{k:08d}.jpg", (10 * c, 20 * k, 0), size=(84, 84))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = MiniImageNet()
        episodes = Tasks(data.train, way=2, shot=1, query=2).batch(0, 3)
    assert isinstance(episodes, Episode) and 0 < episodes.query.x.max() <= 1
    assert episodes.support.x.shape == (3, 2, 3, 84, 84) and episodes.query.x.shape == (3, 4, 3, 84, 84)
    data.train.x.zero_()  # private pages: neither the file nor another load is changed
    assert MiniImageNet().train.x.any()


def test_resized_by_lanczos(root: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 130, 3), np.uint8)
    file = root / "picture.png"
    root.mkdir()
    Image.fromarray(pixels).save(file)
    expected = np.asarray(Image.fromarray(pixels).resize((84, 84), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    found = np.frombuffer(imagenet._pixels(file), np.uint8).reshape(3, 84, 84)
    np.testing.assert_array_equal(found, expected)


# ------------------------------------------------------------------------------------------------ mistakes


def test_absent_images_are_told_how_to_be_had(root: Path) -> None:
    for make, name in ((MiniImageNet, "mini-imagenet/images"), (TieredImageNet, "tiered-imagenet/train")):
        with pytest.raises(Absent) as caught:
            make()
        for words in (root / name, root / "imagenet/train", "https://image-net.org", "ILSVRC2012_img_train.tar"):
            assert str(words) in str(caught.value)
        assert "\n" not in str(caught.value) and not list(cache_root().glob("*"))


def test_what_must_be_had_by_hand_may_be_absent(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mapsto.data import catalogue

    whole = dict(catalogue.CATALOGUE)
    monkeypatch.setattr(catalogue, "CATALOGUE", {name: whole[name] for name in ("mini-imagenet", "tiered-imagenet")})
    assert [line.split()[1:3] for line in check()] == [["not", "here:"]] * 2
    (root / "imagenet" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="mini-imagenet, tiered-imagenet"):
        list(check())


def test_incomplete_and_damaged_images_are_named(root: Path) -> None:
    with pytest.raises(Absent):
        MiniImageNet()
    for c in (1, 2, 3, 4):
        for k in (1, 2, 3):
            save(root / f"imagenet/train/n0{c}/n0{c}_{k}.JPEG", (0, 0, 0))
    with pytest.raises(DataError, match=r"n02 holds 3 images, fewer than 4"):
        MiniImageNet()
    with pytest.raises(DataError, match=r"tiered-ImageNet's train hold 6 images in .*, not 5"):
        TieredImageNet()
    for c in (1, 2, 3, 4):
        for k in (1, 2, 3):
            save(root / f"mini-imagenet/images/n0{c}{k:08d}.jpg", (0, 0, 0))
    with pytest.raises(DataError, match=r"lacks 1 images, .*n0200000004\.jpg first"):
        MiniImageNet()
    broken = root / "mini-imagenet/images/n0200000004.jpg"
    broken.write_bytes((root / "mini-imagenet/images/n0200000001.jpg").read_bytes()[:-300])
    with pytest.raises(DataError, match=r"n0200000004\.jpg cannot be read"):
        MiniImageNet()
    assert list(cache_root().iterdir()) == []


def test_unwritable_cache_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for c in (1, 2, 3, 4):
        for k in (1, 2, 3, 4):
            save(root / f"mini-imagenet/images/n0{c}{k:08d}.jpg", (0, 0, 0))
    (root / "file").touch()
    monkeypatch.setenv("MAPSTO_CACHE", str(root / "file" / "cache"))
    with pytest.raises(DataError, match="MAPSTO_CACHE"):
        MiniImageNet()
