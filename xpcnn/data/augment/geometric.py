"""Transforms that move, turn, stretch, slant, crop and flip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xpcnn.data.augment.base import Array, Geometric
from xpcnn.data.augment.sampling import Affine, affine
from xpcnn.errors import ArgumentError

__all__ = ["HorizontalFlip", "RandomCrop", "Rotate", "Scale", "Shear", "Shift", "VerticalFlip"]


def _spread(rng: np.random.Generator, *shape: int) -> Array:
    """Evenly drawn from -1 … 1."""
    return 2 * rng.random(shape) - 1


@dataclass(frozen=True)
class Shift(Geometric):
    """Move each image by a distance drawn evenly from ``-pixels … pixels``, along each axis by itself.

    Distances are fractional; `RandomCrop` moves by whole pixels.

    Parameters
    ----------
    pixels : float or (float, float)
        The longest distance, at least 0; a pair is (vertical, horizontal).

    Raises
    ------
    ArgumentError
        A negative or infinite distance, or a tuple of another length than 2.

    Examples
    --------
    >>> from xpcnn import data
    >>> digits = data.synthetic_digits(100).images
    >>> moved = data.augment.Shift(2)(digits, rng=0)
    >>> moved.shape, moved.dtype, data.augment.Shift((0, 1.5)).spec
    ((100, 1, 28, 28), dtype('uint8'), 'shift=0:1.5')
    """

    name: ClassVar[str] = "shift"
    pixels: float | tuple[float, float]

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, tuple | list):
            super().__post_init__()
        elif len(self.pixels) == 2:
            pixels = tuple(self._check("pixels", distance) for distance in self.pixels)
            object.__setattr__(self, "pixels", pixels)
        else:
            raise ArgumentError(f"Shift: pixels must be a number or a pair, got {self.pixels!r}")

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """Two numbers for each image."""
        distance = _spread(rng, n, 2) * self.pixels
        return affine(n, y=-distance[:, 0], x=-distance[:, 1])


@dataclass(frozen=True)
class Rotate(Geometric):
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

    name: ClassVar[str] = "rotate"
    limits: ClassVar[dict[str, tuple[float, float]]] = {"degrees": (0, 180)}
    degrees: float

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """One number for each image."""
        angle = math.radians(self.degrees) * _spread(rng, n)
        cosine, sine = np.cos(angle), np.sin(angle)
        return affine(n, cosine, sine, -sine, cosine)


@dataclass(frozen=True)
class Scale(Geometric):
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

    name: ClassVar[str] = "scale"
    amount: float

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """One number for each image."""
        inverse = np.exp(-math.log1p(self.amount) * _spread(rng, n))
        return affine(n, yy=inverse, xx=inverse)


@dataclass(frozen=True)
class Shear(Geometric):
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

    name: ClassVar[str] = "shear"
    limits: ClassVar[dict[str, tuple[float, float]]] = {"degrees": (0, 89)}
    degrees: float

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """One number for each image."""
        return affine(n, xy=np.tan(math.radians(self.degrees) * _spread(rng, n)))


@dataclass(frozen=True)
class RandomCrop(Geometric):
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

    name: ClassVar[str] = "crop"
    padding: int

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """Two whole numbers for each image."""
        corner = rng.integers(-self.padding, self.padding, (n, 2), endpoint=True)
        return affine(n, y=corner[:, 0], x=corner[:, 1])


@dataclass(frozen=True)
class HorizontalFlip(Geometric):
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

    name: ClassVar[str] = "hflip"
    limits: ClassVar[dict[str, tuple[float, float]]] = {"p": (0, 1)}
    p: float = 0.5

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """One number for each image."""
        return affine(n, xx=np.where(rng.random(n) < self.p, -1, 1))


@dataclass(frozen=True)
class VerticalFlip(Geometric):
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

    name: ClassVar[str] = "vflip"
    limits: ClassVar[dict[str, tuple[float, float]]] = {"p": (0, 1)}
    p: float = 0.5

    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Affine:
        """One number for each image."""
        return affine(n, yy=np.where(rng.random(n) < self.p, -1, 1))
