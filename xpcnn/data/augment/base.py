"""What all transforms share: checked images and random numbers, and a text that names them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xpcnn.arguments import real, whole
from xpcnn.data.augment.sampling import Map, read
from xpcnn.errors import DtypeError, ShapeError

__all__ = ["KNOWN", "Geometric", "Transform"]

Array = NDArray[Any]

KNOWN: dict[str, type[Transform]] = {}
"""The transforms by the names that `parse` calls them."""


@dataclass(frozen=True)
class Transform(ABC):
    """A random change of a batch of images, each image with its own draw.

    A subclass says what `parse` calls it, and the least and the largest value of its numbers, which are
    otherwise from 0 on: ``class Rotate(Geometric, name="rotate", degrees=(0, 180))``.
    """

    name: ClassVar[str]
    limits: ClassVar[dict[str, tuple[float, float | None]]]

    def __init_subclass__(cls, name: str = "", **limits: tuple[float, float | None]) -> None:
        cls.name, cls.limits = name, limits
        if name:
            KNOWN[name] = cls

    def __post_init__(self) -> None:
        for field in fields(self):
            what, value = f"{type(self).__name__}: {field.name}", getattr(self, field.name)
            if field.type == "int":
                value = whole(what, value, 0)
            else:
                value = real(what, value, *self.limits.get(field.name, (0, None)))
            object.__setattr__(self, field.name, value)

    def __call__(self, images: Array, rng: np.random.Generator | int) -> Array:
        """Return changed copies of the images.

        Parameters
        ----------
        images : ndarray, shape (N, C, H, W)
            uint8 or floating; never written to.
        rng : numpy.random.Generator or int
            What the random numbers are drawn from, or a seed.

        Returns
        -------
        ndarray, shape (N, C, H, W)
            A new array of the same dtype, in native byte order.

        Raises
        ------
        ShapeError, DtypeError, ArgumentError
            Images of another number of axes or dtype; an `rng` that is neither.
        """
        where, images = type(self).__name__, np.asarray(images)
        if images.ndim != 4:
            raise ShapeError(f"{where}: images must have axes (N, C, H, W), got shape {images.shape}")
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise DtypeError(f"{where}: images must be uint8 or floating, got {images.dtype}")
        if not isinstance(rng, np.random.Generator):
            rng = np.random.default_rng(whole(f"{where}: rng, unless a Generator,", rng, 0))
        images = images.astype(images.dtype.newbyteorder("="), copy=False)
        return self._apply(images, rng) if images.size else images.copy()

    @abstractmethod
    def _apply(self, images: Array, rng: np.random.Generator) -> Array:
        """Changed copies of at least one image."""

    @property
    def spec(self) -> str:
        """The text that `parse` reads back, such as ``"elastic=8:3"``."""
        numbers = [repr(getattr(self, field.name)).removesuffix(".0") for field in fields(self)]
        return f"{self.name}={':'.join(numbers)}"


class Geometric(Transform):
    """A transform that moves pixels. `Compose` joins neighbouring ones into one reading of the images."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Map:
        """Draw the map from the result's positions to the source's for each of `n` images."""

    def _apply(self, images: Array, rng: np.random.Generator) -> Array:
        n, _, height, width = images.shape
        return read(images, [self.draw(rng, n, height, width)])
