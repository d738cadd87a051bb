"""Pictures made ready for a model: decoded, upright, and drawn as the model's training images were.

For 28×28 grey models that is as MNIST was made: white on black, the digit scaled into a 20×20 box and placed
so that its centre of mass is the image's centre.

References
----------
LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998, section
III.A; Otsu, "A threshold selection method from gray-level histograms", 1979.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xpcnn.errors import DatasetError, XpcnnError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ENDINGS", "Prepared", "open_picture", "prepare"]

ENDINGS = (".png", ".jpg", ".jpeg")
_SIZE, _BOX = 28, 20
_WORKING_SIZE = 256  # larger pictures are shrunk to this first, which is enough for 20 pixels
_EVEN = 0.1  # paper whose border varies by less, as a share of the ink's contrast, is left as it is


class Prepared(NamedTuple):
    """An image as the model takes it, uint8 (C, H, W), and what was done to make it so."""

    pixels: np.ndarray
    done: str


def prepare(path: Path, shape: tuple[int, int, int]) -> Prepared:
    """Read a PNG or JPEG file of any size and mode for a model of images `shape` (C, H, W).

    Raises
    ------
    DatasetError
        When the file cannot be read as an image, or nothing can be seen on it.
    XpcnnError
        When Pillow is not installed, or the model takes neither 1 nor 3 channels.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise XpcnnError(f"the model takes images of {channels} channels; pictures have 1 (grey) or 3")
    image = open_picture(path).convert("L" if channels == 1 else "RGB")
    steps: list[str] = []
    if shape == (1, _SIZE, _SIZE):
        pixels, steps = _as_mnist(image, path)
    else:
        pixels = np.asarray(_resized(image, width, height))
    if image.size != (width, height):
        steps.append(f"{image.width}x{image.height} -> {width}x{height}")
    pixels = pixels.reshape(height, width, channels).transpose(2, 0, 1)
    return Prepared(pixels, ", ".join(steps) or "as it is")


def open_picture(path: Path) -> Image:
    """Return the picture in a file upright, without transparency, grey or RGB."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise XpcnnError("reading pictures needs Pillow: pip install 'xpcnn[plot]'") from None
    try:
        # Pillow warns of sloppy metadata, and of large photographs.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(path, formats=("PNG", "JPEG")) as image,
        ):
            return _flat(ImageOps.exif_transpose(image))
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or 'no readable PNG or JPEG image'}") from error
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        raise DatasetError(f"{path}: no readable PNG or JPEG image: {error}") from error


def _flat(image: Image) -> Image:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits; Pillow would cut off what is above 255
        return Image.fromarray((np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _resized(image: Image, width: int, height: int) -> Image:
    from PIL import Image

    return image.resize((width, height), Image.Resampling.BILINEAR)  # which averages when it shrinks


def _as_mnist(image: Image, path: Path) -> tuple[np.ndarray, list[str]]:
    """Return a grey picture as MNIST would have it, (28, 28) uint8, and what was done."""
    from PIL import Image

    same_size = image.size == (_SIZE, _SIZE)
    steps = []
    if not same_size:
        image = image.copy()
        image.thumbnail((_WORKING_SIZE, _WORKING_SIZE), Image.Resampling.BOX)
    grey = np.asarray(image)
    border = float(np.median(_border(grey)))
    if border - grey.min() > grey.max() - border:  # lighter than what is drawn on it
        grey, border = 255 - grey, 255 - border
        steps.append("inverted")
    if same_size:
        return grey, steps
    ink = grey - border
    if np.ptp(np.percentile(_border(grey), (5, 95))) > _EVEN * ink.max():
        ink = grey - _paper(grey)
        steps.append("shading removed")
    ink = np.maximum(ink, 0)
    if not ink.any():
        raise DatasetError(f"{path}: nothing to see on it")
    return _centred(_boxed(ink)), [*steps, "cropped"]


def _border(grey: np.ndarray) -> np.ndarray:
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def _paper(grey: np.ndarray) -> np.ndarray:
    """Return what an unevenly lit, dark paper looks like without the light strokes on it.

    The darkest value near each pixel, then the lightest of these (a morphological opening): a fifth of the
    picture is wider than a stroke, and narrower than a shadow.
    """
    from PIL import Image, ImageFilter

    picture = Image.fromarray(grey)
    coarse = picture.resize((-(-picture.width // 4), -(-picture.height // 4)), Image.Resampling.BOX)
    window = max(coarse.size) // 5 // 2 * 2 + 1
    for step in (
        ImageFilter.MinFilter(window),
        ImageFilter.MaxFilter(window),
        ImageFilter.GaussianBlur(window / 3),
    ):
        coarse = coarse.filter(step)
    return np.asarray(coarse.resize(picture.size, Image.Resampling.BILINEAR), dtype=np.float32)


def _boxed(ink: np.ndarray) -> np.ndarray:
    """Return what was drawn, cut out and scaled to 20 pixels on its longer side."""
    from PIL import Image

    drawn = ink > _threshold(ink)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(_BOX * size / max(cut.shape))) for size in cut.shape)
    boxed = np.asarray(_resized(Image.fromarray(cut.astype(np.float32)), width, height))
    return np.clip(boxed * (255 / boxed.max()), 0, 255)


def _threshold(ink: np.ndarray) -> float:
    """Return the value that parts light from dark best: Otsu's, of the largest variance between the two."""
    shares, edges = np.histogram(ink, bins=256, range=(0, ink.max()))
    shares = shares / ink.size
    middles = (edges[1:] + edges[:-1]) / 2
    below, moment = np.cumsum(shares)[:-1], np.cumsum(shares * middles)[:-1]
    mean = float(shares @ middles)
    variance = (mean * below - moment) ** 2 / np.maximum(below * (1 - below), 1e-12)
    return float(edges[1 + int(np.argmax(variance))])


def _centred(boxed: np.ndarray) -> np.ndarray:
    """Return the picture on black, (28, 28) uint8, its centre of mass in the middle."""
    whole = np.zeros((_SIZE, _SIZE), dtype=np.uint8)
    total = boxed.sum()
    corner = []
    for axis, size in enumerate(boxed.shape):
        mass = boxed.sum(axis=1 - axis) @ np.arange(size) / total
        corner.append(min(max(round((_SIZE - 1) / 2 - float(mass)), 0), _SIZE - size))
    top, left = corner
    whole[top : top + boxed.shape[0], left : left + boxed.shape[1]] = np.rint(boxed)
    return whole
