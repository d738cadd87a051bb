"""conv2d and its backward: every algorithm on every backend against the loops of `oracles`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xpcnn
from tests.support import oracles
from tests.support.conv_cases import (
    ALGORITHMS,
    CASES,
    Case,
    Reference,
    arrays,
    check_passes,
    reference,
    supports,
)
from tests.support.ops import LAYOUTS, is_channels_last, mentions
from xpcnn import errors, ops
from xpcnn.ops.conv import ConvGeometry
from xpcnn.ops.conv.algorithm import PASSES
from xpcnn.ops.conv.algorithms import winograd
from xpcnn.ops.conv.executor import plan_for

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def each(*names: str) -> Any:
    """Every algorithm with each of these cases that it can do."""
    pairs = [(a, name) for a in ALGORITHMS for name in names or CASES if supports(a, CASES[name])]
    return pytest.mark.parametrize(("algorithm", "name"), pairs)


def passes(make: Any, r: Reference, case: Case, algorithm: str) -> tuple[Any, ...]:
    """(y, dx, dweight, dbias); what is given stays as it is."""
    x, w, b, dy = arrays(make, r)
    with make.unchanged(x, w, b):
        y, ctx = ops.conv2d(x, w, b, **case.options, algorithm=algorithm)
    with make.unchanged(x, w, dy, ctx):
        return y, *ops.conv2d.backward(ctx, dy)


@each()
def test_matches_the_loops(make: Any, dtype: str, algorithm: str, name: str) -> None:
    r = reference(CASES[name], dtype)
    check_passes(make, passes(make, r, CASES[name], algorithm), r, dtype)


@pytest.mark.parametrize(
    ("algorithm", "name", "told"),
    [
        ("winograd", "strided and padded", "needs stride 1, got (2, 2)"),
        ("winograd", "1x1", "needs a 3x3 kernel, got 1x1"),
        ("winograd", "more padding than rows", "needs a padding of at most 2, got (4, 4, 1, 1)"),
        ("cudnn", "padded 3x3", "runs on CuPy arrays alone, and the arrays are on"),
    ],
)
def test_what_cannot_be_done_is_refused(algorithm: str, name: str, told: str) -> None:
    r = reference(CASES[name])
    with pytest.raises(errors.AlgorithmError, match=mentions("conv2d", algorithm, told, "auto")) as caught:
        ops.conv2d(r.x, r.w, **CASES[name].options, algorithm=algorithm)
    assert "\n" not in str(caught.value)


@every_algorithm
def test_images_without_channels(make: Any, algorithm: str) -> None:
    """Sums of nothing: the bias alone."""
    case = Case((2, 0, 5, 6), (4, 0, 3, 3), padding=1, pads=(1, 1, 1, 1))
    r = reference(case)
    y, dx, dw, db = passes(make, r, case, algorithm)
    assert r.b is not None
    make.check(y, r.b[:, None, None] + np.zeros((2, 4, 5, 6)), "float64")
    make.check_kind(dx, case.x, "float64")
    make.check_kind(dw, case.w, "float64")
    make.check(db, r.db, "float64")


@pytest.mark.parametrize("layout", LAYOUTS)
@each("padded 3x3", "strided and padded", "groups")
def test_any_memory_layout(make: Any, algorithm: str, name: str, layout: str) -> None:
    case = CASES[name]
    r = reference(case)
    x, w, dy = (LAYOUTS[layout](make, a) for a in (r.x, r.w, r.dy))
    host = [make.to_numpy(a) for a in (x, w, dy)]
    with make.unchanged(x, w, dy):
        y, ctx = ops.conv2d(x, w, **case.options, algorithm=algorithm)
        dx, dw, _ = ops.conv2d.backward(ctx, dy)
    expected_dx, expected_dw, _ = oracles.conv2d_gradients(*host, **case.oracle_options)
    make.check(y, oracles.conv2d(*host[:2], **case.oracle_options), "float64")
    make.check(dx, expected_dx, "float64")
    make.check(dw, expected_dw, "float64")


@each("padded 3x3", "1x1", "strided and padded", "groups", "depthwise", "one channel")
def test_output_is_channels_last(algorithm: str, name: str) -> None:
    """An NCHW view over NHWC memory: what the next convolution reads contiguously, without a copy."""
    r = reference(CASES[name])
    y, _ = ops.conv2d(r.x, r.w, r.b, **CASES[name].options, algorithm=algorithm)
    assert is_channels_last(y)


WIDE = {
    # Sums of 9·256 products, and 9·512. Tiles of 4 and of 2 pixels for Winograd.
    4: Case((1, 256, 8, 8), (3, 256, 3, 3), padding=1, pads=(1, 1, 1, 1)),
    2: Case((1, 512, 6, 6), (3, 512, 3, 3), padding=1, pads=(1, 1, 1, 1)),
    0: Case((1, 256, 9, 9), (3, 256, 5, 5), stride=2, padding=2, pads=(2, 2, 2, 2)),
}
PRECISE = [(name, m) for m in (4, 0) for name in ("im2col", "as_strided", "kn2row", "mec", "fft", "auto")]


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "m"), [*PRECISE, ("winograd", 4), ("winograd", 2)])
def test_as_many_channels_as_real_networks_have(make: Any, dtype: str, algorithm: str, m: int) -> None:
    if algorithm == "winograd":
        assert winograd.Tiling.of(*WIDE[m].x[2:]).m == m
    bound = 5e-5 if (dtype, m) == ("float32", 4) and algorithm in ("winograd", "auto") else None
    r = reference(WIDE[m], dtype)
    check_passes(make, passes(make, r, WIDE[m], algorithm), r, dtype, bound)


@pytest.mark.parametrize("m", [2, 4])
def test_winograd_transforms_are_exact(m: int) -> None:
    """Y = Aᵀ[(G g Gᵀ) ∘ (Bᵀ d B)]A is the correlation of a tile, in exact arithmetic on small integers."""
    b_t, g, a_t = (np.array(matrix, dtype=np.float64) for matrix in winograd.TRANSFORMS[m])
    rng = np.random.default_rng(0)
    tile, kernel = rng.integers(-9, 10, (m + 2, m + 2)), rng.integers(-9, 10, (3, 3))
    y = a_t @ ((g @ kernel @ g.T) * (b_t @ tile @ b_t.T)) @ a_t.T
    expected = [[int((tile[i : i + 3, j : j + 3] * kernel).sum()) for j in range(m)] for i in range(m)]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-9)


# Choosing the algorithm -------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["loop", "mec"])
def test_conv_algorithm_overrides_auto(make: Any, algorithm: str) -> None:
    """Inside of its block alone; an explicit choice is never replaced."""
    r = reference(CASES["strided and padded"], "float32")
    x, w, b, dy = arrays(make, r)

    def run(**options: Any) -> Any:
        y, ctx = ops.conv2d(x, w, b, stride=2, padding=1, **options)
        return make.snapshot((y, ops.conv2d.backward(ctx, dy))), ctx.algorithm

    auto, explicit, im2col = run(), run(algorithm=algorithm), run(algorithm="im2col")
    with xpcnn.conv_algorithm(algorithm):
        np.testing.assert_equal((run()[0], run(algorithm="im2col")), (explicit[0], im2col))
    with pytest.raises(ZeroDivisionError), xpcnn.conv_algorithm(algorithm):
        raise ZeroDivisionError
    np.testing.assert_equal(run(), auto)
    assert (explicit[1], im2col[1], auto[1]) == (algorithm, "im2col", "auto")


RULE: dict[str, tuple[Any, Any, dict[str, Any], tuple[str, str, str]]] = {
    "VGG 3x3": ((32, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}, ("winograd", "winograd", "winograd")),
    "32 channels": ((100, 32, 14, 14), (32, 32, 3, 3), {"padding": 1}, ("winograd", "winograd", "winograd")),
    "one small image": ((1, 512, 4, 4), (512, 512, 3, 3), {"padding": 1}, ("im2col", "im2col", "mec")),
    "large kernel": ((32, 64, 28, 28), (64, 64, 5, 5), {"padding": 2}, ("fft", "fft", "fft")),
    "7x7": ((8, 16, 56, 56), (16, 16, 7, 7), {"padding": 3}, ("mec", "mec", "mec")),
    "dilated": ((32, 64, 28, 28), (64, 64, 3, 3), {"dilation": 2}, ("kn2row", "kn2row", "mec")),
    "strided": ((32, 64, 32, 32), (128, 64, 3, 3), {"stride": 2}, ("kn2row", "kn2row", "im2col")),
    "16 channels": ((100, 16, 28, 28), (16, 16, 3, 3), {"padding": 1}, ("mec", "mec", "mec")),
    "16 to 64": ((100, 16, 28, 28), (64, 16, 3, 3), {"padding": 1}, ("mec", "kn2row", "mec")),
    "one channel": ((100, 1, 28, 28), (30, 1, 5, 5), {}, ("im2col", "im2col", "im2col")),
    "three channels": ((8, 3, 32, 32), (64, 3, 7, 7), {"stride": 2}, ("mec", "mec", "mec")),
    "three channels, 11x11": ((8, 3, 227, 227), (96, 3, 11, 11), {"stride": 4}, ("im2col", "mec", "im2col")),
    "1x1": ((32, 256, 56, 56), (64, 256, 1, 1), {}, ("kn2row", "kn2row", "im2col")),
    "short rows": ((100, 32, 5, 5), (32, 32, 3, 3), {"padding": 1}, ("im2col", "im2col", "mec")),
    "depthwise": ((32, 64, 56, 56), (64, 1, 3, 3), {"groups": 64}, ("kn2row", "kn2row", "kn2row")),
}


def chosen(backend: Any, x: Any, w: Any, options: dict[str, Any]) -> tuple[str, ...]:
    geometry = ConvGeometry.of(x, w, **options)
    return tuple(plan_for(name, geometry, "float32", backend, "auto").algorithm.name for name in PASSES)


@pytest.mark.parametrize("name", RULE)
def test_rule(make: Any, name: str, numpy_alone: None) -> None:
    """That of the docs on NumPy alone; elsewhere the library's own convolution, or one large product."""
    x, w, options, expected = RULE[name]
    geometry = ConvGeometry.of(x, w, **options)
    with make.use() as backend:
        if backend.name != "numpy":
            convolutions = backend.convolutions.items()
            own = [name for name, one in convolutions if one.unsupported(geometry, "float32") is None]
            expected = (next(iter(own), "im2col"),) * 3
            assert ("native" in own) == (backend.name == "torch")
        assert chosen(backend, x, w, options) == expected


