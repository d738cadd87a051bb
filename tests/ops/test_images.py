"""Bytes of images to numbers, flipped and moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn.ops.images import moved_scaled_images, scaled_images

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


def moved_by_loops(values: np.ndarray[Any, Any], moves: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """By the definition, pixel by pixel."""
    result = np.zeros_like(values)
    _, _, height, width = values.shape
    for n, (top, down, left, right) in enumerate(moves.tolist()):
        for i in range(height):
            for j in range(width):
                row, column = top + down * i, left + right * j
                if 0 <= row < height and 0 <= column < width:
                    result[n, :, i, j] = values[n, :, row, column]
    return result


def test_moves(make: Any, dtype: str) -> None:
    values = draw_bytes(7, 3, 4, 5)
    moves = np.array(
        [
            [0, 1, 0, 1],  # as it was
            [3, -1, 4, -1],  # turned by 180 degrees
            [0, 1, 4, -1],
            [1, 1, -2, 1],
            [5, -1, 2, 1],  # flipped, and moved beyond the edge
            [9, 1, 0, 1],  # out of sight
            [-4, 1, 0, 1],
        ],
        dtype=np.int32,
    )
    x, given = make.array(values), make.array(moves)
    with make.unchanged(x, given):
        y = moved_scaled_images(x, given, SCALES, SHIFTS, make.dtype(dtype))
    scales, shifts = (np.reshape(constants, (3, 1, 1)) for constants in (SCALES, SHIFTS))
    make.check(y, moved_by_loops(values, moves) * scales - shifts, dtype, rtol=0)


def test_no_images(make: Any) -> None:
    x, moves = make.array(draw_bytes(0, 1, 3, 3)), make.array(np.zeros((0, 4), np.int32))
    y = moved_scaled_images(x, moves, (1.0,), (0.0,), make.dtype("float32"))
    make.check_kind(y, (0, 1, 3, 3), "float32")
