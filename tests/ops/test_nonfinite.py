"""NaN and infinity come out where the definition has them, whatever algorithm is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.native import needs_kernels, use_version
from xpcnn import backend_of, ops
from xpcnn.ops import fused
from xpcnn.ops.conv import ConvGeometry
from xpcnn.ops.conv.algorithm import PASSES
from xpcnn.ops.conv.executor import plan_for

Array = np.ndarray[Any, Any]

CASES: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "tiles of 4": ((3, 32, 17, 18), (32, 32, 3, 3), {"padding": 1}, "winograd"),
    "tiles of 2": ((20, 64, 6, 6), (72, 64, 3, 3), {"padding": 0}, "winograd"),
    "5x5": ((2, 64, 20, 19), (64, 64, 5, 5), {"padding": 2}, "fft"),
    "two groups": ((2, 128, 16, 17), (128, 64, 5, 5), {"padding": (1, 2), "groups": 2}, "fft"),
}


def passes(x: Array, w: Array, dy: Array, options: dict[str, Any], algorithm: str) -> list[Array]:
    y, ctx = ops.conv2d(x, w, algorithm=algorithm, **options)
    dx, dweight, _ = ops.conv2d.backward(ctx, dy)
    assert dx is not None
    assert dweight is not None
    return [y, dx, dweight]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("which", ["x", "dy"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", ["0", pytest.param("", marks=needs_kernels)], ids=["alone", "compiled"])
def test_only_what_sees_it(
    case: str, which: str, bad: float, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_shape, w_shape, options, algorithm = CASES[case]
    use_version(monkeypatch, version)
    algorithm = "native" if version == "" else algorithm
    geometry = ConvGeometry.of(x_shape, w_shape, **options)
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape, dtype="f") for shape in (x_shape, w_shape))
    y = ops.conv2d(x, w, **options)[0]
    dy = rng.standard_normal(y.shape, dtype="f")
    chosen = {plan_for(name, geometry, "float32", backend_of(x), "auto").algorithm.name for name in PASSES}
    assert algorithm in chosen
    n, channel, i, j = (size // 2 for size in (x if which == "x" else dy).shape)
    if which == "x" and np.isnan(bad):  # at the border, where not every tap meets it
        i = j = 0
    (x if which == "x" else dy)[n, channel, i, j] = bad

    # What sees the bad pixel, by the definition on one channel of zeros and ones.
    one = {"padding": options["padding"]}
    mark_x, mark_dy = np.zeros((1, 1, *x.shape[2:])), np.ones((1, 1, *y.shape[2:]))
    if which == "x":
        mark_x[0, 0, i, j] = 1
    else:
        mark_x[:] = 1
        mark_dy[:] = 0
        mark_dy[0, 0, i, j] = 1
    seen_y, seen_dx, seen_dw = (
        mark[0, 0] > 0 for mark in passes(mark_x, np.ones((1, 1, *w.shape[2:])), mark_dy, one, "loop")
    )
    groups = options.get("groups", 1)
    k, c = geometry.k // groups, geometry.c // groups
    bad_y, bad_dx, bad_dw = (np.zeros(shape, bool) for shape in (y.shape, x.shape, w.shape))
    if which == "x":
        group = channel // c
        bad_y[n, group * k : (group + 1) * k] = seen_y
        bad_dw[group * k : (group + 1) * k, channel % c] = seen_dw
    else:
        group = channel // k
        bad_dx[n, group * c : (group + 1) * c] = seen_dx
        bad_dw[channel] = seen_dw
    results = passes(x, w, dy, options, "auto" if bad > 0 else algorithm)
    expected = passes(x, w, dy, options, "im2col")
    for result, mark, right in zip(results, (bad_y, bad_dx, bad_dw), expected, strict=True):
        np.testing.assert_array_equal(~np.isfinite(result), mark)
        np.testing.assert_allclose(result[~mark], right[~mark], atol=2e-2, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_infinity_before_relu_and_pooling() -> None:
    """−inf where a tile has spread +inf would become 0, and no one would see it."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((4, 32, 12, 12), dtype="f"), rng.standard_normal((32, 32, 3, 3), dtype="f")
    x[1, 5, 6, 7] = np.inf
    bias = np.zeros(32, "f")
    found = fused.conv2d_relu_max_pool2d(x, w, bias, 2, padding=1)
    right = fused.conv2d_relu_max_pool2d(x, w, bias, 2, padding=1, algorithm="im2col")
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(right))
    finite = np.isfinite(right)
    np.testing.assert_allclose(found[finite], right[finite], atol=1e-3)
