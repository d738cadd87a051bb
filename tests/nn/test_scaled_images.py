"""Bytes of images to numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn.nn.preprocess import scaled_images

SCALES, SHIFTS = (0.5, 0.25, 0.125), (1.0, 0.0, -2.0)


def draw_bytes(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng([*shape]).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(2, 1, 3, 4), (3, 5), (0, 1, 2, 2)], ids=str)
def test_one_scale(make: Any, dtype: str, shape: tuple[int, ...]) -> None:
    values = draw_bytes(*shape)
    x = make.array(values)
    with make.unchanged(x):
        y = scaled_images(x, (0.5,), (3.0,), make.dtype(dtype))
    make.check(y, values * 0.5 - 3.0, dtype, rtol=0)


def test_a_scale_for_each_channel(make: Any, dtype: str) -> None:
    values = draw_bytes(2, 3, 4, 5)
    y = scaled_images(make.array(values), SCALES, SHIFTS, make.dtype(dtype))
    expected = values * np.reshape(SCALES, (3, 1, 1)) - np.reshape(SHIFTS, (3, 1, 1))
    make.check(y, expected, dtype, rtol=0)
