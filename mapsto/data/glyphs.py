"""Glyphs: letters rendered from fonts, a few-shot data set that needs no download.

The fonts are the 12 DejaVu faces that matplotlib ships (Sans, Sans Mono and Serif; each regular, bold, oblique and bold
oblique; https://dejavu-fonts.github.io, free licence). A class is a letter that all 12 contain; an instance is that
letter in a random face, with its own affine and elastic distortion and its own weight of stroke. Elastic distortion
after P. Simard, D. Steinkraus, J. Platt. Best Practices for Convolutional Neural Networks Applied to Visual Document
Analysis. ICDAR 2003. Synthetic: scores on it are comparable with nothing published.
"""

import unicodedata
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mapsto.data.files import cached_array
from mapsto.data.labelled import Labelled
from mapsto.errors import MapstoError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_VERSION = 1  # of the rendering: raise it with any change below, so that cached images are made anew
_PARTS = (("LATIN", "GREEK"), ("CYRILLIC",), ("ARMENIAN", "GEORGIAN"))  # train, val, test
_CANVAS, _SIDE = 64, 28  # pixels: a letter is drawn on the canvas, and ends in side x side
_EM, _MARGIN, _BASELINE = 44, 4, 45  # pixels of the canvas
# Two pictures whose squared difference is below this share of their ink are one. At 0.015 E with diaeresis is Cyrillic
# Io, o with acute is Greek omicron with tonos; the nearest pair that the eye tells apart is at 0.024.
_SAME = 0.015
_BATCH = 64  # classes distorted together
# Half-widths of the uniform distributions; lengths in half canvases.
_ROTATION, _SHEAR, _SCALE, _SHIFT = 0.2, 0.15, 0.12, 0.08  # radians (11 degrees), slope, relative, length
_ELASTIC, _KNOTS = 0.035, 4  # standard deviation of the displacement at each of 4 x 4 knots
_LEVEL, _GAIN = (0.3, 0.6), 3.0  # a low level thickens the blurred stroke, a high one thins it


class Glyphs:
    """Letters in 12 type faces, distorted: uint8 images `[n, 1, 28, 28]`, ink bright, a class's images in a row.

    Train, val and test share no script and no picture: of letters that look the same when undistorted (Latin A, Greek
    Alpha, Cyrillic A) the first alone is kept, in the order train, val, test.

    | part | scripts | classes |
    | --- | --- | --- |
    | train | Latin, Greek | 994 |
    | val | Cyrillic | 121 |
    | test | Armenian, Georgian | 112 |

    Rendered once, in about ten seconds, then mapped from the cache (`mapsto.data.files.cached_array`).

    Args:
        seed: of all distortions. Image i of a letter depends on the seed, the letter and i alone.
        samples: images per class.

    Attributes:
        train, val, test: a `Labelled` each; names are Unicode's, such as `"GREEK SMALL LETTER PI"`.

    Raises:
        MapstoError: `seed` is negative, or `samples` is not positive.
        DataError: the cache folder cannot be written.
    """

    def __init__(self, seed: int = 0, samples: int = 20) -> None:
        if seed < 0 or samples < 1:
            raise MapstoError(f"Glyphs needs seed >= 0 and samples >= 1, not seed={seed} and samples={samples}.")
        key = f"glyphs-v{_VERSION}-matplotlib{version('matplotlib')}"  # the fonts come with matplotlib
        letters = cached_array(f"{key}-letters", _letters)
        images = cached_array(
            f"{key}-seed{seed}-samples{samples}", lambda: _render([chr(c) for c in letters[:, 1]], seed, samples)
        )
        self.train, self.val, self.test = (
            _labelled(images[letters[:, 0] == part], letters[letters[:, 0] == part, 1]) for part in range(len(_PARTS))
        )


def _labelled(images: np.ndarray, letters: np.ndarray) -> Labelled:
    x = torch.from_numpy(np.ascontiguousarray(images)).reshape(-1, 1, _SIDE, _SIDE)
    y = np.repeat(np.arange(len(letters)), images.shape[1])
    return Labelled(x, y, [unicodedata.name(chr(c)) for c in letters])


