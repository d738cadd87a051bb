"""Transforms that change values and leave pixels where they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xpcnn.data.augment.base import Array, Transform

__all__ = ["Brightness", "Cutout"]


@dataclass(frozen=True)
class Brightness(Transform, name="brightness", amount=(0, 1)):
    """Multiply each image by a factor drawn evenly from ``1 - amount … 1 + amount``.

    uint8 values are rounded and stop at 255; floating ones are not clipped, as their range is unknown.

    Parameters
    ----------
    amount : float
        0 to 1.

    Raises
    ------
    ArgumentError
        An amount outside 0 to 1.

    Examples
    --------
    >>> from xpcnn import data
    >>> images = data.synthetic_digits(100).images
    >>> brighter = data.augment.Brightness(0.3)(images, rng=0)
    >>> brighter.dtype, bool((brighter[images == 0] == 0).all())
    (dtype('uint8'), True)
    """

    amount: float

    def _apply(self, images: Array, rng: np.random.Generator) -> Array:
        factor = 1 + self.amount * (2 * rng.random((len(images), 1, 1, 1)) - 1)
        result: Array = images * factor.astype(np.result_type(images.dtype, np.float32))
        if images.dtype == np.uint8:
            result += 0.5  # the cast truncates
            np.minimum(result, 255, out=result)
        return result.astype(images.dtype, copy=False)


@dataclass(frozen=True)
class Cutout(Transform, name="cutout"):
    """Set a square of each image to 0, all channels alike.

    The square's centre is any pixel, evenly drawn, so part of the square may fall outside.

    Parameters
    ----------
    size : int
        The square's side in pixels, at least 0.

    Raises
    ------
    ArgumentError
        A size that is negative or no integer.

    Notes
    -----
    DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from xpcnn import data
    >>> cut = data.augment.Cutout(8)(np.ones((100, 3, 32, 32), np.float32), rng=0)
    >>> int((cut[0, 0] == 0).sum())
    64
    """

    size: int

    def _apply(self, images: Array, rng: np.random.Generator) -> Array:
        n, _, height, width = images.shape
        first = rng.integers(0, (height, width), (n, 2)) - self.size // 2
        rows, columns = (
            (np.arange(size) >= start[:, None]) & (np.arange(size) < start[:, None] + self.size)
            for size, start in ((height, first[:, 0]), (width, first[:, 1]))
        )
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        result = images.copy(order="C")
        np.copyto(result, 0, where=inside)
        return result
