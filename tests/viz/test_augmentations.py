"""Samples of augmentation: what the transform gave, in its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn import data
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.viz import plot_augmentations
from xpcnn.viz.canvas import corners

pytest.importorskip("matplotlib")

IMAGES = data.synthetic_digits(3).images


class Roll:
    """A transform that draws a number for each image."""

    spec = "roll"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.stack([np.roll(image, rng.integers(0, 28), axis=1) for image in images])


def test_what_is_drawn(make: Any) -> None:
    figure = plot_augmentations(Roll(), make.array(IMAGES), seed=7, samples=4)
    original, samples = figure.axes
    for image, (top, left) in zip(IMAGES, corners(3, 28, 28, 1), strict=True):
        np.testing.assert_array_equal(
            original.images[0].get_array()[top : top + 28, left : left + 28], image[0] / 255
        )
    rng = np.random.Generator(np.random.Philox(7))
    drawn = [[np.roll(image[0], rng.integers(0, 28), axis=0) for image in IMAGES] for _ in range(4)]
    for place, (top, left) in enumerate(corners(12, 28, 28, 4)):
        expected = drawn[place % 4][place // 4] / 255
        shown = samples.images[0].get_array()[top : top + 28, left : left + 28]
        np.testing.assert_array_equal(shown, expected)
    assert [original.get_title(), samples.get_title()] == ["original", "4 samples of each"]
    assert figure.get_suptitle() == "roll"


def test_colour_and_nameless_transforms() -> None:
    images = np.random.default_rng(0).random((2, 3, 8, 6))
    figure = plot_augmentations(lambda x, rng: x[..., ::-1], images)
    assert figure.get_suptitle() == ""
    assert figure.axes[1].images[0].get_array().shape == (2 * 8 + 1, 8 * 6 + 7, 4)


def test_wrong_arguments() -> None:
    with pytest.raises(ArgumentError, match="transform must be callable, got int"):
        plot_augmentations(3, IMAGES)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="at least 1 image and 1 sample, got 0 and 8"):
        plot_augmentations(Roll(), IMAGES[:0])
    with pytest.raises(ArgumentError, match="at least 1 image and 1 sample, got 3 and 0"):
        plot_augmentations(Roll(), IMAGES, samples=0)
    with pytest.raises(ShapeError, match=r"images must have shape \(N, C, H, W\), got \(1, 28, 28\)"):
        plot_augmentations(Roll(), IMAGES[0])
