"""NumPy's kernels of convolutions, beside the portable functions in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.cpu import Array, channels_last, draw, everywhere_else, is_channels_last, unchanged
from xpcnn.backend.cpu import table
from xpcnn.backend.cpu.parallel import framed, place_for
from xpcnn.ops.conv.algorithms import mec, winograd
from xpcnn.ops.conv.geometry import ConvGeometry

# x, weight, stride, padding, dilation
ROWS = [
    ((2, 3, 7, 8), (5, 3, 3, 3), 1, 1, 1),
    ((1, 1, 1, 1), (1, 1, 1, 1), 1, 0, 1),
    ((2, 1, 9, 8), (3, 1, 3, 3), 1, 0, 1),
    ((1, 1, 9, 8), (3, 1, 2, 3), 1, 1, 1),
    ((2, 16, 30, 29), (8, 16, 3, 3), 1, (0, 2), 1),
    ((2, 3, 5, 4), (2, 3, 5, 4), 1, 0, 1),
    ((2, 4, 9, 11), (3, 4, 3, 2), (2, 3), (2, 1), (2, 1)),
    ((3, 40, 6, 6), (7, 40, 2, 4), 1, "same", 1),
    ((0, 3, 6, 6), (4, 3, 3, 3), 1, 1, 1),
    ((1, 53, 4, 60), (2, 53, 3, 3), 1, 1, 1),
]
TILED = [
    ((2, 3, 8, 8), 1),
    ((1, 5, 9, 7), (0, 2)),
    ((2, 4, 3, 3), 0),
    ((2, 1, 10, 10), 0),
    ((1, 1, 6, 3), 0),
    ((3, 2, 6, 13), 1),
    ((0, 3, 8, 8), 1),
]


def tolerance(dtype: Any) -> float:
    return 200 * float(np.finfo(dtype).eps)


def near(got: Array, expected: Array) -> bool:
    scale = float(np.abs(expected).max(initial=1.0))
    return got.shape == expected.shape and bool(
        np.abs(got - expected).max(initial=0.0) <= tolerance(got.dtype) * scale
    )


def every_memory(x: Array) -> Iterator[Array]:
    yield channels_last(x)
    yield from everywhere_else(x)


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_rows(case: tuple[Any, ...], dtype: str) -> None:
    x_shape, weight_shape, *sizes = case
    geometry = ConvGeometry.of(x_shape, weight_shape, *sizes)
    k, c, kh, kw = weight_shape
    filters = draw(kh, kw * c, k, seed=1)
    x, dy = draw(*x_shape), draw(*geometry.output_shape, seed=2)
    y = mec.mec_forward.portable(x, filters, geometry)
    gradient = mec.mec_grad_weight.portable(x, dy, geometry)
    narrow = filters.astype(dtype)
    for image, dy_image in zip(every_memory(x.astype(dtype)), every_memory(dy.astype(dtype)), strict=True):
        with unchanged(image, dy_image, narrow):
            got = table()["mec_forward"](image, narrow, geometry)
            got_gradient = table()["mec_grad_weight"](image, dy_image, geometry)
        assert got.dtype == got_gradient.dtype == dtype
        assert is_channels_last(got)
        assert near(got, y)
        assert near(got_gradient, gradient)


def places(shape: tuple[int, ...], dtype: str) -> Iterator[tuple[Array, bool]]:
    """Yield where images may be written to, and whether they are: in one piece, channels last."""
    n, c, h, w = shape
    larger = np.full((n + 2, h, w, c), np.nan, dtype).transpose(0, 3, 1, 2)
    yield larger[1:-1], True
    yield np.full((n, h, w, c + 1), np.nan, dtype).transpose(0, 3, 1, 2)[:, 1:], n * h * w <= 1
    yield np.full(shape, np.nan, "float32" if dtype == "float64" else "float64"), False
    read_only = np.full((n, h, w, c), np.nan, dtype).transpose(0, 3, 1, 2)
    read_only.flags.writeable = False
    yield read_only, False


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_rows_written_to_a_place(case: tuple[Any, ...], dtype: str) -> None:
    x_shape, weight_shape, *sizes = case
    geometry = ConvGeometry.of(x_shape, weight_shape, *sizes)
    k, c, kh, kw = weight_shape
    filters = draw(kh, kw * c, k, seed=1, dtype=dtype)
    x = channels_last(draw(*x_shape, dtype=dtype))
    expected = mec.mec_forward.portable(x.astype(np.float64), filters.astype(np.float64), geometry)
    for place, taken in places(geometry.output_shape, dtype):
        before = place.copy()
        got = table()["mec_forward"](x, filters, geometry, place)
        assert near(got, expected)
        if taken:
            assert got is place
        else:
            assert not np.shares_memory(got, place)
            np.testing.assert_array_equal(place, before)


@pytest.mark.parametrize("case", TILED, ids=str)
@pytest.mark.parametrize("m", [2, 4])
def test_tiles_written_to_a_place(case: tuple[Any, ...], m: int, dtype: str) -> None:
    x_shape, padding = case
    shape = ConvGeometry.of(x_shape, (5, x_shape[1], 3, 3), 1, padding).output_shape
    tiling = winograd.Tiling(m, -(-shape[2] // m), -(-shape[3] // m))
    products = draw(tiling.t**2, shape[0] * tiling.rows * tiling.columns, 5, dtype=dtype)
    back = draw(m, tiling.t, seed=1, dtype=dtype)
    expected = winograd.winograd_output.portable(
        products.astype(np.float64), back.astype(np.float64), shape, tiling
    )
    for place, taken in places(shape, dtype):
        got = table()["winograd_output"](products, back, shape, tiling, place)
        assert near(got, expected)
        assert got is place if taken else not np.shares_memory(got, place)


def test_a_place_of_another_shape_is_not_taken() -> None:
    place = np.empty((2, 4, 5, 3), "float32").transpose(0, 3, 1, 2)
    for shape in ((1, 3, 4, 5), (2, 3, 5, 4)):
        images, memory = place_for(shape, np.dtype("float32"), place)
        assert images is not place
        assert images.shape == shape
        assert np.shares_memory(images, memory)


def test_rows_that_are_not_served() -> None:
    x = draw(1, 60, 8, 8, dtype="float32")
    wide = ConvGeometry.of(x.shape, (4, 60, 3, 3))
    assert table()["mec_forward"](x, draw(3, 180, 4, dtype="float32"), wide) is NotImplemented
    assert table()["mec_grad_weight"](x, draw(1, 4, 6, 6, dtype="float32"), wide) is NotImplemented
    half = ConvGeometry.of((1, 2, 8, 8), (4, 2, 3, 3))
    x = draw(1, 2, 8, 8, dtype="float16")
    assert table()["mec_forward"](x, draw(3, 6, 4, dtype="float16"), half) is NotImplemented


@pytest.mark.parametrize("case", TILED, ids=str)
@pytest.mark.parametrize("m", [2, 4])
def test_winograd(case: tuple[Any, ...], m: int, dtype: str) -> None:
    x_shape, padding = case
    geometry = ConvGeometry.of(x_shape, (5, x_shape[1], 3, 3), 1, padding)
    n, k, oh, ow = geometry.output_shape
    tiling = winograd.Tiling(m, -(-oh // m), -(-ow // m))
    below, beside = tiling.overhang((oh, ow))
    top, bottom, left, right = geometry.padding
    frame = (top, bottom + below, left, right + beside)
    forth, back, kernel_forth = (
        np.array(matrix, np.float64)
        for matrix in (
            winograd.TRANSFORMS[m].input,
            winograd.TRANSFORMS[m].output,
            winograd.TRANSFORMS[m].kernel,
        )
    )
    products = draw(tiling.t**2, n * tiling.rows * tiling.columns, k, seed=1)
    x, dy, taps = draw(*x_shape), draw(n, k, oh, ow, seed=2), draw(9, 4, 3, seed=3)
    calls: dict[str, tuple[Array, ...]] = {
        "winograd_input": (x, forth, frame, tiling),
        "winograd_output": (products, back, geometry.output_shape, tiling),
        "winograd_output_gradient": (dy, back, tiling),
        "winograd_kernel": (taps, kernel_forth),
        "winograd_taps_gradient": (draw(tiling.t**2, 4, 3, seed=4), kernel_forth),
    }
    for name, (first, matrix, *rest) in calls.items():
        expected = getattr(winograd, name).portable(first, matrix, *rest)
        memories = every_memory(first.astype(dtype)) if first.ndim == 4 else [first.astype(dtype)]
        for memory in memories:
            with unchanged(memory):
                got = table()[name](memory, matrix.astype(dtype), *rest)
            assert got.dtype == dtype, name
            assert near(got, expected), name
            if name == "winograd_output":
                assert is_channels_last(got)


@pytest.mark.parametrize("frame", [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 0, 0), (0, 0, 0, 2)])
def test_frames(frame: tuple[int, int, int, int]) -> None:
    x = draw(2, 3, 4, 5)
    top, bottom, left, right = frame
    expected = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    for values in (x, x[:, ::-1, ::-1][:, ::-1, ::-1], np.asfortranarray(x)):
        found = framed(values, frame)
        assert np.array_equal(found, expected)
        assert found.flags.c_contiguous
