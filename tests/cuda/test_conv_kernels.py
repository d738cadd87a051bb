"""The kernels of ``conv.cu`` against the portable functions they replace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.support.cuda import LAYOUTS, Array, Target, draw, is_channels_last, kernels_started, plain
from xpcnn.backend.cuda import conv, launch
from xpcnn.ops.conv._layout import add_bias, add_bias_relu
from xpcnn.ops.conv.algorithms.im2col import fold, unfold
from xpcnn.ops.conv.columns import fold_classical, unfold_classical

PORTABLE = {f.__name__: f.portable for f in (unfold, unfold_classical, fold, fold_classical)}


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
    "1x1": Case((3, 5, 4, 4), (1, 1)),
    "1x1, strided": Case((2, 5, 5, 4), (1, 1), stride=(2, 3)),
    "kernel as large as the input": Case((2, 3, 4, 5), (4, 5)),
    "one image, one channel": Case((1, 1, 5, 6), (2, 3)),
    "padding on one side": Case((2, 3, 5, 4), (3, 3), stride=(2, 1), padding=(2, 0, 0, 1)),
    "dilated": Case((2, 3, 9, 8), (3, 2), stride=(2, 1), padding=(1, 2, 1, 0), dilation=(2, 3)),
    "patches over the padding alone": Case((1, 2, 2, 3), (2, 2), stride=(2, 2), padding=(4, 3, 3, 3)),
    "pixels no patch holds": Case((1, 2, 7, 7), (1, 2), stride=(3, 4)),
    "vectors": Case((2, 16, 5, 6), (3, 2), stride=(2, 1), padding=(1, 1, 0, 1)),
    "vectors, dilated": Case((2, 8, 7, 6), (2, 2), dilation=(3, 2)),
    "no image": Case((0, 3, 5, 5), (3, 3)),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
both_orders = pytest.mark.parametrize("order", ["", "_classical"], ids=["taps first", "channels first"])


def columns_of(case: Case) -> Array:
    """Values for the columns of a case."""
    pixels, size = np.shape(unfold.portable(np.zeros(case.shape), *case[1:]))
    return draw(pixels, size)


@both_orders
@pytest.mark.parametrize("layout", [plain, LAYOUTS["channels-last"]], ids=["NCHW", "NHWC"])
@every_case
def test_unfold(target: Target, case: Case, layout: Any, order: str) -> None:
    x = layout(target, draw(*case.shape))
    columns = target.kernel("unfold" + order)(x, *case[1:])
    target.check(columns, PORTABLE["unfold" + order](target.wide(x), *case[1:]))
    assert columns.flags.c_contiguous


@both_orders
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("case", [CASES["dilated"], CASES["vectors"]], ids=["dilated", "vectors"])
def test_unfold_any_layout(target: Target, layout: Callable[..., Any], case: Case, order: str) -> None:
    x = layout(target, draw(*case.shape))
    columns = target.kernel("unfold" + order)(x, *case[1:])
    target.check(columns, PORTABLE["unfold" + order](target.wide(x), *case[1:]))


@both_orders
@every_case
def test_fold(target: Target, case: Case, order: str) -> None:
    columns = target.array(columns_of(case))
    x = target.kernel("fold" + order)(columns, *case)
    target.check(x, PORTABLE["fold" + order](target.wide(columns), *case))
    assert is_channels_last(x)


@both_orders
def test_fold_any_strides(target: Target, order: str) -> None:
    case = CASES["vectors"]
    values = columns_of(case)
    expected = PORTABLE["fold" + order](target.wide(target.array(values)), *case)
    transposed = target.array(np.ascontiguousarray(values.T)).T
    gaps = target.array(np.repeat(values, 2, axis=1))[:, ::2]
    for columns in (transposed, gaps):
        target.check(target.kernel("fold" + order)(columns, *case), expected)


@both_orders
def test_fold_is_the_adjoint_of_unfold(target: Target, order: str) -> None:
    """⟨unfold x, columns⟩ = ⟨x, fold columns⟩, whatever the portable functions say."""
    case = CASES["dilated"]
    x, columns = target.array(draw(*case.shape)), target.array(columns_of(case))
    left = target.wide(target.kernel("unfold" + order)(x, *case[1:])) * target.wide(columns)
    right = target.wide(x) * target.wide(target.kernel("fold" + order)(columns, *case))
    tolerance = {"float64": 1e-13, "float32": 1e-5, "float16": 3e-3, "bfloat16": 3e-2}[target.dtype]
    assert abs(left.sum() - right.sum()) <= tolerance * np.abs(left).sum()


# Bias ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels-last", "channels-first"])
@pytest.mark.parametrize("shape", [(2, 16, 3, 4), (3, 5, 2, 3), (1, 1, 1, 1), (0, 4, 2, 2)], ids=str)
def test_add_bias(target: Target, shape: Any, channels_last: bool, relu: bool) -> None:
    n, k, h, w = shape
    memory = target.array(draw(n, h, w, k) if channels_last else draw(*shape))
    y = memory.transpose(0, 3, 1, 2) if channels_last else memory
    bias = target.array(draw(k, seed=1))
    primitive = add_bias_relu if relu else add_bias
    expected = primitive.portable(target.wide(y).copy(), target.wide(bias))  # type: ignore[attr-defined]
    assert target.kernel(primitive.__name__)(y, bias) is y
    target.check(y, expected)


def test_relu_passes_nan_on(target: Target) -> None:
    y = target.array([[[[np.nan, -np.inf, np.inf, -1.0]]]])
    target.kernel("add_bias_relu")(y, target.array([0.0]))
    target.check(y, [[[[np.nan, 0.0, np.inf, 0.0]]]])


def test_add_bias_leaves_other_layouts_to_the_portable_function(target: Target) -> None:
    y, bias = target.array(draw(2, 4, 6, 6)), target.array(draw(4))
    other = target.array(draw(4), "float32" if target.dtype == "float64" else "float64")
    assert target.kernel("add_bias")(y[:, :, ::2], bias) is NotImplemented
    assert target.kernel("add_bias")(y, other) is NotImplemented
    assert target.kernel("add_bias")(y, target.array(draw(8))[::2]) is NotImplemented


# Which kernel -------------------------------------------------------------------------------------------


def test_more_than_32_bits_of_work_items(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels that count in 64 bits, on sizes that do not need them."""
    monkeypatch.setattr(launch, "MOST_32BIT", 0)
    case = CASES["dilated"]
    x, columns = target.array(draw(*case.shape)), target.array(columns_of(case))
    for order in ("", "_classical"):
        name = "unfold" + order
        target.check(target.kernel(name)(x, *case[1:]), PORTABLE[name](target.wide(x), *case[1:]))
        name = "fold" + order
        target.check(target.kernel(name)(columns, *case), PORTABLE[name](target.wide(columns), *case))
    expected = target.wide(x) + target.wide(target.array([1.0, 2.0, 3.0]))[:, None, None]
    target.check(target.kernel("add_bias")(x, target.array([1.0, 2.0, 3.0])), expected)


def test_channels_last_goes_by_vectors(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    started = kernels_started(monkeypatch, conv)
    case, layout = CASES["vectors"], LAYOUTS["channels-last"]
    test_unfold(target, case, layout, "")
    test_fold(target, case, "")
    test_add_bias(target, case.shape, True, True)
    width = 16 // target.array([0.0]).dtype.itemsize
    assert len(started) == 3
    assert all(f", {width}, " in kernel for kernel in started)


def test_integers_are_left_to_the_portable_function(target: Target) -> None:
    x = target.array(np.ones((1, 2, 3, 3)), "int64")
    for order in ("", "_classical"):
        assert target.kernel("unfold" + order)(x, *CASES["same"][1:]) is NotImplemented
        columns = target.array(np.ones((4, math.prod((2, 2, 2)))), "int64")
        assert (
            target.kernel("fold" + order)(columns, (1, 2, 3, 3), (2, 2), *CASES["1x1"][2:]) is NotImplemented
        )
    assert target.kernel("add_bias")(x, target.array(np.ones(2), "int64")) is NotImplemented
