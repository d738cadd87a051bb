"""Transforms that move, turn, stretch, slant, distort, crop and flip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from xpcnn.data.augment.base import Array, Geometric
from xpcnn.data.augment.sampling import Affine, Displacement, affine

__all__ = ["Elastic", "HorizontalFlip", "RandomCrop", "Rotate", "Scale", "Shear", "Shift", "VerticalFlip"]


def _spread(rng: np.random.Generator, *shape: int) -> Array:
    """Evenly drawn from -1 … 1."""
    return 2 * rng.random(shape) - 1


@dataclass(frozen=True)
class Shift(Geometric, name="shift"):
    """Move each image by a distance drawn evenly from ``-pixels … pixels``, along each axis by itself.

    Distances are fractional; `RandomCrop` moves by whole pixels.

    Parameters
    ----------
    pixels : float
        The longest distance, at least 0.

    Raises
    ------
    ArgumentError
        A negative or infinite distance.

    Examples
    --------
    >>> from xpcnn import data
    >>> digits = data.synthetic_digits(100).images
    >>> moved = data.augment.Shift(2)(digits, rng=0)
    >>> moved.shape, moved.dtype, data.augment.Shift(1.5).spec
    ((100, 1, 28, 28), dtype('uint8'), 'shift=1.5')
    """

    pixels: float

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """Two numbers for each image."""
        distance = _spread(rng, n, 2) * self.pixels
        return affine(n, y=-distance[:, 0], x=-distance[:, 1])


@dataclass(frozen=True)
class Rotate(Geometric, name="rotate", degrees=(0, 180)):
    """Turn each image about its centre by an angle drawn evenly from ``-degrees … degrees``.

    Parameters
    ----------
    degrees : float
        0 to 180.

    Raises
    ------
    ArgumentError
        An angle outside 0 to 180.

    Examples
    --------
    >>> from xpcnn import data
    >>> data.augment.Rotate(10)(data.synthetic_digits(100).images, rng=0).shape
    (100, 1, 28, 28)
    """

    degrees: float

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """One number for each image."""
        angle = math.radians(self.degrees) * _spread(rng, n)
        cosine, sine = np.cos(angle), np.sin(angle)
        return affine(n, cosine, sine, -sine, cosine)


@dataclass(frozen=True)
class Scale(Geometric, name="scale"):
    """Enlarge or shrink each image about its centre by a factor from ``1 / (1 + amount) … 1 + amount``.

    The factor's logarithm is drawn evenly, so enlarging and shrinking are equally likely and equally strong.

    Parameters
    ----------
    amount : float
        At least 0; 0.1 draws factors from 0.909 to 1.1.

    Raises
    ------
    ArgumentError
        A negative or infinite amount.

    Examples
    --------
    >>> from xpcnn import data
    >>> data.augment.Scale(0.1)(data.synthetic_digits(100).images, rng=0).shape
    (100, 1, 28, 28)
    """

    amount: float

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """One number for each image."""
        inverse = np.exp(-math.log1p(self.amount) * _spread(rng, n))
        return affine(n, yy=inverse, xx=inverse)


@dataclass(frozen=True)
class Shear(Geometric, name="shear", degrees=(0, 89)):
    """Slant each image sideways by an angle drawn evenly from ``-degrees … degrees``, as italics are.

    Parameters
    ----------
    degrees : float
        0 to 89.

    Raises
    ------
    ArgumentError
        An angle outside 0 to 89.

    Examples
    --------
    >>> from xpcnn import data
    >>> data.augment.Shear(10)(data.synthetic_digits(100).images, rng=0).shape
    (100, 1, 28, 28)
    """

    degrees: float

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """One number for each image."""
        return affine(n, xy=np.tan(math.radians(self.degrees) * _spread(rng, n)))


@dataclass(frozen=True)
class Elastic(Geometric, name="elastic", sigma=(0.1, None)):
    """Displace each pixel by random noise that a Gaussian has smoothed.

    The noise is even over -1 … 1, one field for each axis of each image. Smoothed and multiplied by `alpha`
    it displaces by about ``alpha / (6.14 * sigma)`` pixels (root mean square, along each axis), at the edges
    as much as inside.

    Parameters
    ----------
    alpha : float
        Strength, at least 0.
    sigma : float
        The Gaussian's standard deviation in pixels, at least 0.1: larger is smoother.

    Raises
    ------
    ArgumentError
        A negative `alpha`, or a `sigma` below 0.1.

    Notes
    -----
    Simard, Steinkraus & Platt, "Best Practices for Convolutional Neural Networks Applied to Visual Document
    Analysis", 2003, who took alpha 34 and sigma 4 on MNIST: 1.4 pixels. Of the two smoothings that they
    describe this is the one without normalisation by the field's norm.

    Examples
    --------
    >>> from xpcnn import data
    >>> data.augment.Elastic(alpha=34, sigma=4)(data.synthetic_digits(100).images, rng=0).shape
    (100, 1, 28, 28)
    """

    alpha: float
    sigma: float

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Displacement:
        """Two fields of ``height * width`` numbers for each image."""
        noise = rng.random((n, 2, height, width), dtype=np.float32)
        noise -= 0.5
        rows, columns = _smoothing(height, self.sigma), _smoothing(width, self.sigma)
        smoothed = rows * np.float32(2 * self.alpha) @ noise
        return Displacement(np.matmul(smoothed, columns.T, out=noise))


@lru_cache(maxsize=8)
def _smoothing(size: int, sigma: float) -> Array:
    """The matrix (size, size) that smooths along one axis.

    Near an end part of the Gaussian falls outside, and the rest is enlarged so that smoothed noise has the
    same variance in all places.
    """
    reach = math.ceil(6 * sigma)
    whole = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    norm = np.linalg.norm(whole / whole.sum())
    distance = np.arange(size)[:, None] - np.arange(size)
    matrix = np.exp(-(distance**2) / (2 * sigma**2))
    matrix *= norm / np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix.astype(np.float32)


@dataclass(frozen=True)
class RandomCrop(Geometric, name="crop"):
    """Pad each image with zeros on all sides, then cut a window of the old size at a random place.

    So each image moves by whole pixels, and none is interpolated.

    Parameters
    ----------
    padding : int
        Pixels on each side, at least 0.

    Raises
    ------
    ArgumentError
        A padding that is negative or no integer.

    Notes
    -----
    He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2016, section 4.2, pad CIFAR-10's
    images by 4.

    Examples
    --------
    >>> from xpcnn import data
    >>> data.augment.RandomCrop(4)(data.synthetic_digits(100).images, rng=0).shape
    (100, 1, 28, 28)
    """

    padding: int

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """Two whole numbers for each image."""
        corner = rng.integers(-self.padding, self.padding, (n, 2), endpoint=True)
        return affine(n, y=corner[:, 0], x=corner[:, 1])


@dataclass(frozen=True)
class HorizontalFlip(Geometric, name="hflip", p=(0, 1)):
    """Swap left and right in each image with probability `p`.

    Parameters
    ----------
    p : float
        0 to 1.

    Raises
    ------
    ArgumentError
        A probability outside 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from xpcnn import data
    >>> images = data.synthetic_digits(10).images
    >>> bool(np.all(data.augment.HorizontalFlip(p=1)(images, rng=0) == images[..., ::-1]))
    True
    """

    p: float = 0.5

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """One number for each image."""
        return affine(n, xx=np.where(rng.random(n) < self.p, -1, 1))


@dataclass(frozen=True)
class VerticalFlip(Geometric, name="vflip", p=(0, 1)):
    """Swap top and bottom in each image with probability `p`.

    Parameters
    ----------
    p : float
        0 to 1.

    Raises
    ------
    ArgumentError
        A probability outside 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from xpcnn import data
    >>> images = data.synthetic_digits(10).images
    >>> bool(np.all(data.augment.VerticalFlip(p=1)(images, rng=0) == images[..., ::-1, :]))
    True
    """

    p: float = 0.5

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """One number for each image."""
        return affine(n, yy=np.where(rng.random(n) < self.p, -1, 1))
