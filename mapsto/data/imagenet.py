"""mini-ImageNet and tiered-ImageNet: classes of ImageNet (ILSVRC-2012, training images) at 84 x 84 pixels.

mini-ImageNet: O. Vinyals et al. Matching Networks for One Shot Learning, 2016, https://arxiv.org/abs/1606.04080, with
the classes and images of S. Ravi, H. Larochelle. Optimization as a Model for Few-Shot Learning, 2017; their lists are
those of https://github.com/twitter-research/meta-learning-lstm (MIT licence).
tiered-ImageNet: M. Ren et al. Meta-Learning for Semi-Supervised Few-Shot Classification, 2018,
https://arxiv.org/abs/1803.00676; the lists are those of https://github.com/renmengye/few-shot-ssl-public (MIT licence).

The lists are here, the images must be had by hand: ImageNet gives them to registered users, who may not pass them on.
Two layouts are read; pickled arrays, as some repositories share them, are not, since to load a pickle is to run it.

1. A set's own folder: `<MAPSTO_DATA>/mini-imagenet/images/n0153282900000005.jpg`, named as in the lists, or
   `<MAPSTO_DATA>/tiered-imagenet/train/n01530575/*.jpg` and likewise `val` and `test`; images of any size.
2. Else ImageNet's training images, `<MAPSTO_DATA>/imagenet/train/n01532829/n01532829_18.JPEG`. The number in a name of
   Ravi and Larochelle's lists is taken as the place of an image among all those of its class, in order of ImageNet's
   number and counted from 1, as in https://github.com/yaoyao-liu/mini-imagenet-tools.

What differs: images are resized by Pillow's Lanczos filter, without keeping their aspect ratio, as in MAML's code
(https://github.com/cbfinn/maml); others took bilinear or area filters. There is no random crop, flip or colour jitter,
and no normalisation beyond [0, 1]. Only made-up files in these layouts have been read so far, never the real images.
"""

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mapsto.data.files import cache_root, cached_array, data_root
from mapsto.data.mapped import mapped_parts
from mapsto.errors import DataError

_ASSETS = Path(__file__).parent / "assets"
_PARTS = ("train", "val", "test")
_SIDE, _CHUNK = 84, 512  # pixels; images decoded at a time
_VERSION = f"{_SIDE}-lanczos-v1"
_SUFFIXES = (".jpeg", ".jpg", ".png")
_MD5 = "1d675b47d978889d74fa0da5fadfb00e"  # of ILSVRC2012_img_train.tar
_TIERED_IMAGES = (448_695, 124_261, 206_209)  # in train, val, test, as the paper counts them


class Absent(DataError):
    """A data set that must be had by hand, and is not here."""


class MiniImageNet:
    """mini-ImageNet: uint8 images `[n, 3, 84, 84]`, 64 / 16 / 20 classes of 600 images, those of a class in a row.

    Images are read and resized once, which takes minutes; the result, 1.3 GB, is mapped from the cache from then on,
    also where the images are gone.

    Attributes:
        train, val, test: a `Labelled` each; names are ImageNet's, such as `"n01532829"`.

    Raises:
        DataError: an image is missing or can't be read; `Absent`, a kind of `DataError`: there are none at all.
    """

    def __init__(self) -> None:
        asset = json.loads((_ASSETS / "mini_imagenet.json").read_text())
        numbers = {synset: _numbers(bits) for part in _PARTS for synset, bits in asset[part].items()}
        split, sizes = [list(asset[part]) for part in _PARTS], [len(ks) for ks in numbers.values()]
        parts = mapped_parts(f"mini-imagenet-{_VERSION}", lambda: _decode(_mini_files(numbers)), split, sizes)
        self.train, self.val, self.test = parts


class TieredImageNet:
    """tiered-ImageNet: uint8 images `[n, 3, 84, 84]`, 351 / 97 / 160 classes of 20 / 6 / 8 groups, 779,165 images.

    A class has 732 to 1,300 images, all of ImageNet's. They are read and resized once, which takes hours and for a
    while 33 GB of disk; the result, 16.5 GB, is mapped from the cache from then on. It need not fit in free memory,
    but Linux maps the largest part, 9.5 GB, only where memory and swap have that size.

    Attributes:
        train, val, test: a `Labelled` each; names are ImageNet's, such as `"n01530575"`.

    Raises:
        DataError: images are missing or can't be read; `Absent`, a kind of `DataError`: there are none at all.
    """

    def __init__(self) -> None:
        asset = json.loads((_ASSETS / "tiered_imagenet.json").read_text())
        split = [list(chain.from_iterable(asset[part].values())) for part in _PARTS]
        sizes = cached_array("tiered-imagenet-sizes-v1", lambda: np.array([len(c) for c in _tiered_files(split)]))
        parts = mapped_parts(f"tiered-imagenet-{_VERSION}", lambda: _decode(_tiered_files(split)), split, sizes)
        self.train, self.val, self.test = parts


