"""conv2d and its backward: every algorithm on every backend against the loops of `oracles`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import xpcnn
from tests.support import oracles
from tests.support.conv_cases import CASES, Case, Reference, reference
from tests.support.ops import LAYOUTS, draw, is_channels_last, mentions, pair
from xpcnn import errors, ops

FAST = ("im2col", "as_strided", "kn2row", "mec", "winograd", "fft", "native", "auto")
ALGORITHMS = (*FAST, "loop")  # the loops are too slow for larger sizes

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def refused(make: Any, algorithm: str, case: Case) -> bool:
    """Whether the algorithm cannot do this; then it must say so, with a way out."""
    square = case.w[2:] == (3, 3) and pair(case.stride) == pair(case.dilation) == (1, 1)
    if not (algorithm == "winograd" and not square) and not (
        algorithm == "native" and make.backend != "torch"
    ):
        return False
    r = reference(case)
    with pytest.raises(errors.AlgorithmError, match=mentions("conv2d", algorithm, "auto")):
        ops.conv2d(make.array(r.x), make.array(r.w), **case.options, algorithm=algorithm)
    return True


def inputs(make: Any, r: Reference) -> tuple[Any, Any, Any, Any]:
    """(x, weight, bias, dy) of a reference as arrays of the backend."""
    return make.array(r.x), make.array(r.w), None if r.b is None else make.array(r.b), make.array(r.dy)


@every_case
@every_algorithm
def test_matches_the_loops(make: Any, dtype: str, algorithm: str, case: Case) -> None:
    if refused(make, algorithm, case):
        return
    r = reference(case, dtype)
    x, w, b, dy = inputs(make, r)
    with make.unchanged(x, w, b):
        y, ctx = ops.conv2d(x, w, b, **case.options, algorithm=algorithm)
    with make.unchanged(x, w, dy, ctx):
        dx, dw, db = ops.conv2d.backward(ctx, dy)
    make.check(y, r.y, dtype)
    make.check(dx, r.dx, dtype)
    make.check(dw, r.dw, dtype)
    if r.db is None:
        assert db is None
    else:
        make.check(db, r.db, dtype)


@pytest.mark.parametrize("textbook", [False, True], ids=["", "reference"])
@every_algorithm
def test_images_without_channels(make: Any, algorithm: str, textbook: bool) -> None:
    """Sums of nothing: the bias alone. PyTorch's own convolution gives images without channels."""
    case = Case((2, 0, 5, 6), (4, 0, 3, 3), padding=1, pads=(1, 1, 1, 1))
    r = reference(case)
    x, w, b, dy = inputs(make, r)
    with xpcnn.reference("auto") if textbook else nullcontext():
        if algorithm == "native":
            with pytest.raises(errors.AlgorithmError, match=mentions("conv2d", "native", "im2col")):
                ops.conv2d(x, w, b, padding=1, algorithm=algorithm)
            return
        y, ctx = ops.conv2d(x, w, b, padding=1, algorithm=algorithm)
        dx, dw, db = ops.conv2d.backward(ctx, dy)
    make.check(y, r.b[:, None, None] + np.zeros((2, 4, 5, 6)), "float64")
    make.check_kind(dx, case.x, "float64")
    make.check_kind(dw, case.w, "float64")
    make.check(db, r.db, "float64")


BILINEAR = (
    "stride does not divide",
    "1x1 stride 2",
    "unequal pairs",
    "padded 3x3",
    "dilated, padded, strided",
    "same, even and dilated",
    "groups, strided, dilated",
    "depthwise",
    "more padding than rows",
    "stride beyond the kernel",
)


@pytest.mark.parametrize("name", BILINEAR)
@every_algorithm
def test_is_bilinear(make: Any, algorithm: str, name: str) -> None:
    """⟨dy, conv(x, w)⟩ = ⟨dx, x⟩ = ⟨dw, w⟩: one number, no step size, no oracle."""
    case = CASES[name]
    if refused(make, algorithm, case):
        return
    r = reference(case)
    x, w, _, dy = inputs(make, r)
    y, ctx = ops.conv2d(x, w, **case.options, algorithm=algorithm)
    dx, dw, _ = ops.conv2d.backward(ctx, dy)
    y, dx, dw = (make.to_numpy(a) for a in (y, dx, dw))
    number = np.vdot(r.dy, y)
    size = np.abs(r.dy * y).sum()
    assert abs(np.vdot(dx, r.x) - number) <= 1e-13 * size
    assert abs(np.vdot(dw, r.w) - number) <= 1e-13 * size


