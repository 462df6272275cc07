"""A user's own images: one folder, one sub-folder a class."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mapsto.data.labelled import Labelled
from mapsto.errors import DataError, MapstoError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")


class Folder:
    """A user's own pictures as a data set: `image_folder`, its classes split 64 / 16 / 20 by `split_classes`.

    Attributes:
        train, val, test: a `Labelled` each; they share no class.
    """

    def __init__(self, path: str | Path, size: int = 28, channels: int = 1, seed: int = 0) -> None:
        self.train, self.val, self.test = split_classes(image_folder(path, size, channels), seed=seed)


def image_folder(path: str | Path, size: int | tuple[int, int] = 28, channels: int = 1) -> Labelled:
    """Read `path/<class>/<image>` for every sub-folder and image, in sorted order; hidden ones are skipped.

    Images are read as by `read_image`; intensities are kept as they are (dark ink stays dark).

    Args:
        path: the folder; images are png, jpg, jpeg, bmp, webp, gif, tif or tiff.
        size: height and width of the result in pixels; one number for both.
        channels: 1 for grey, 3 for red, green and blue.

    Returns:
        uint8 images `[n, channels, height, width]`; names are the sub-folders' names.

    Raises:
        DataError: there is no such folder or no sub-folder in it, a class has no image, or an image cannot be read.
        MapstoError: `size` or `channels` is out of range.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise MapstoError(f"image_folder needs a size of at least 1 pixel, not {size}.")
    if channels not in (1, 3):
        raise MapstoError(f"image_folder makes images of 1 or 3 channels, not {channels}.")
    classes = class_folders(path)
    images = [_pixels(file, height, width, channels) for files in classes.values() for file in files]
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
    x = torch.from_numpy(np.ascontiguousarray(np.stack(images)))  # stacked colours keep a strided layout
    return Labelled(x, labels.astype(np.int64), list(classes))


def class_folders(path: str | Path) -> dict[str, list[Path]]:
    """The images of each sub-folder, by the sub-folder's name, both in sorted order; hidden ones are skipped.

    Raises:
        DataError: there is no such folder or no sub-folder in it, or a sub-folder has no image.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: give one that holds a sub-folder of images for each class.")
    classes = {folder.name: image_files(folder) for folder in _visible(root) if folder.is_dir()}
    if not classes:
        raise DataError(f"{root} has no sub-folders: put the images of each class in a sub-folder of their own.")
    for name, files in classes.items():
        if not files:
            raise DataError(f"{root / name} holds no image ({', '.join(_SUFFIXES)}): add some or remove the folder.")
    return classes


def image_files(folder: Path) -> list[Path]:
    """The images that lie in a folder itself, in sorted order; hidden ones are skipped."""
    return [file for file in _visible(folder) if file.suffix.lower() in _SUFFIXES]


def read_image(file: "str | Path | Picture", size: int, channels: int) -> np.ndarray:
    """One image: turned upright (EXIF), converted, and resized with an antialiasing filter.

    Its aspect ratio is not kept. What is transparent becomes white. Of an animation the first frame is read.

    Args:
        file: a path, or an image of Pillow's.
        size: height and width of the result in pixels.
        channels: 1 for grey, 3 for red, green and blue.

    Returns:
        uint8 `[channels, size, size]`.

    Raises:
        DataError: the file cannot be read as an image.
    """
    return _pixels(file, size, size, channels)


def split_classes(
    data: Labelled, fractions: Sequence[float] = (0.64, 0.16, 0.2), seed: int = 0
) -> tuple[Labelled, Labelled, Labelled]:
    """Split a data set into train, val and test that share no class.

    Args:
        data: the data set.
        fractions: the parts' shares of the classes, which sum to 1. A part with a positive share gets at least one
            class; a part whose share is 0 is empty. The default is the proportion of miniImageNet (64 / 16 / 20).
        seed: draws the classes; within a part, classes and examples keep their order.

    Raises:
        MapstoError: `fractions` are not three shares that sum to 1, or there are fewer classes than parts.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise MapstoError(f"split_classes needs three fractions that sum to 1, not {tuple(fractions)}.")
    total, least = len(data.names), sum(f > 0 for f in fractions)
    if total < least:
        raise MapstoError(f"split_classes cannot make {least} parts of {total} classes: add classes.")
    ends = [round(total * float(end)) for end in np.cumsum(fractions)]
    counts = np.diff([0, *ends])
    for part, fraction in enumerate(fractions):
        if fraction > 0 and counts[part] == 0:  # few classes: the largest part gives one
            counts[counts.argmax()] -= 1
            counts[part] = 1
    order = np.random.default_rng(seed).permutation(total)
    train, val, test = np.split(order, np.cumsum(counts)[:2])
    return _subset(data, train), _subset(data, val), _subset(data, test)


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _pixels(file: "str | Path | Picture", height: int, width: int, channels: int) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with nullcontext(file) if isinstance(file, Image.Image) else Image.open(file) as opened:
            upright = ImageOps.exif_transpose(opened)
            if upright.mode.startswith("I;16"):  # Pillow would clip 16-bit greys to white
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            image = upright.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as an image ({error}): repair it or remove it.") from error
    pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _subset(data: Labelled, classes: np.ndarray) -> Labelled:
    """The examples of some classes, relabelled from 0 on."""
    chosen = np.sort(classes)
    rows = np.flatnonzero(np.isin(data.y, chosen))
    labels = np.searchsorted(chosen, data.y[rows]).astype(np.int64)
    return Labelled(data.x[torch.from_numpy(rows)], labels, [data.names[c] for c in chosen])
