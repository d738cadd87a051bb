"""The kernels of ``pool.cu`` against the portable functions they replace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.support.cuda import LAYOUTS, Array, Target, draw, is_channels_last, kernels_started, plain
from xpcnn.backend.cuda import launch, pool
from xpcnn.ops.avg_pool import avg_pool_scatter, avg_pool_windows
from xpcnn.ops.max_pool import PoolGeometry, max_pool_scatter, max_pool_windows

PORTABLE = {
    f.__name__: f.portable  # type: ignore[attr-defined]
    for f in (max_pool_windows, max_pool_scatter, avg_pool_windows, avg_pool_scatter)
}


class Case(NamedTuple):
    """One pooling."""

    shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    ceil_mode: bool = False

    @property
    def windows(self) -> tuple[Any, Any, Any]:
        return self.kernel, self.stride, self.padding

    @property
    def output_size(self) -> Any:
        return PoolGeometry(self.shape, *self.windows, self.ceil_mode).output_shape[2:]

    def draw_dy(self) -> Array:
        return draw(*self.shape[:2], *self.output_size, seed=1)


CASES = {
    "2x2": Case((2, 3, 4, 6), (2, 2), (2, 2)),
    "stride does not divide": Case((2, 3, 6, 8), (2, 3), (3, 2)),
    "ceil": Case((2, 3, 5, 7), (2, 2), (2, 2), ceil_mode=True),
    "ceil, past the padding": Case((1, 2, 5, 6), (4, 3), (3, 2), (2, 1), ceil_mode=True),
    "ceil, stride beyond the kernel": Case((1, 2, 6, 7), (2, 2), (4, 4), ceil_mode=True),
    "overlapping, padded": Case((2, 3, 6, 7), (3, 3), (2, 2), (1, 1)),
    "overlapping much": Case((2, 2, 6, 7), (4, 5), (1, 1), (2, 2)),
    "gaps between windows": Case((2, 2, 7, 8), (2, 1), (3, 3)),
    "1x1": Case((2, 3, 3, 4), (1, 1), (1, 1)),
    "1x1, strided": Case((2, 3, 5, 4), (1, 1), (2, 3)),
    "window is the input": Case((2, 3, 4, 5), (4, 5), (4, 5)),
    "one image, one channel": Case((1, 1, 4, 5), (2, 2), (1, 2), (1, 0)),
    "vectors": Case((2, 16, 5, 6), (3, 2), (2, 2), (1, 1)),
    "no image": Case((0, 3, 4, 4), (2, 2), (2, 2)),
}

CONTENTS: dict[str, Callable[[Array], Array]] = {
    "numbers": lambda x: x,
    "ties": np.round,
    "constant": lambda x: np.full_like(x, -2.0),
    "negative infinity": lambda x: np.full_like(x, -np.inf),
    "infinities and NaN": lambda x: np.where(x > 1, np.inf, np.where(x < -1, np.nan, x)),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_content = pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
both_orders = pytest.mark.parametrize("layout", [plain, LAYOUTS["channels-last"]], ids=["NCHW", "NHWC"])
both_divisors = pytest.mark.parametrize("include_pad", [True, False], ids=["with pad", "without pad"])


@both_orders
@every_content
@every_case
def test_max(target: Target, case: Case, content: Any, layout: Any) -> None:
    """Values are taken, never computed: they agree to the bit."""
    x = layout(target, content(draw(*case.shape)))
    y = target.kernel("max_pool_windows")(x, *case.windows, case.output_size)
    expected = PORTABLE["max_pool_windows"](target.wide(x), *case.windows, case.output_size)
    np.testing.assert_array_equal(target.wide(y), expected)
    assert is_channels_last(y)
    dy = layout(target, case.draw_dy())
    dx = target.kernel("max_pool_scatter")(dy, x, y, *case.windows)
    values = (target.wide(array) for array in (dy, x, y))
    target.check(dx, PORTABLE["max_pool_scatter"](*values, *case.windows))
    assert is_channels_last(dx)


@both_orders
@both_divisors
@every_case
def test_avg(target: Target, case: Case, include_pad: bool, layout: Any) -> None:
    x = layout(target, draw(*case.shape))
    y = target.kernel("avg_pool_windows")(x, *case.windows, case.output_size, include_pad)
    portable = PORTABLE["avg_pool_windows"]
    target.check(y, portable(target.wide(x), *case.windows, case.output_size, include_pad))
    assert is_channels_last(y)
    dy = layout(target, case.draw_dy())
    dx = target.kernel("avg_pool_scatter")(dy, case.shape[2:], *case.windows, include_pad)
    portable = PORTABLE["avg_pool_scatter"]
    target.check(dx, portable(target.wide(dy), case.shape[2:], *case.windows, include_pad))
    assert is_channels_last(dx)


@every_layout
@pytest.mark.parametrize("name", ["overlapping, padded", "vectors"])
def test_any_layout(target: Target, layout: Callable[..., Any], name: str) -> None:
    case = CASES[name]
    x, dy = layout(target, draw(*case.shape)), layout(target, case.draw_dy())
    wide_x, wide_dy = target.wide(x), target.wide(dy)
    windows, size = case.windows, case.output_size
    y = target.kernel("max_pool_windows")(x, *windows, size)
    wide_y = PORTABLE["max_pool_windows"](wide_x, *windows, size)
    target.check(y, wide_y)
    if layout is not LAYOUTS["broadcast"]:
        y = layout(target, wide_y)
    dx = target.kernel("max_pool_scatter")(dy, x, y, *windows)
    target.check(dx, PORTABLE["max_pool_scatter"](wide_dy, wide_x, wide_y, *windows))
    y = target.kernel("avg_pool_windows")(x, *windows, size, True)
    target.check(y, PORTABLE["avg_pool_windows"](wide_x, *windows, size, True))
    dx = target.kernel("avg_pool_scatter")(dy, case.shape[2:], *windows, True)
    target.check(dx, PORTABLE["avg_pool_scatter"](wide_dy, case.shape[2:], *windows, True))


def test_more_than_32_bits_of_work_items(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels that count in 64 bits, on sizes that do not need them."""
    monkeypatch.setattr(launch, "MOST_32BIT", 0)
    case = CASES["overlapping, padded"]
    test_max(target, case, CONTENTS["ties"], plain)
    test_avg(target, case, True, plain)


def test_channels_last_goes_by_vectors(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    started = kernels_started(monkeypatch, pool)
    case, layout = CASES["vectors"], LAYOUTS["channels-last"]
    test_max(target, case, CONTENTS["ties"], layout)
    test_avg(target, case, True, layout)
    width = 16 // target.array([0.0]).dtype.itemsize
    assert len(started) == 4
    assert all(f", {width}, unsigned>" in kernel for kernel in started)


def test_integers_are_left_to_the_portable_function(target: Target) -> None:
    x = target.array(np.ones((1, 2, 4, 4)), "int64")
    windows = ((2, 2), (2, 2), (0, 0))
    y = x[:, :, :2, :2]
    assert target.kernel("max_pool_windows")(x, *windows, (2, 2)) is NotImplemented
    assert target.kernel("max_pool_scatter")(y, x, y, *windows) is NotImplemented
    assert target.kernel("avg_pool_windows")(x, *windows, (2, 2), True) is NotImplemented
    assert target.kernel("avg_pool_scatter")(y, (4, 4), *windows, True) is NotImplemented