@every_algorithm
def test_skipped_gradients(make: Any, algorithm: str) -> None:
    case = CASES["padded 3x3"]
    if refused(make, algorithm, case):
        return
    r = reference(case)
    x, w, b, dy = inputs(make, r)
    _, ctx = ops.conv2d(x, w, b, **case.options, algorithm=algorithm)
    dx, dw, db = ops.conv2d.backward(ctx, dy, need_dx=False)
    assert dx is None
    make.check(dw, r.dw, "float64")
    make.check(db, r.db, "float64")
    dx, dw, db = ops.conv2d.backward(ctx, dy, need_dweight=False)
    make.check(dx, r.dx, "float64")
    assert dw is None
    assert db is None
    assert ops.conv2d.backward(ctx, dy, need_dx=False, need_dweight=False) == (None, None, None)


@every_algorithm
def test_backward_twice_is_the_same(make: Any, algorithm: str) -> None:
    """Backward leaves everything it needs in place, to the bit."""
    case = CASES["padded 3x3"]
    if refused(make, algorithm, case):
        return
    x, w, b, dy = inputs(make, reference(case, "float32"))
    _, ctx = ops.conv2d(x, w, b, **case.options, algorithm=algorithm)
    first, second = (make.snapshot(ops.conv2d.backward(ctx, dy)) for _ in range(2))
    np.testing.assert_equal(second, first)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("name", ["padded 3x3", "1x1", "unequal pairs", "groups", "kernel is the input"])
@every_algorithm
def test_any_memory_layout(make: Any, algorithm: str, name: str, layout: Any) -> None:
    case = CASES[name]
    if refused(make, algorithm, case):
        return
    r = reference(case)
    x, w, dy = (layout(make, a) for a in (r.x, r.w, r.dy))
    host = [make.to_numpy(a) for a in (x, w, dy)]
    with make.unchanged(x, w, dy):
        y, ctx = ops.conv2d(x, w, **case.options, algorithm=algorithm)
        dx, dw, _ = ops.conv2d.backward(ctx, dy)
    expected_dx, expected_dw, _ = oracles.conv2d_gradients(*host, **case.oracle_options)
    make.check(y, oracles.conv2d(*host[:2], **case.oracle_options), "float64")
    make.check(dx, expected_dx, "float64")
    make.check(dw, expected_dw, "float64")


@pytest.mark.parametrize(
    "name", ["padded 3x3", "1x1", "strided and padded", "groups", "depthwise", "one channel"]
)
@every_algorithm
def test_output_is_channels_last(algorithm: str, name: str) -> None:
    """An NCHW view over NHWC memory: what the next convolution reads contiguously, without a copy."""
    case = CASES[name]
    if algorithm == "native" or (algorithm == "winograd" and name not in ("padded 3x3", "groups")):
        return  # refused on NumPy, as tested above
    r = reference(case)
    y, _ = ops.conv2d(r.x, r.w, r.b, **case.options, algorithm=algorithm)
    assert is_channels_last(y)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("algorithm", FAST)
def test_larger_sizes_against_torch(make: Any, dtype: str, algorithm: str, stride: int) -> None:
    torch = pytest.importorskip("torch")
    case = Case((5, 16, 15, 13), (24, 16, 3, 3), stride, padding=(1, 2), pads=(1, 1, 2, 2))
    if refused(make, algorithm, case):
        return
    host = [draw(*shape, dtype=dtype) for shape in (case.x, case.w, (24,))]
    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in host]
    y = torch.nn.functional.conv2d(*leaves, stride=stride, padding=(1, 2))
    dy = draw(*y.shape, dtype=dtype)
    y.backward(torch.tensor(dy, dtype=torch.float64))
    x, w, b, dy = (make.array(a) for a in (*host, dy))
    got, ctx = ops.conv2d(x, w, b, stride=stride, padding=(1, 2), algorithm=algorithm)
    make.check(got, y.detach().numpy(), dtype)
    for gradient, expected in zip(ops.conv2d.backward(ctx, dy), leaves, strict=True):
        make.check(gradient, expected.grad.numpy(), dtype)


# Choosing the algorithm -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["loop", "im2col", "as_strided", "kn2row", "mec", "fft"])
def test_conv_algorithm_overrides_auto(make: Any, name: str) -> None:
    case = CASES["strided and padded"]
    x, w, b, dy = inputs(make, reference(case, "float32"))
    y, ctx = ops.conv2d(x, w, b, **case.options, algorithm=name)
    explicit = make.snapshot((y, ops.conv2d.backward(ctx, dy)))
    with xpcnn.conv_algorithm(name):
        y, ctx = ops.conv2d(x, w, b, **case.options)
        overridden = make.snapshot((y, ops.conv2d.backward(ctx, dy)))
    np.testing.assert_equal(overridden, explicit)