def test_the_workspace_limit_comes_first(numpy_alone: None) -> None:
    """Too little for the preferred algorithm, enough for the next."""
    xpcnn.set_workspace_limit(700_000)
    with xpcnn.use_backend("numpy") as backend:
        assert chosen(backend, *RULE["VGG 3x3"][:3])[0] == "kn2row"


# Random geometries ------------------------------------------------------------------------------------


def sizes(most: int, least: int = 1) -> Any:
    return st.tuples(st.integers(least, most), st.integers(least, most))


@pytest.mark.fuzz
@given(
    size=sizes(9),
    kernel=sizes(4) | st.just((3, 3)),
    stride=sizes(4) | st.just((1, 1)),
    padding=sizes(3, 0),
    dilation=sizes(3) | st.just((1, 1)),
    channels=st.integers(1, 3),
    outputs=st.integers(1, 3),
    groups=st.integers(1, 2),
    algorithm=st.sampled_from([name for name in ALGORITHMS if name != "loop"]),
)
@settings(max_examples=200)
def test_random_geometry(
    size: Any,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    channels: int,
    outputs: int,
    groups: int,
    algorithm: str,
) -> None:
    """The loops' answer, or an error exactly where nothing would be left."""
    (top, left), x = padding, (1, channels * groups, *size)
    w = (outputs * groups, channels, *kernel)
    case = Case(x, w, stride, padding, (top, top, left, left), dilation, groups)
    axes = zip(size, kernel, stride, padding, dilation, strict=True)
    if min(oracles.output_size(n, k, s, p, p, d) for n, k, s, p, d in axes) < 1:
        with pytest.raises(errors.ShapeError, match="conv2d"):
            ops.conv2d(np.zeros(x), np.zeros(w), **case.options)
        return
    algorithm = algorithm if supports(algorithm, case) else "im2col"
    r = reference(case)
    y, ctx = ops.conv2d(r.x, r.w, r.b, **case.options, algorithm=algorithm)
    for got, expected in zip((y, *ops.conv2d.backward(ctx, r.dy)), (r.y, r.dx, r.dw, r.db), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)
