"""Products in blocks, beside float64 products of the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

import xpcnn
from tests.support.ops import Array, draw
from xpcnn.backend.cpu.gemm import SMALL, gemm, gemm_columns, matmul

pytestmark = pytest.mark.slow

# Small and large; tall, wide, long; sizes that no block divides; transposed operands; nothing at all.
MATRICES = [
    *[(3, 4, 5), (20_001, 25, 30), (25, 30, 20_001), (30, 40_001, 25), (200, 300, 400), (50, 100, 4321)],
    *[(1, 160, 70_000), (70_000, 161, 1), (12_345, 160, 129), (200, 160, 1000)],
    *[(0, 4, 5), (4, 0, 5), (4, 5, 0)],
]
STACKS = [
    *[(36, 64, 96, 80), (16, 129, 128, 256), (5, 33, 100, 192), (3, 300, 300, 300), (3, 48, 300, 128)],
    *[(2, 40, 512, 64), (2, 40, 513, 64), (3, 0, 4, 2), (0, 2, 2, 2)],
]


def readonly(x: Array) -> Array:
    x.flags.writeable = False
    return x


def layouts(rows: int, columns: int, dtype: str, seed: int) -> list[Array]:
    """The same numbers by rows, by columns, and as a part of a larger matrix."""
    x = draw(rows, columns, dtype=dtype, seed=seed)
    larger = np.full((rows + 1, columns + 3), np.nan, dtype)
    larger[:-1, 1:-2] = x
    return [readonly(x), readonly(np.array(x, order="F")), larger[:-1, 1:-2]]


def exact(a: Array, b: Array) -> Array:
    product: Array = a.astype(np.float64) @ b.astype(np.float64)
    return product


def check(found: Array, a: Array, expected: Array) -> None:
    assert found.dtype == a.dtype
    assert found.shape == expected.shape
    scale = np.sqrt(a.shape[-1]) or 1.0
    np.testing.assert_allclose(found, expected, rtol=0, atol=scale * 100 * np.finfo(a.dtype).eps)


@pytest.mark.parametrize("sizes", MATRICES, ids=str)
def test_product(sizes: tuple[int, int, int], dtype: str) -> None:
    rows, inner, columns = sizes
    left, right = layouts(rows, inner, dtype, 0), layouts(inner, columns, dtype, 1)
    expected = exact(left[0], right[0])
    for a, b in (*zip(left, right, strict=True), (left[0], right[1]), (left[1], right[0])):
        check(gemm(a, b), a, expected)


def test_nan_stays_where_it_is() -> None:
    """Also where products are cut."""
    a, b = draw(20_000, 25, dtype="float32"), draw(25, 30, dtype="float32")
    assert a.size * 30 > SMALL
    a[777] = np.nan
    np.testing.assert_array_equal(np.isnan(gemm(a, b)).all(1), np.arange(20_000) == 777)
    np.testing.assert_array_equal(np.isnan(gemm(a, b)).any(1), np.arange(20_000) == 777)


@pytest.mark.parametrize("columns", [0, 1, 511, 512, 5000, 300_001])
def test_columns(columns: int, dtype: str) -> None:
    """The same bits by one thread."""
    a, right = draw(36, 9, dtype=dtype), layouts(9, columns, dtype, 1)
    expected = exact(a, right[0])
    for b in right:
        out, by_one = (np.full((36, columns), np.nan, dtype) for _ in range(2))
        gemm_columns(a, b, out)
        check(out, a, expected)
        xpcnn.set_num_threads(1)
        gemm_columns(a, b, by_one)
        xpcnn.set_num_threads(None)
        np.testing.assert_array_equal(by_one, out)


@pytest.mark.parametrize("sizes", STACKS, ids=str)
def test_stacks(sizes: tuple[int, int, int, int], dtype: str) -> None:
    """The same bits by one thread."""
    stack, rows, inner, columns = sizes
    a, b = draw(stack, inner, rows, dtype=dtype), draw(stack, inner, columns, dtype=dtype, seed=1)
    for left in (a.transpose(0, 2, 1), a.transpose(0, 2, 1).copy()):
        found = matmul(left, b)
        check(found, left, exact(left, b))
        xpcnn.set_num_threads(1)
        np.testing.assert_array_equal(matmul(left, b), found)
        xpcnn.set_num_threads(None)