def test_explicit_choice_beats_conv_algorithm() -> None:
    """An explicit choice is never replaced; "loop" and "im2col" differ in their last bits here."""
    x, w = draw(2, 16, 6, 6, dtype="float32"), draw(8, 16, 3, 3, dtype="float32")
    im2col, _ = ops.conv2d(x, w, algorithm="im2col")
    loop, _ = ops.conv2d(x, w, algorithm="loop")
    assert not np.array_equal(loop, im2col)
    with xpcnn.conv_algorithm("loop"):
        y, _ = ops.conv2d(x, w, algorithm="im2col")
    np.testing.assert_array_equal(y, im2col)


def test_conv_algorithm_ends_with_its_block() -> None:
    x, w = draw(2, 16, 6, 6, dtype="float32"), draw(8, 16, 3, 3, dtype="float32")
    before, _ = ops.conv2d(x, w)
    with pytest.raises(ZeroDivisionError), xpcnn.conv_algorithm("loop"):
        raise ZeroDivisionError
    after, _ = ops.conv2d(x, w)
    np.testing.assert_array_equal(after, before)


# Random geometries ------------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
kernels = st.tuples(st.integers(1, 4), st.integers(1, 4))
strides = st.tuples(st.integers(1, 4), st.integers(1, 4))
paddings = st.tuples(st.integers(0, 3), st.integers(0, 3))
dilations = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(size=sizes, kernel=kernels, stride=strides, padding=paddings, dilation=dilations)
@settings(max_examples=200)
def test_output_size_or_error(size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> None:
    """The size is the formula's, and an error comes exactly where that would leave nothing."""
    expected = tuple(
        (n + 2 * p - (d * (k - 1) + 1)) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    x, w = np.zeros((1, 1, *size)), np.zeros((1, 1, *kernel))
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    if min(expected) < 1:
        with pytest.raises(errors.ShapeError, match="conv2d"):
            ops.conv2d(x, w, **options)
    else:
        y, ctx = ops.conv2d(x, w, **options)
        assert y.shape == (1, 1, *expected)
        dx, dw, _ = ops.conv2d.backward(ctx, y)
        assert (dx.shape, dw.shape) == (x.shape, w.shape)


@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kernel=kernels,
    stride=strides,
    padding=paddings,
    dilation=dilations,
    batch=st.integers(0, 2),
    groups=st.integers(1, 2),
    channels=st.integers(1, 2),
    outputs=st.integers(1, 2),
    algorithm=st.sampled_from(["im2col", "as_strided", "kn2row", "mec", "fft", "winograd"]),
)
@settings(max_examples=150)
def test_random_geometry_matches_the_loops(
    size: Any,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    batch: int,
    groups: int,
    channels: int,
    outputs: int,
    algorithm: str,
) -> None:
    pads = (padding[0], padding[0], padding[1], padding[1])
    case = Case(
        (batch, channels * groups, *size),
        (outputs * groups, channels, *kernel),
        stride,
        padding,
        pads,
        dilation,
        groups,
    )
    fits = [
        oracles.output_size(size[i], kernel[i], stride[i], padding[i], padding[i], dilation[i]) > 0
        for i in range(2)
    ]
    assume(all(fits))
    if algorithm == "winograd":
        assume(kernel == (3, 3) and stride == dilation == (1, 1))
    r = reference(case)
    y, ctx = ops.conv2d(r.x, r.w, r.b, **case.options, algorithm=algorithm)
    for got, expected in zip((y, *ops.conv2d.backward(ctx, r.dy)), (r.y, r.dx, r.dw, r.db), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


@given(
    size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    padding=paddings,
    batch=st.integers(0, 3),
    channels=st.integers(1, 4),
    outputs=st.integers(1, 4),
)
@settings(max_examples=100)
def test_winograd_of_any_size(size: Any, padding: Any, batch: int, channels: int, outputs: int) -> None:
    """Both tile sizes, tiles beyond the edges of the output, and frames wider than the kernel reaches."""
    assume(min(n + 2 * p for n, p in zip(size, padding, strict=True)) >= 3)
    pads = (padding[0], padding[0], padding[1], padding[1])
    r = reference(Case((batch, channels, *size), (outputs, channels, 3, 3), padding=padding, pads=pads))
    y, ctx = ops.conv2d(r.x, r.w, r.b, padding=padding, algorithm="winograd")
    for got, expected in zip((y, *ops.conv2d.backward(ctx, r.dy)), (r.y, r.dx, r.dw, r.db), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


def test_pairs_and_ints_mean_the_same(make: Any) -> None:
    x, w = make.array(draw(2, 2, 7, 7)), make.array(draw(3, 2, 2, 2))
    from_ints, _ = ops.conv2d(x, w, stride=2, padding=1, dilation=2)
    from_pairs, _ = ops.conv2d(x, w, stride=pair(2), padding=pair(1), dilation=pair(2))
    np.testing.assert_array_equal(make.to_numpy(from_pairs), make.to_numpy(from_ints))
