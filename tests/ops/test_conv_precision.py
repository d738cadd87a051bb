"""How far float32 results may be from float64 loops, with as many channels as real networks have."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from tests.support.conv_cases import Case, Reference, reference
from xpcnn import ops
from xpcnn.ops.conv import ConvGeometry
from xpcnn.ops.conv.algorithms import winograd

DIRECT = ("im2col", "as_strided", "kn2row", "mec", "fft", "native")
# Sums of 9·256 products, and 9·512. Tiles of 4 and of 2 pixels for Winograd.
TILE_4 = Case((1, 256, 8, 8), (6, 256, 3, 3), padding=1, pads=(1, 1, 1, 1))
TILE_2 = Case((1, 512, 6, 6), (6, 512, 3, 3), padding=1, pads=(1, 1, 1, 1))
STRIDED = Case((1, 256, 9, 9), (6, 256, 5, 5), stride=2, padding=2, pads=(2, 2, 2, 2))


@functools.cache
def wide(case: Case, dtype: str) -> Reference:
    return reference(case, dtype)


def check_all(make: Any, case: Case, algorithm: str, dtype: str, bound: float) -> None:
    r = wide(case, dtype)
    x, w, b, dy = (make.array(a) for a in (r.x, r.w, r.b, r.dy))
    y, ctx = ops.conv2d(x, w, b, **case.options, algorithm=algorithm)
    dx, dw, _ = ops.conv2d.backward(ctx, dy)
    for got, expected in ((y, r.y), (dx, r.dx), (dw, r.dw)):
        make.check(got, expected, dtype, rtol=bound)


@pytest.mark.parametrize("case", [TILE_4, STRIDED], ids=["3x3", "5x5 stride 2"])
@pytest.mark.parametrize("algorithm", DIRECT)
def test_direct_algorithms(make: Any, dtype: str, algorithm: str, case: Case) -> None:
    if algorithm == "native" and make.backend != "torch":
        return  # refused, which test_conv2d tests
    check_all(make, case, algorithm, dtype, {"float32": 1e-5, "float64": 1e-11}[dtype])


@pytest.mark.parametrize(("case", "tile", "bound"), [(TILE_4, 4, 5e-5), (TILE_2, 2, 1e-5)], ids=["F4", "F2"])
def test_winograd(make: Any, dtype: str, case: Case, tile: int, bound: float) -> None:
    geometry = ConvGeometry.of(case.x, case.w, padding=case.padding)
    assert winograd.Tiling.of(geometry).m == tile
    check_all(make, case, "winograd", dtype, bound if dtype == "float32" else 1e-11)


@pytest.mark.parametrize("m", [2, 4])
def test_winograd_transforms_are_exact(m: int) -> None:
    """Y = Aᵀ[(G g Gᵀ) ∘ (Bᵀ d B)]A is the correlation of a tile, in exact arithmetic on small integers."""
    transform = winograd.TRANSFORMS[m]
    b_t, g, a_t = (np.array(matrix, dtype=np.float64) for matrix in transform)
    rng = np.random.default_rng(0)
    tile, kernel = rng.integers(-9, 10, (m + 2, m + 2)), rng.integers(-9, 10, (3, 3))
    y = a_t @ ((g @ kernel @ g.T) * (b_t @ tile @ b_t.T)) @ a_t.T
    expected = [[int((tile[i : i + 3, j : j + 3] * kernel).sum()) for j in range(m)] for i in range(m)]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-9)
