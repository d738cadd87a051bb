"""Flips and moves by whole pixels as numbers, for whoever moves the pixels later and elsewhere."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xpcnn.data.augment.base import Transform
from xpcnn.data.augment.compose import Compose
from xpcnn.data.augment.geometric import HorizontalFlip, RandomCrop, VerticalFlip
from xpcnn.data.augment.sampling import Affine, whole_pixel_moves
from xpcnn.data.moved import MovedImages

__all__ = ["Deferred"]

Array = NDArray[Any]

_WHOLE = (RandomCrop, HorizontalFlip, VerticalFlip)


@dataclass(frozen=True)
class Deferred:
    """A transform of whole pixels that draws its random numbers now and leaves the pixels where they are.

    Parameters
    ----------
    transform : Transform
        One that `possible_for` accepts.

    Examples
    --------
    >>> import numpy as np
    >>> from xpcnn.data import synthetic_digits
    >>> from xpcnn.data.augment import parse
    >>> from xpcnn.data.augment.moves import Deferred
    >>> deferred = Deferred(parse("crop=2,hflip"))
    >>> images, moves = deferred(synthetic_digits(3).images, np.random.default_rng(0))
    >>> moves.shape, moves.dtype
    ((3, 4), dtype('int32'))
    """

    transform: Transform

    @staticmethod
    def possible_for(transform: object) -> bool:
        """Return whether a transform flips and crops, and does nothing else."""
        return bool(_parts(transform)) and all(type(part) in _WHOLE for part in _parts(transform))

    def __call__(self, images: Array, rng: np.random.Generator) -> MovedImages | Array:
        """Draw the same numbers as the transform would. Images that are not uint8 are moved now."""
        if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
            return self.transform(images, rng)
        n, _, height, width = images.shape
        first, *rest = (part.draw(rng, n, height, width) for part in _parts(self.transform))
        return MovedImages(
            images, whole_pixel_moves(functools.reduce(Affine.after, rest, first), height, width)
        )


def _parts(transform: object) -> tuple[Any, ...]:
    return transform.transforms if type(transform) is Compose else (transform,)
