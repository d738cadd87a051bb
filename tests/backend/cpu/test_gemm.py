"""Products in blocks, beside float64 products of the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

import xpcnn
from tests.support.cpu import Array, draw, readonly
from xpcnn.backend.cpu.gemm import SMALL, batched_gemm, gemm, gemm_columns

# Small and large; tall, wide, long; sizes that no block divides; transposed operands; nothing at all.
MATRICES = [
    (3, 4, 5),
    (20_001, 25, 30),
    (25, 30, 20_001),
    (30, 40_001, 25),
    (200, 300, 400),
    (50, 100, 4321),
    (1, 160, 70_000),
    (70_000, 161, 1),
    (12_345, 160, 129),
    (0, 4, 5),
    (4, 0, 5),
    (4, 5, 0),
]
STACKS = [
    (36, 64, 96, 80),
    (16, 129, 128, 256),
    (5, 33, 100, 192),
    (3, 300, 300, 300),
    (3, 48, 300, 128),
    (2, 40, 512, 64),
    (2, 40, 513, 64),
    (3, 0, 4, 2),
    (0, 2, 2, 2),
]


def layouts(rows: int, columns: int, dtype: str, seed: int) -> list[Array]:
    """The same numbers by rows, by columns, and as a part of a larger matrix."""
    x = draw(rows, columns, dtype=dtype, seed=seed)
    larger = np.full((rows + 1, columns + 3), np.nan, dtype)
    larger[:-1, 1:-2] = x
    return [readonly(x), readonly(np.array(x, order="F")), larger[:-1, 1:-2]]


def check(found: Array, a: Array, b: Array) -> None:
    assert found.dtype == a.dtype
    expected = a.astype(np.float64) @ b.astype(np.float64)
    assert found.shape == expected.shape
    scale = np.sqrt(a.shape[-1]) or 1.0
    np.testing.assert_allclose(found, expected, rtol=0, atol=scale * 100 * np.finfo(a.dtype).eps)


@pytest.mark.parametrize("sizes", MATRICES, ids=str)
def test_product(sizes: tuple[int, int, int], dtype: str) -> None:
    rows, inner, columns = sizes
    for a in layouts(rows, inner, dtype, 0):
        for b in layouts(inner, columns, dtype, 1):
            check(gemm(a, b), a, b)


def test_some_products_are_cut() -> None:
    assert any(np.prod(sizes) > SMALL for sizes in MATRICES)


def test_nan_stays_where_it_is() -> None:
    a, b = draw(20_000, 25, dtype="float32"), draw(25, 30, dtype="float32")
    a[777] = np.nan
    found = gemm(a, b)
    assert np.isnan(found[777]).all()
    assert not np.isnan(np.delete(found, 777, axis=0)).any()


@pytest.mark.parametrize("columns", [0, 1, 511, 512, 5000, 300_001])
def test_columns(columns: int, dtype: str) -> None:
    a = draw(36, 9, dtype=dtype)
    for b in layouts(9, columns, dtype, 1):
        out = np.full((36, columns), np.nan, dtype)
        gemm_columns(a, b, out)
        check(out, a, b)


@pytest.mark.parametrize("sizes", STACKS, ids=str)
def test_stacks(sizes: tuple[int, int, int, int], dtype: str) -> None:
    stack, rows, inner, columns = sizes
    a, b = draw(stack, inner, rows, dtype=dtype), draw(stack, inner, columns, dtype=dtype, seed=1)
    for left in (a.transpose(0, 2, 1), a.transpose(0, 2, 1).copy()):
        out = np.full((stack, rows, columns), np.nan, dtype)
        batched_gemm(left, b, out)
        check(out, left, b)


def test_threads_do_not_change_a_bit() -> None:
    a, b = draw(36, 64, 512, dtype="float32"), draw(36, 512, 256, dtype="float32")
    forth, wide = draw(36, 36, dtype="float32"), draw(36, 100_001, dtype="float32")
    found = []
    for threads in (1, 2, 3):
        xpcnn.set_num_threads(threads)
        product, transformed = np.empty((36, 64, 256), "float32"), np.empty((36, 100_001), "float32")
        batched_gemm(a, b, product)
        gemm_columns(forth, wide, transformed)
        found.append(product.tobytes() + transformed.tobytes())
    xpcnn.set_num_threads(None)
    assert found[0] == found[1] == found[2]
