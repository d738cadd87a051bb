"""Bytes of images to numbers, by every implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.implementations import Implementation
from xpcnn.nn.preprocess import scaled_images

ONE = ((1 / 255,), (0.0,))
SHIFTED = ((1 / (255 * 0.3081),), (0.1307 / 0.3081,))
EACH = (tuple(1 / (255 * std) for std in (0.247, 0.243, 0.262)), (0.491 / 0.25, 0.0, -2.0))


def draw_bytes(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng([*shape]).integers(0, 256, shape, dtype=np.uint8)


def check(i: Implementation, x: Any, constants: Any) -> None:
    """A product and a difference, each rounded where it is computed, then once to the result's dtype."""
    with i.unchanged(x):
        y = scaled_images(x, *constants, i.dtype(i.dtype_name))
    shape = (1,) if len(constants[0]) == 1 else (-1, 1, 1)
    scale, shift = (np.array(each, i.wide).reshape(shape) for each in constants)
    expected = i.to_numpy(x).astype(i.wide) * scale - shift
    i.check_kind(y, x.shape, i.dtype_name)
    if i.dtype_name == "bfloat16":  # which NumPy cannot round to
        np.testing.assert_allclose(i.values(y), expected, rtol=2.0**-8)
    else:
        np.testing.assert_array_equal(i.to_numpy(y), expected.astype(i.dtype_name))
    i.ran("scaled_images", cpu=False)


@pytest.mark.parametrize("constants", [ONE, SHIFTED], ids=["0 to 1", "shifted"])
@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (3, 3, 5, 7), (5, 6), (256,), (0, 1, 3, 3)], ids=str)
def test_one_scale(implementation: Implementation, shape: tuple[int, ...], constants: Any) -> None:
    values = np.arange(256, dtype=np.uint8) if shape == (256,) else draw_bytes(*shape)
    check(implementation, implementation.array(values, "uint8"), constants)


def test_a_scale_for_each_channel(implementation: Implementation) -> None:
    """Gaps between the pixels, too."""
    check(implementation, implementation.array(draw_bytes(2, 3, 5, 4), "uint8"), EACH)
    if implementation.kind != "torch":  # it has no negative strides
        larger = implementation.array(draw_bytes(4, 6, 8, 10), "uint8")
        check(implementation, larger[:2, ::2, ::-1, ::2], EACH)
