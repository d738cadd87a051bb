"""What all transforms share: checked images and random numbers, and a text that names them."""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from xpcnn.data._check import check_integer
from xpcnn.data.augment.sampling import Map, read
from xpcnn.errors import ArgumentError, DtypeError, ShapeError

__all__ = ["Geometric", "Transform"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Transform(ABC):
    """A random change of a batch of images, each image with its own draw."""

    name: ClassVar[str]
    """What `parse` calls it."""
    limits: ClassVar[tuple[float, float]] = (0.0, math.inf)
    """What its numbers must lie between."""

    def __post_init__(self) -> None:
        for field in fields(self):
            number = self._check(field.name, getattr(self, field.name), whole=field.type == "int")
            object.__setattr__(self, field.name, number)

    def _check(self, argument: str, value: object, whole: bool = False) -> float:
        """Return a finite number within the limits, or raise ArgumentError."""
        where = type(self).__name__
        if whole:
            return check_integer(where, argument, value, minimum=0)
        number, (low, high) = float(value) if isinstance(value, numbers.Real) else math.nan, self.limits
        if math.isfinite(number) and low <= number <= high:
            return number
        span = f"of {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
        raise ArgumentError(
            f"{type(self).__name__}: {argument} must be a finite number {span}, got {value!r}"
        )

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
            try:
                rng = np.random.default_rng(check_integer(where, "rng", rng, minimum=0))
            except ArgumentError:
                message = (
                    f"{where}: rng must be a numpy.random.Generator or a seed of at least 0, got {rng!r}"
                )
                raise ArgumentError(message) from None
        images = images.astype(images.dtype.newbyteorder("="), copy=False)
        return self._apply(images, rng) if images.size else images.copy()

    @abstractmethod
    def _apply(self, images: Array, rng: np.random.Generator) -> Array:
        """Changed copies of at least one image."""

    @property
    def spec(self) -> str:
        """The text that `parse` reads back, such as ``"elastic=8:3"``."""
        arguments: list[Any] = []
        for field in fields(self):
            value = getattr(self, field.name)
            arguments.extend(value if isinstance(value, tuple) else [value])
        return f"{self.name}={':'.join(map(_short, arguments))}"

    @classmethod
    def from_numbers(cls, arguments: Sequence[int | float]) -> Self:
        """Build from the numbers of a spec."""
        return cls(*arguments)


class Geometric(Transform):
    """A transform that moves pixels. `Compose` joins neighbouring ones into one reading of the images."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, n: int, height: int, width: int) -> Map:
        """Draw the map from the result's positions to the source's for each of `n` images."""

    def _apply(self, images: Array, rng: np.random.Generator) -> Array:
        n, _, height, width = images.shape
        return read(images, [self.draw(rng, n, height, width)])


def _short(number: float) -> str:
    """The shortest text that reads back as the same number."""
    return repr(number).removesuffix(".0")