def _numbers(bits: str) -> list[int]:
    """The asset's hexadecimal number as the list of its bits that are set: which images of a class belong."""
    number = int(bits, 16)
    return [k for k in range(number.bit_length()) if number >> k & 1]


def _mini_files(numbers: dict[str, list[int]]) -> list[list[Path]]:
    """The listed images of each class."""
    home = _home("mini-imagenet", "images")
    if home.name == "images":
        files = [[home / f"{synset}{k:08d}.jpg" for k in ks] for synset, ks in numbers.items()]
        there = {file.name for file in home.iterdir()}
        lost = [file for file in chain.from_iterable(files) if file.name not in there]
        if lost:
            raise DataError(f"mini-ImageNet lacks {len(lost):,} images, {lost[0]} first: unpack it again.")
        return files
    chosen = []
    for synset, ks in numbers.items():
        files = sorted(_images_in(home / synset), key=lambda file: int(file.stem.rpartition("_")[2]))
        if len(files) < ks[-1]:
            raise DataError(f"{home / synset} holds {len(files)} images, fewer than {ks[-1]}: unpack it again.")
        chosen.append([files[k - 1] for k in ks])
    return chosen


def _tiered_files(split: list[list[str]]) -> list[list[Path]]:
    """All images of each class."""
    home = _home("tiered-imagenet", "train")
    own = home.parent.name == "tiered-imagenet"
    files = []
    for part, synsets, published in zip(_PARTS, split, _TIERED_IMAGES, strict=True):
        folder = home.parent / part if own else home
        ours = [_images_in(folder / synset) for synset in synsets]
        found = sum(len(of_class) for of_class in ours)
        if found != published:
            fewest = min(zip(ours, synsets, strict=True), key=lambda pair: len(pair[0]))[1]
            raise DataError(
                f"the classes of tiered-ImageNet's {part} hold {found:,} images in {folder}, not {published:,}: unpack "
                f"them again ({fewest} has fewest)."
            )
        files += ours
    return files


def _home(name: str, folder: str) -> Path:
    """The folder that the images of a data set are in."""
    own, imagenet = data_root() / name / folder, data_root() / "imagenet" / "train"
    for home in (own, imagenet):
        if home.is_dir():
            return home
    raise Absent(
        f"{name} is neither at {own} nor at {imagenet} and can't be downloaded, since ImageNet gives its images to "
        f"registered users only: register at https://image-net.org, get ILSVRC2012_img_train.tar (138 GB, md5 {_MD5}) "
        f"and unpack it, and the archives in it into a folder a class, at {imagenet}."
    )


def _images_in(folder: Path) -> list[Path]:
    return sorted(f for f in folder.glob("*") if f.suffix.lower() in _SUFFIXES and not f.name.startswith("."))


def _decode(classes: list[list[Path]]) -> np.ndarray:
    """Uint8 `[n, 3, 84, 84]`, mapped from a file without a name: tiered-ImageNet is larger than most memories."""
    files = list(chain.from_iterable(classes))
    try:
        cache_root().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_root()) as scratch, ThreadPoolExecutor() as pool:
            with tqdm(total=len(files), desc="decoding", disable=None) as bar:
                for start in range(0, len(files), _CHUNK):
                    for image in pool.map(_pixels, files[start : start + _CHUNK]):
                        scratch.write(image)
                        bar.update()
            scratch.flush()
            return np.memmap(scratch, np.uint8, "r", shape=(len(files), 3, _SIDE, _SIDE))
    except OSError as error:
        raise DataError(
            f"the cache {cache_root()} cannot be written ({error}): set MAPSTO_CACHE to a writable folder."
        ) from error


def _pixels(file: Path) -> bytes:
    """One image: `[3, 84, 84]`."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as an image ({error}): unpack it again.") from error
    return np.asarray(small).transpose(2, 0, 1).tobytes()
