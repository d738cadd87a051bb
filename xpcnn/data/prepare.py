"""Pictures to arrays: each prepared as the data that a model was trained on.

========================  ==============================================================================
``"crop"``                the shorter side is scaled to the model's, and the middle cut out
``"pad"``                 the longer side is scaled to the model's; black on both sides fills the rest
``"squash"``              each side is scaled to the model's, which changes the aspect
``"mnist-digit"``         a digit of any size, colour and ground, drawn as MNIST's are: `mnist_digit`
========================  ==============================================================================

Scaling by a whole factor takes exact means of blocks. All other scaling is bilinear, of all pixels that an
output pixel covers. A picture of the model's size stays as it is. ``"mnist-digit"`` alone changes it, too:
dark ink on light ground becomes light on dark, and frames and grounds are removed. There, values of 16 bits
count by the fewest bits of 8, 10, 12, 14 and 16 that hold them all.

The first three put transparent pictures on white paper. Values of 16 bits are divided by 257 and rounded.
Values of 32 bits count as fractions of 65,535, floats of the first of 1, 255 and 65,535 that none exceeds; if
one is negative or larger, the smallest becomes black and the largest white.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xpcnn.data.mnist_digit import SIZE, as_mnist_digit
from xpcnn.errors import ArgumentError, DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    Grey = NDArray[np.float32]

__all__ = ["PREPARATIONS", "Prepared", "check_preparation", "flatten", "prepare_picture"]

PREPARATIONS = ("mnist-digit", "crop", "pad", "squash")
_LARGE = 1 << 24
_COLOURED = 20.0  # levels of 255 that a channel must differ by: lossy formats alter colours by up to 17
_DEPTHS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))  # of cameras, in files of 16 bits
_WORKING_SIZE = 256  # digits on larger pictures are shrunk to about this first, which is enough for 20 pixels


class Prepared(NamedTuple):
    """An image as the model takes it, uint8 (C, H, W), and what was done to make it so."""

    pixels: NDArray[np.uint8]
    done: str


def prepare_picture(picture: Image, shape: tuple[int, int, int], preparation: str) -> Prepared:
    """Return an opened picture as a model of images `shape` (C, H, W) takes it.

    Raises
    ------
    DatasetError
        When nothing can be seen on it, or a value is NaN or infinite.
    ArgumentError
        For an unknown preparation, a shape other than (1, 28, 28) for ``"mnist-digit"``, or channels other
        than 1 and 3.
    """
    check_preparation(preparation, shape)
    channels, height, width = shape
    steps: list[str] = []
    if preparation == "mnist-digit":
        pixels, steps = as_mnist_digit(_drawing(picture))
    else:
        image = flatten(picture).convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(_RESIZE[preparation](image, width, height))
    if picture.size != (width, height):
        steps.append(f"{picture.width}x{picture.height} -> {width}x{height}")
    pixels = pixels.reshape(height, width, channels).transpose(2, 0, 1)
    return Prepared(pixels, ", ".join(steps) or "as it is")


def check_preparation(preparation: str, shape: tuple[int, int, int]) -> None:
    """Raise ArgumentError for an unknown preparation, or one that does not give images `shape` (C, H, W)."""
    if shape[0] not in (1, 3):
        raise ArgumentError(f"the model takes images of {shape[0]} channels; pictures have 1 (grey) or 3")
    if preparation not in PREPARATIONS:
        raise ArgumentError(f"unknown preparation {preparation!r}: choose one of {', '.join(PREPARATIONS)}")
    if preparation == "mnist-digit" and shape != (1, SIZE, SIZE):
        raise ArgumentError(
            f"mnist-digit prepares images (1, {SIZE}, {SIZE}), and the model takes {shape}: "
            f"choose another of {', '.join(PREPARATIONS)}"
        )


# -- photographs -----------------------------------------------------------------------


def flatten(picture: Image) -> Image:
    """Return a picture of any mode without transparency, grey (``L``) or ``RGB``: 8 bits.

    Pictures of more than 16 million pixels are shrunk by a whole factor.
    """
    return _convert(picture, "paper", math.ceil(math.sqrt(picture.width * picture.height / _LARGE)))


def _crop(image: Image, width: int, height: int) -> Image:
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    if scale == int(scale):  # not through the middle of blocks
        left, top = left // scale * scale, top // scale * scale
    return _scale(image, width, height, (left, top, left + width * scale, top + height * scale))


def _pad(image: Image, width: int, height: int) -> Image:
    from PIL import Image

    scale = max(image.width / width, image.height / height)
    wide, high = max(1, round(image.width / scale)), max(1, round(image.height / scale))
    padded = Image.new(image.mode, (width, height))
    padded.paste(_scale(image, wide, high), ((width - wide) // 2, (height - high) // 2))
    return padded


def _scale(
    image: Image, width: int, height: int, box: tuple[float, float, float, float] | None = None
) -> Image:
    """Return a part of the image, by default all of it, in another size."""
    from PIL import Image

    left, top, right, bottom = box or (0, 0, *image.size)
    factor = (right - left) / width, (bottom - top) / height
    if all(f == int(f) for f in (*factor, left, top)):
        return image.reduce((int(factor[0]), int(factor[1])), (int(left), int(top), int(right), int(bottom)))
    return image.resize((width, height), Image.Resampling.BILINEAR, (left, top, right, bottom))


_RESIZE = {"crop": _crop, "pad": _pad, "squash": _scale}


# -- digits ----------------------------------------------------------------------------


def _drawing(picture: Image) -> Grey:
    """Return grey values 0 … 255 that show what is drawn on a picture, shrunk if it is large.

    Ink on nothing is shown by the transparency, whatever its colour. Where one value is transparent, the
    values themselves show it if they differ.
    """
    picture = _original_size(picture)
    by_value = picture.mode in ("1", "L", "RGB") and any(
        np.ptp(channel.getextrema()) >= 3 for channel in picture.split()
    )
    transparency = "kept" if picture.has_transparency_data and not by_value else "ignored"
    image = _convert(picture, transparency, math.ceil(max(picture.size) / _WORKING_SIZE), _DEPTHS)
    if image.mode == "RGBA":
        return _composite(_grey(image.convert("RGB")), np.asarray(image.getchannel("A"), np.float32))
    return np.asarray(image) if image.mode == "F" else _grey(image)


def _original_size(picture: Image) -> Image:
    """Return the 28×28 picture each of whose pixels another repeats k×k times, or that other."""
    from PIL import Image

    times = picture.width // SIZE
    if times < 2 or picture.size != (SIZE * times, SIZE * times):
        return picture
    small = picture.resize((SIZE, SIZE), Image.Resampling.NEAREST)
    again = small.resize(picture.size, Image.Resampling.NEAREST)
    return small if again.tobytes() == picture.tobytes() else picture


def _composite(grey: Grey, alpha: Grey) -> Grey:
    """Return what shows the drawing: the transparency, or the grey values on more of the same paper."""
    if np.ptp(alpha) == 0:
        return grey if alpha.any() else alpha
    solid = alpha > alpha.max() / 2
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    part = solid[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if part.mean() <= 2 / 3 or min(part.shape) < max(part.shape) / 2:  # paper is less open, and less narrow
        return alpha
    if np.ptp(np.percentile(grey[solid], (5, 95))) <= 32:  # in one colour
        edge = np.concatenate([solid[0], solid[-1], solid[:, 0], solid[:, -1]]).mean()
        if min(edge, 1 - edge) < 0.02:  # a bar, or a hole in paper; not blank paper with round corners
            return alpha
    return np.asarray(grey * (alpha / 255) + np.median(grey[solid]) * (1 - alpha / 255))


def _grey(image: Image) -> Grey:
    """Return the luminance of an L or RGB image, or the channel that has much more contrast."""
    luminance = np.asarray(image.convert("L"), np.float32)
    if image.mode == "L":
        return luminance
    channels = [luminance, *np.moveaxis(np.asarray(image, np.float32), -1, 0)]
    contrasts = [float(np.ptp(np.percentile(channel, (0.5, 99.5)))) for channel in channels]
    best = int(np.argmax(contrasts))
    return channels[best] if contrasts[best] > max(1.5 * contrasts[0], _COLOURED) else luminance


# -- values ----------------------------------------------------------------------------


def _convert(picture: Image, transparency: str, factor: int, whites: tuple[int, ...] = (65535,)) -> Image:
    """Return the picture flattened and shrunk by a factor: band by band, as it takes more memory then."""
    from PIL import Image

    range_ = _range(picture, whites)
    if factor <= 1:
        return _plain_mode(picture, range_, transparency)
    (width, height), step = picture.size, 64 * factor
    parts = (picture.crop((0, top, width, min(top + step, height))) for top in range(0, height, step))
    bands = [_plain_mode(part, range_, transparency).reduce(factor) for part in parts]
    whole = Image.new(bands[0].mode, (bands[0].width, sum(band.height for band in bands)))
    for number, band in enumerate(bands):
        whole.paste(band, (0, 64 * number))
    return whole


def _plain_mode(picture: Image, range_: tuple[float, float] | None, transparency: str) -> Image:
    """Return a picture of the mode L or RGB; of deep values that are no photograph's, F.

    What is transparent is put on white paper, ignored, or kept (RGBA).
    """
    from PIL import Image

    if range_ is not None:
        grey = _deep(picture, range_)
        if transparency == "paper":
            grey = np.rint(grey).astype(np.uint8)
            if (key := picture.info.get("transparency")) is not None:
                grey[np.asarray(picture) == key] = 255
        return Image.fromarray(grey)
    if transparency == "kept":
        return picture.convert("RGBA")
    if transparency == "paper" and picture.has_transparency_data:
        paper = Image.new("RGBA", picture.size, "white")
        paper.alpha_composite(picture.convert("RGBA"))
        return paper.convert("RGB")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _range(picture: Image, whites: tuple[int, ...]) -> tuple[float, float] | None:
    """Return the values that are black and white in a picture of 16 or 32 bits; None for one of 8.

    Black is 0, and white the first of `whites` that none exceeds; else they are the least and the largest.
    """
    if not picture.mode.startswith(("I", "F")):
        return None
    values = np.asarray(picture)
    low, high = values.min().item(), values.max().item()
    for white in (1, 255, 65535) if picture.mode == "F" else whites:
        if low >= 0 and high <= white:
            return 0, white
    return low, max(high, low + 1)


def _deep(picture: Image, range_: tuple[float, float]) -> Grey:
    """Return the values of a picture of 16 or 32 bits in 0 … 255."""
    black, white = range_
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all():
        raise DatasetError("some of its values are NaN or infinite")
    return ((values - black) * 255 / (white - black)).astype(np.float32)