def _fonts() -> list[Path]:
    """The 12 faces; DejaVuSans.ttf first."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    styles = {"Sans": "Oblique", "SansMono": "Oblique", "Serif": "Italic"}
    return [
        folder / f"DejaVu{family}{style}.ttf"
        for family, slant in styles.items()
        for style in ("", "-Bold", f"-{slant}", f"-Bold{slant}")
    ]


def _letters() -> np.ndarray:
    """int64 `[letters, 2]`: part (0 train, 1 val, 2 test) and code point; no letter looks like another."""
    from matplotlib.ft2font import FT2Font

    fonts = _fonts()
    common = sorted(set.intersection(*(set(FT2Font(str(font)).get_charmap()) for font in fonts)))
    # Modifier letters (Lm) are left out: most are another letter, only smaller.
    named = [(c, unicodedata.name(chr(c))) for c in common if unicodedata.category(chr(c)) in ("Lu", "Ll", "Lt", "Lo")]
    kept, seen, ink = [], np.zeros((len(named), _CANVAS * _CANVAS), np.float32), np.zeros(len(named), np.float32)
    for part, scripts in enumerate(_PARTS):
        for code, name in named:
            if name.split()[0] in scripts:
                picture = _draw(chr(code), fonts[0]).reshape(-1) / np.float32(255)
                count, own = len(kept), picture @ picture
                if (ink[:count] + own - 2 * (seen[:count] @ picture) >= _SAME * own).all():
                    seen[count], ink[count] = picture, own
                    kept.append((part, code))
    return np.array(kept, np.int64)


def _draw(letter: str, font: Path) -> np.ndarray:
    """The letter undistorted: uint8 `[64, 64]`, bright, centred from side to side, standing on a common baseline."""
    from PIL import Image, ImageDraw

    face = _face(font, _EM)
    left, top, right, bottom = face.getbbox(letter, anchor="ls")
    room = _CANVAS - 2 * _MARGIN
    if (extent := max(right - left, bottom - top)) > room:  # wide digraphs, stacked accents
        face = _face(font, int(_EM * room / extent))
        left, top, right, bottom = face.getbbox(letter, anchor="ls")
    x = (_CANVAS - left - right) / 2
    y = min(max(_BASELINE, _MARGIN - top), _CANVAS - _MARGIN - bottom)
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    ImageDraw.Draw(canvas).text((round(x), round(y)), letter, fill=255, font=face, anchor="ls")
    return np.asarray(canvas)


@cache
def _face(font: Path, size: int) -> "FreeTypeFont":
    from PIL import ImageFont

    return ImageFont.truetype(font, size, layout_engine=ImageFont.Layout.BASIC)  # the layout engine always there


def _render(letters: list[str], seed: int, samples: int) -> np.ndarray:
    """Every letter's instances: uint8 `[letters, samples, 28, 28]`."""
    fonts = _fonts()
    out = np.empty((len(letters), samples, _SIDE, _SIDE), np.uint8)
    for start in tqdm(range(0, len(letters), _BATCH), desc="rendering glyphs", disable=None):
        batch = letters[start : start + _BATCH]
        drawn, affine, knots, level = [], [], [], []
        for letter in batch:
            for i in range(samples):
                rng = np.random.default_rng([seed, ord(letter), i])
                drawn.append(_draw(letter, fonts[rng.integers(len(fonts))]))
                affine.append(rng.uniform(-1, 1, 6))
                knots.append(rng.standard_normal((2, _KNOTS, _KNOTS)))
                level.append(rng.uniform(*_LEVEL))
        images = torch.from_numpy(np.stack(drawn)).float().div_(255)[:, None]
        small = _distort(images, _float(affine), _float(knots), _float(level))
        out[start : start + len(batch)] = small.numpy().reshape(len(batch), samples, _SIDE, _SIDE)
    return out


def _float(values: list[np.ndarray] | list[float]) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))


def _distort(images: Tensor, affine: Tensor, knots: Tensor, level: Tensor) -> Tensor:
    """Distort and reduce `[n, 1, 64, 64]` images in 0 to 1, one distortion each: uint8 `[n, 1, 28, 28]`.

    Args:
        images: the drawn letters.
        affine: rotation, shear, horizontal and vertical scale, horizontal and vertical shift, in -1 to 1: `[n, 6]`.
        knots: displacements on a coarse grid, in standard deviations: `[n, 2, knots, knots]`.
        level: the grey of the blurred stroke that becomes its edge: `[n]`.
    """
    turn, shear, wide, high, right, down = affine.unbind(1)
    cos, sin = torch.cos(turn * _ROTATION), torch.sin(turn * _ROTATION)
    wide, high, shear = 1 + wide * _SCALE, 1 + high * _SCALE, shear * _SHEAR
    top = torch.stack([cos * wide, (shear * cos - sin) * high, right * _SHIFT], 1)
    bottom = torch.stack([sin * wide, (shear * sin + cos) * high, down * _SHIFT], 1)
    size = 2 * _SIDE  # sampled at twice the size, then averaged: no jagged edges
    grid = F.affine_grid(torch.stack([top, bottom], 1), [len(images), 1, size, size], align_corners=False)
    bend = F.interpolate(knots * _ELASTIC, size=(size, size), mode="bicubic", align_corners=True)
    images = F.grid_sample(_blur(images), grid + bend.permute(0, 2, 3, 1), align_corners=False)
    edged = ((images - level[:, None, None, None]) * _GAIN + 0.5).clamp_(0, 1)
    return F.avg_pool2d(edged, 2).mul_(255).round_().to(torch.uint8)


def _blur(images: Tensor) -> Tensor:
    """A binomial filter of 5 x 5 pixels: a Gaussian of standard deviation 1."""
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    return F.conv2d(images, torch.outer(row, row)[None, None], padding=2)
