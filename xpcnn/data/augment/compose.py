"""Chains of transforms, and the text that describes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from itertools import groupby

import numpy as np

from xpcnn.data.augment.base import KNOWN, Array, Geometric, Transform
from xpcnn.data.augment.sampling import read
from xpcnn.errors import ArgumentError

__all__ = ["Compose", "parse"]


@dataclass(frozen=True)
class Compose(Transform):
    """Apply transforms one after another, neighbouring geometric ones as one.

    The maps of neighbours that move pixels (shift, rotate, scale, shear, elastic, crop, flips) are composed
    and the images read once: a chain blurs no more than one of its transforms, and what one moves out of the
    image another may bring back. Each transform draws the same random numbers as when called by itself.

    Parameters
    ----------
    transforms : iterable of transforms
        In the order in which they change the image. A Compose among them counts as its parts.

    Raises
    ------
    ArgumentError
        Something that is not a transform of this package.

    Notes
    -----
    `Elastic` costs least as the last of its neighbours: its field is then read at the pixels themselves.

    Examples
    --------
    >>> from xpcnn.data import synthetic_digits
    >>> from xpcnn.data.augment import Compose, Cutout, Rotate, Shift, parse
    >>> augment = Compose([Shift(2), Rotate(10), Cutout(6)])
    >>> augment(synthetic_digits(100).images, rng=0).shape
    (100, 1, 28, 28)
    >>> augment.spec
    'shift=2,rotate=10,cutout=6'
    >>> parse(augment.spec) == augment
    True
    """

    transforms: tuple[Transform, ...]

    def __init__(self, transforms: Iterable[Transform]) -> None:
        parts: list[Transform] = []
        for position, transform in enumerate(transforms):
            if not isinstance(transform, Transform):
                raise ArgumentError(
                    f"Compose: transforms[{position}] must be a transform of xpcnn.data.augment, "
                    f"got {transform!r}"
                )
            parts.extend(transform.transforms if isinstance(transform, Compose) else [transform])
        object.__setattr__(self, "transforms", tuple(parts))

    @property
    def spec(self) -> str:
        """The text that `parse` reads back, such as ``"shift=2,rotate=10"``."""
        return ",".join(transform.spec for transform in self.transforms)

    def _apply(self, images: Array, rng: np.random.Generator) -> Array:
        n, _, height, width = images.shape
        result = images
        for moves, group in groupby(self.transforms, key=lambda part: isinstance(part, Geometric)):
            if moves:
                maps = [part.draw(rng, n, height, width) for part in group if isinstance(part, Geometric)]
                result = read(result, maps)
            else:
                for part in group:
                    result = part(result, rng)
        return images.copy() if result is images else result


def parse(text: str) -> Compose:
    """Build a chain from a text such as ``"shift=2,rotate=10,elastic=34:4,hflip"``.

    Parameters
    ----------
    text : str
        ``name=number`` separated by commas, and a colon between two numbers of one transform:
        ``shift=PIXELS``, ``rotate=DEGREES``, ``scale=AMOUNT``, ``shear=DEGREES``, ``elastic=ALPHA:SIGMA``,
        ``crop=PADDING``, ``hflip`` or ``hflip=P``, ``vflip`` or ``vflip=P``, ``brightness=AMOUNT``,
        ``cutout=SIZE``. An empty text is a chain that changes nothing.

    Returns
    -------
    Compose

    Raises
    ------
    ArgumentError
        An unknown name (the known ones are listed), or numbers missing, superfluous or out of range.

    Examples
    --------
    >>> from xpcnn.data.augment import parse
    >>> parse("shift=2,elastic=34:4").transforms
    (Shift(pixels=2.0), Elastic(alpha=34.0, sigma=4.0))
    >>> parse("shift=2,elastic=34")
    Traceback (most recent call last):
    xpcnn.errors.ArgumentError: augment.parse: elastic takes 2 numbers, got 1 in 'elastic=34'
    """
    if not isinstance(text, str):
        raise ArgumentError(f"augment.parse: expected a text such as 'shift=2,hflip', got {text!r:.60}")
    return Compose([_parse_one(item.strip()) for item in text.split(",")] if text.strip() else [])


def _parse_one(item: str) -> Transform:
    name, given, values = (part.strip() for part in item.partition("="))
    if name not in KNOWN:
        raise ArgumentError(
            f"augment.parse: no transform is called {name!r}; known: {', '.join(sorted(KNOWN))}"
        )
    texts = values.split(":") if given else []
    most = len(fields(KNOWN[name]))
    least = sum(field.default is MISSING for field in fields(KNOWN[name]))
    if not least <= len(texts) <= most:
        wanted = f"{least}" if least == most else f"{least} or {most}"
        raise ArgumentError(f"augment.parse: {name} takes {wanted} numbers, got {len(texts)} in {item!r}")
    return KNOWN[name](*(_number(text, item) for text in texts))


def _number(text: str, item: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ArgumentError(f"augment.parse: {text!r} is not a number in {item!r}") from None
    return int(number) if number.is_integer() else number
