"""Flips and crops as numbers, against the transforms that make them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn.data import Loader, augment, synthetic_digits
from xpcnn.data.augment.moves import Deferred
from xpcnn.data.moved import MovedImages

CHAINS = ("crop=2", "hflip", "vflip=0.7", "crop=1,hflip,crop=2,vflip", "hflip=1", "crop=0", "crop=12")


def made(images: Any, moves: Any) -> Any:
    """The moved images, pixel by pixel."""
    result = np.zeros_like(images)
    _, _, height, width = images.shape
    for n, (top, down, left, right) in enumerate(moves.tolist()):
        for i in range(height):
            for j in range(width):
                row, column = top + down * i, left + right * j
                if 0 <= row < height and 0 <= column < width:
                    result[n, :, i, j] = images[n, :, row, column]
    return result


@pytest.mark.parametrize("shape", [(6, 3, 5, 5), (5, 1, 4, 7), (4, 2, 1, 6), (3, 1, 8, 1)], ids=str)
@pytest.mark.parametrize("chain", CHAINS)
def test_as_the_transform(chain: str, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(1).integers(1, 256, shape, dtype=np.uint8)
    kept = images.copy()
    rng, other = np.random.default_rng(2), np.random.default_rng(2)
    deferred = Deferred(augment.parse(chain))(images, rng)
    assert isinstance(deferred, MovedImages)
    assert deferred.images is images
    assert deferred.moves.dtype == np.int32
    np.testing.assert_array_equal(made(*deferred), augment.parse(chain)(images, other))
    np.testing.assert_array_equal(images, kept)
    assert rng.random() == other.random()  # as many numbers were drawn


def test_one_transform_without_a_chain() -> None:
    images = np.random.default_rng(1).integers(1, 256, (9, 1, 4, 4), dtype=np.uint8)
    deferred = Deferred(augment.HorizontalFlip())(images, np.random.default_rng(2))
    assert isinstance(deferred, MovedImages)
    expected = augment.HorizontalFlip()(images, np.random.default_rng(2))
    np.testing.assert_array_equal(made(*deferred), expected)


def test_padding_beyond_all_bounds() -> None:
    """What is moved far away stays away."""
    images = np.full((5, 1, 4, 4), 9, np.uint8)
    chain = augment.parse(f"crop={10**12},hflip")
    deferred = Deferred(chain)(images, np.random.default_rng(2))
    np.testing.assert_array_equal(made(*deferred), np.zeros_like(images))


@pytest.mark.parametrize("chain", CHAINS)
def test_possible(chain: str) -> None:
    assert Deferred.possible_for(augment.parse(chain))


class Other(augment.HorizontalFlip):
    def _apply(self, images: Any, rng: Any) -> Any:
        return images


@pytest.mark.parametrize(
    "transform",
    [
        None,
        lambda images, rng: images,
        augment.parse(""),
        augment.Shift(1),
        augment.parse("crop=2,rotate=5"),
        augment.parse("hflip,cutout=3"),
        Other(),
    ],
    ids=["nothing", "a function", "an empty chain", "shift", "rotate", "cutout", "a subclass"],
)
def test_not_possible(transform: Any) -> None:
    assert not Deferred.possible_for(transform)


@pytest.mark.parametrize(
    "images", [np.ones((2, 1, 3, 3), np.float32), np.ones((0, 1, 3, 3), np.uint8)], ids=["floating", "none"]
)
def test_moved_now(images: Any) -> None:
    """Where nobody would move them later."""
    chain = augment.parse("crop=1,hflip")
    found = Deferred(chain)(images, np.random.default_rng(3))
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, chain(images, np.random.default_rng(3)))


def test_loaded() -> None:
    """A loader's batches draw the same numbers either way."""
    digits, chain = synthetic_digits(20), augment.parse("crop=3,hflip")
    deferred = Loader(digits, 8, seed=4, augment=Deferred(chain))
    for (moved, labels), (images, expected) in zip(
        deferred.epoch(2), Loader(digits, 8, seed=4, augment=chain).epoch(2), strict=True
    ):
        np.testing.assert_array_equal(made(*moved), images)
        np.testing.assert_array_equal(labels, expected)
