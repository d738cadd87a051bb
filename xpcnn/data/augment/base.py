"""What all transforms share: checked images and random numbers, and a text that names them."""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xpcnn.arguments import whole
from xpcnn.data.augment.sampling import Map, read
from xpcnn.errors import ArgumentError, DtypeError, ShapeError

__all__ = ["Geometric", "Transform"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Transform(ABC):
    """A random change of a batch of images, each image with its own draw."""

    name: ClassVar[str]
    """What `parse` calls it."""
    limits: ClassVar[dict[str, tuple[float, float]]] = {}
    """The least and the largest value of its numbers, by their names; from 0 on for the others."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                number: float = whole(f"{type(self).__name__}: {field.name}", value, 0)
            else:
                number = self._check(field.name, value)
            object.__setattr__(self, field.name, number)

    def _check(self, argument: str, value: object) -> float:
        """Return a finite number within the limits, or raise ArgumentError."""
        number = float(value) if isinstance(value, numbers.Real) else math.nan
        low, high = self.limits.get(argument, (0, math.inf))
        if math.isfinite(number) and low <= number <= high:
            return number
        span = f"{low} to {high}" if math.isfinite(high) else f"at least {low}"
        where = type(self).__name__
        raise ArgumentError(f"{where}: {argument} must be a finite number of {span}, got {value!r}")

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
        numbers = np.hstack([getattr(self, field.name) for field in fields(self)]).tolist()
        return f"{self.name}={':'.join(repr(number).removesuffix('.0') for number in numbers)}"


class Geometric(Transform):
    """A transform that moves pixels. `Compose` joins neighbouring ones into one reading of the images."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Map:
        """Draw the map from the result's positions to the source's for each of `n` images."""

    def _apply(self, images: Array, rng: np.random.Generator) -> Array:
        n, _, height, width = images.shape
        return read(images, [self.draw(rng, n, height, width)])
