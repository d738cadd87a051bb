"""What convolutions are made of, by every kernel: patches, biases, rows of images, Winograd's transforms."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.support.implementations import Implementation
from tests.support.ops import ALL_LAYOUTS, Array, channels_last, draw, is_channels_last
from xpcnn.backend.cpu.layout import framed, last
from xpcnn.backend.cpu.native.sizes import place_for
from xpcnn.ops.conv import executor
from xpcnn.ops.conv.algorithms import im2col, mec, winograd
from xpcnn.ops.conv.columns import fold_classical, unfold_classical
from xpcnn.ops.conv.geometry import ConvGeometry

every_layout = pytest.mark.parametrize("layout", ALL_LAYOUTS.values(), ids=ALL_LAYOUTS.keys())


class Case(NamedTuple):
    """One unfolding."""

    shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)


CASES = {
    "same": Case((2, 3, 6, 5), (3, 3), padding=(1, 1, 1, 1)),
    "stride does not divide": Case((2, 3, 7, 8), (3, 2), stride=(3, 2)),
    "1x1, strided": Case((2, 5, 5, 4), (1, 1), stride=(2, 3)),
    "kernel as large as the input": Case((2, 3, 4, 5), (4, 5)),
    "one image, one channel": Case((1, 1, 5, 6), (2, 3)),
    "dilated": Case((2, 3, 9, 8), (3, 2), stride=(2, 1), padding=(1, 2, 1, 0), dilation=(2, 3)),
    "patches over the padding alone": Case((1, 2, 2, 3), (2, 2), stride=(2, 2), padding=(4, 3, 3, 3)),
    "pixels no patch holds": Case((1, 2, 7, 7), (1, 2), stride=(3, 4)),
    "vectors": Case((2, 16, 5, 6), (3, 2), stride=(2, 1), padding=(1, 1, 0, 1)),
    "no image": Case((0, 3, 5, 5), (3, 3)),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
ORDERS = {"taps first": (im2col.unfold, im2col.fold), "channels first": (unfold_classical, fold_classical)}
both_orders = pytest.mark.parametrize(("unfold", "fold"), ORDERS.values(), ids=ORDERS.keys())


def columns_of(case: Case) -> Array:
    return draw(*im2col.unfold.portable(np.zeros(case.shape), *case[1:]).shape)


@both_orders
@every_case
def test_patches(kernels: Implementation, case: Case, unfold: Any, fold: Any) -> None:
    i, x, columns = kernels, channels_last(kernels, draw(*case.shape)), kernels.array(columns_of(case))
    with i.unchanged(x, columns):
        got, folded = unfold(x, *case[1:]), fold(columns, *case)
    i.check(got, unfold.portable(i.values(x), *case[1:]))
    i.check(folded, fold.portable(i.values(columns), *case))
    i.ran(unfold.__name__, cpu=unfold is im2col.unfold)
    i.ran(fold.__name__, cpu=False)
    assert not i.is_cuda or (got.flags.c_contiguous and is_channels_last(folded))
    # ⟨unfold x, columns⟩ = ⟨x, fold columns⟩, whatever the definitions say.
    left, right = i.values(got) * i.values(columns), i.values(x) * i.values(folded)
    allowed = {"float64": 1e-13, "float32": 1e-5, "float16": 3e-3, "bfloat16": 3e-2}[i.dtype_name]
    assert abs(left.sum() - right.sum()) <= allowed * np.abs(left).sum()


@both_orders
@every_layout
@pytest.mark.parametrize("name", ["dilated", "vectors"])
def test_patches_of_any_layout(
    kernels: Implementation, name: str, layout: Any, unfold: Any, fold: Any
) -> None:
    i, case = kernels, CASES[name]
    x, values = layout(i, draw(*case.shape)), columns_of(case)
    i.check(unfold(x, *case[1:]), unfold.portable(i.values(x), *case[1:]))
    expected = fold.portable(i.values(i.array(values)), *case)
    for columns in (i.array(np.ascontiguousarray(values.T)).T, i.array(np.repeat(values, 2, axis=1))[:, ::2]):
        i.check(fold(columns, *case), expected)


# Biases -----------------------------------------------------------------------------------------------

LARGE = (3, 30, 41, 40)  # several blocks, and a rest


@pytest.mark.parametrize("name", ["add_bias", "add_bias_relu"])
@pytest.mark.parametrize("layout", ["channels-last", "channels-first", "gaps"])
@pytest.mark.parametrize(
    "shape", [(2, 16, 3, 4), (1, 1, 1, 1), (1, 4000, 1, 2), (0, 4, 2, 2), LARGE], ids=str
)
def test_biases_are_added_in_place(kernels: Implementation, name: str, layout: str, shape: Any) -> None:
    """NaN and infinities among them; other layouts are left to the definition."""
    i, primitive = kernels, getattr(executor, name)
    values, bias = draw(*shape), i.array(draw(shape[1], seed=1))
    values.reshape(-1)[: values.size - values.size % 4 : 7] = np.nan
    values.reshape(-1)[1 : values.size - values.size % 4 : 9] = -np.inf
    values = i.array(values)
    exact = i.values if i.is_cuda else np.array  # NumPy's kernels give the bits of the definition
    expected = primitive.portable(exact(values), exact(bias))
    y = np.array(values)
    if layout == "channels-last":
        y = np.ascontiguousarray(y.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    elif layout == "gaps":
        y = np.repeat(np.repeat(y, 2, axis=1), 2, axis=3)[:, ::2, :, ::2]
    y = y if i.kind != "cupy" else type(bias)(y)
    got = primitive(y, bias)
    i.check(got, expected, rtol=None if i.is_cuda else 0)
    is_last = y.size > 0 and is_channels_last(y)
    i.ran(name, cpu=is_last, compiled=is_last, cuda=is_last or y.size == 0 or bool(y.flags.c_contiguous))
    if name in i.served:
        assert got is y


# NumPy's rows of images and Winograd's transforms -------------------------------------------------------

# x, weight, stride, padding, dilation
ROWS = [
    ((2, 3, 7, 8), (5, 3, 3, 3), 1, 1, 1),
    ((1, 1, 1, 1), (1, 1, 1, 1), 1, 0, 1),
    ((1, 1, 9, 8), (3, 1, 2, 3), 1, 1, 1),
    ((2, 16, 30, 29), (8, 16, 3, 3), 1, (0, 2), 1),
    ((2, 4, 9, 11), (3, 4, 3, 2), (2, 3), (2, 1), (2, 1)),
    ((3, 40, 6, 6), (7, 40, 2, 4), 1, "same", 1),
    ((0, 3, 6, 6), (4, 3, 3, 3), 1, 1, 1),
    ((1, 53, 4, 60), (2, 53, 3, 3), 1, 1, 1),
]
TILED = [((2, 3, 8, 8), 1), ((1, 5, 9, 7), (0, 2)), ((2, 4, 3, 3), 0), ((1, 1, 6, 3), 0), ((0, 3, 8, 8), 1)]


def near(i: Implementation, got: Array, expected: Array) -> None:
    rtol = 200 * float(np.finfo(i.dtype_name).eps)
    i.check(got, expected, rtol=rtol, scale=float(np.abs(expected).max(initial=1.0)))


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_rows(cpu: Implementation, case: tuple[Any, ...]) -> None:
    i, (x_shape, weight_shape, *sizes) = cpu, case
    geometry = ConvGeometry.of(x_shape, weight_shape, *sizes)
    k, c, kh, kw = weight_shape
    filters = i.array(draw(kh, kw * c, k, seed=1))
    for layout in (channels_last, ALL_LAYOUTS["sliced"], ALL_LAYOUTS["flipped"]):
        x, dy = layout(i, draw(*x_shape)), layout(i, draw(*geometry.output_shape, seed=2))
        with i.unchanged(x, dy, filters):
            y, gradient = mec.mec_forward(x, filters, geometry), mec.mec_grad_weight(x, dy, geometry)
        wide_x = i.values(x)
        expected = mec.mec_forward.portable(wide_x, i.values(filters), geometry)
        near(i, y, expected)
        near(i, gradient, mec.mec_grad_weight.portable(wide_x, i.values(dy), geometry))
    i.ran("mec_forward", "mec_grad_weight")


def test_wide_rows_are_left_to_the_definition(cpu: Implementation) -> None:
    x, filters, dy = (cpu.array(draw(*shape)) for shape in ((1, 60, 8, 8), (3, 180, 4), (1, 4, 6, 6)))
    geometry = ConvGeometry.of(x.shape, (4, 60, 3, 3))
    mec.mec_forward(x, filters, geometry)
    mec.mec_grad_weight(x, dy, geometry)
    cpu.ran("mec_forward", "mec_grad_weight", cpu=False)


@pytest.mark.parametrize("case", TILED, ids=str)
@pytest.mark.parametrize("m", [2, 4])
def test_winograd(cpu: Implementation, case: tuple[Any, ...], m: int) -> None:
    i, (x_shape, padding) = cpu, case
    geometry = ConvGeometry.of(x_shape, (5, x_shape[1], 3, 3), 1, padding)
    n, k, oh, ow = geometry.output_shape
    tiling = winograd.Tiling(m, -(-oh // m), -(-ow // m))
    below, beside = tiling.overhang((oh, ow))
    top, bottom, left, right = geometry.padding
    transforms = winograd.TRANSFORMS[m]
    forth, back = (np.array(t, float) for t in (transforms.input, transforms.output))
    products = draw(tiling.t**2, n * tiling.rows * tiling.columns, k, seed=1)
    calls: dict[str, tuple[Any, ...]] = {
        "winograd_input": (draw(*x_shape), forth, (top, bottom + below, left, right + beside), tiling),
        "winograd_output": (products, back, geometry.output_shape, tiling),
        "winograd_output_gradient": (draw(n, k, oh, ow, seed=2), back, tiling),
    }
    for name, (first, matrix, *rest) in calls.items():
        primitive, layouts = getattr(winograd, name), [lambda i, x: i.array(x)]
        if first.ndim == 4:
            layouts += [channels_last, ALL_LAYOUTS["sliced"], ALL_LAYOUTS["flipped"]]
        expected = primitive.portable(i.values(i.array(first)), i.values(i.array(matrix)), *rest)
        for layout in layouts:
            x = layout(i, first)
            with i.unchanged(x):
                near(i, primitive(x, i.array(matrix), *rest), expected)
    i.ran(*calls)


@pytest.mark.parametrize("frame", [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 0, 0), (0, 0, 0, 2)])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (3, 40, 30, 16)], ids=["small", "large"])
def test_frames(frame: tuple[int, int, int, int], size: tuple[int, ...]) -> None:
    x = draw(*size)
    top, bottom, left, right = frame
    expected = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    for values in (x, x[:, ::-1, ::-1][:, ::-1, ::-1], np.asfortranarray(x)):
        found = framed(values, frame)
        assert np.array_equal(found, expected)
        assert found.flags.c_contiguous


def test_places() -> None:
    """A result is written to a place of its shape and dtype, in one piece, that may be written to."""
    shape = (2, 3, 4, 5)
    larger = np.empty((4, 4, 5, 3)).transpose(0, 3, 1, 2)
    read_only = np.empty((2, 4, 5, 3)).transpose(0, 3, 1, 2)
    read_only.flags.writeable = False
    gaps, narrow = np.empty((2, 4, 5, 4)).transpose(0, 3, 1, 2)[:, 1:], larger[1:-1].astype("float32")
    for place in (larger[1:-1], larger[:1], larger[:2].transpose(0, 1, 3, 2), gaps, narrow, read_only):
        images, memory = place_for(shape, np.dtype("float64"), place)
        assert (images is place) == (place.base is larger.base and place.shape == shape)
        assert images.shape == shape
        assert np.shares_memory(images, memory)
        assert memory.flags.c_contiguous
        np.testing.assert_array_equal(last(images), memory)
