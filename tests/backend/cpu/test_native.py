"""The compiled kernels, in every version that this machine can run, against sums over taps in float64."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.conv_cases import CASES, Case
from tests.support.native import forget, needs_kernels, use_version
from tests.support.ops import pair, scratch
from xpcnn import ops
from xpcnn.backend.cpu import native
from xpcnn.backend.cpu.native import library
from xpcnn.backend.cpu.native.convolution import CompiledConvolution, plan_of
from xpcnn.errors import AlgorithmError, BackendError
from xpcnn.ops import activation, max_pool, norm
from xpcnn.ops.conv import ConvGeometry
from xpcnn.ops.conv.executor import Epilogue, plan_for

ROUNDING = {"float32": 2e-5, "float64": 1e-12}
TRANSFORMED = {
    "winograd": Case((2, 32, 9, 7), (32, 32, 3, 3), padding=1, pads=(1, 1, 1, 1)),
    "winograd, few tiles": Case((1, 64, 4, 4), (64, 64, 3, 3), padding=1, pads=(1, 1, 1, 1)),
    "winograd, padded by two": Case((3, 64, 5, 6), (32, 64, 3, 3), padding=2, pads=(2, 2, 2, 2)),
}
TILES = {f"{name}, F({m}x{m})": m for name in TRANSFORMED for m in (2, 4)}
"""Cases for which Winograd's transform is taken, however few tiles they have, and the tile."""

WIDE = {
    **{name: TRANSFORMED[name.rpartition(", F")[0]] for name in TILES},
    "a tail of channels": Case((2, 16, 8, 6), (37, 16, 3, 3), padding=1, pads=(1, 1, 1, 1)),
    "strided": Case((2, 20, 9, 11), (33, 20, 3, 3), stride=2, padding=1, pads=(1, 1, 1, 1)),
    "strided 1x1": Case((2, 16, 7, 8), (64, 16, 1, 1), stride=2),
    "strips of rows": Case((1, 16, 70, 60), (8, 16, 3, 3), padding=1, pads=(1, 1, 1, 1)),
    "several small images": Case((40, 6, 3, 4), (9, 6, 3, 3), padding=1, pads=(1, 1, 1, 1)),
    "depthwise": Case((2, 37, 8, 9), (37, 1, 3, 3), stride=2, padding=1, pads=(1, 1, 1, 1), groups=37),
    "depthwise 5x5": Case((1, 16, 9, 9), (16, 1, 5, 5), padding=2, pads=(2, 2, 2, 2), groups=16),
    "wide groups": Case((2, 24, 6, 6), (60, 12, 3, 3), padding=1, pads=(1, 1, 1, 1), groups=2),
    "stem": Case((2, 3, 20, 18), (40, 3, 7, 7), stride=2, padding=3, pads=(3, 3, 3, 3)),
}


@pytest.fixture(autouse=True)
def _transform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the transform that a case is named after."""
    named = getattr(request.node, "callspec", None)
    tile = TILES.get(named.params.get("name")) if named else None
    if tile:
        monkeypatch.setattr(native.convolution, "winograd_tile", lambda sizes, kernels: tile)
    native.convolution._plans.clear()
    yield
    native.convolution._plans.clear()
    xpcnn.set_workspace_limit(None)


def of_all_versions() -> list[Any]:
    """Those of this architecture; only the one that is loaded is among the quick tests."""
    return [
        pytest.param(v, marks=[] if v == library.version() else pytest.mark.slow) for v in library._known()
    ]


@pytest.fixture(params=of_all_versions())
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    use_version(monkeypatch, request.param)
    yield request.param
    forget()


def draw(shape: tuple[int, ...], seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def by_taps(x: Any, w: Any, dy: Any, case: Case) -> tuple[Any, Any, Any]:
    """y, dx and dweight in float64: for each tap, a product over the channels of each group."""
    x, w, dy = (array.astype("float64") for array in (x, w, dy))
    (sh, sw), (dh, dw), (top, bottom, left, right) = pair(case.stride), pair(case.dilation), case.pads
    (height, width), (k, ins, kh, kw), groups = x.shape[2:], w.shape, case.groups
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    dpadded, dweight, y = np.zeros_like(padded), np.zeros_like(w), np.zeros_like(dy)
    oh, ow = dy.shape[2:]
    for g in range(groups):
        inputs, outputs = slice(g * ins, (g + 1) * ins), slice(g * k // groups, (g + 1) * k // groups)
        for r in range(kh):
            for s in range(kw):
                rows = slice(r * dh, r * dh + sh * (oh - 1) + 1, sh)
                columns = slice(s * dw, s * dw + sw * (ow - 1) + 1, sw)
                seen = (slice(None), inputs, rows, columns)
                tap = w[outputs, :, r, s]
                y[:, outputs] += np.einsum("nchw,kc->nkhw", padded[seen], tap)
                dpadded[seen] += np.einsum("nkhw,kc->nchw", dy[:, outputs], tap)
                dweight[outputs, :, r, s] = np.einsum("nchw,nkhw->kc", padded[seen], dy[:, outputs])
    return y, dpadded[:, :, top : top + height, left : left + width], dweight


def geometry(case: Case) -> ConvGeometry:
    return ConvGeometry.of(case.x, case.w, **case.options)


def first(x: Any) -> Any:
    return np.ascontiguousarray(x)


def last(x: Any) -> Any:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def part_of_a_larger(x: Any) -> Any:
    """Every other row of a larger channels-last array, with NaN around."""
    n, c, h, w = x.shape
    memory = np.full((n, 2 * h + 1, w + 3, c + 5), np.nan, x.dtype)
    view = memory[:, 1::2, 2:-1, 3:-2].transpose(0, 3, 1, 2)
    view[...] = x
    return view


def flipped(x: Any) -> Any:
    return last(x[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]


def field(x: Any) -> Any:
    """A field of packed records: its strides are no multiples of a number."""
    records = np.zeros(x.shape, np.dtype([("flag", "i1"), ("x", x.dtype)]))
    records["x"] = x
    return records["x"]


def unaligned(x: Any) -> Any:
    memory = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    memory[...] = x
    return memory


LAYOUTS: dict[str, Any] = {"first": first, "last": last, "part of a larger": part_of_a_larger}
LAYOUTS |= {"flipped": flipped, "field": field}
EVERY_CASE = [
    (name, layout) for name in {**CASES, **WIDE} for layout in (LAYOUTS if name in WIDE else ["last"])
]


def is_close(found: Any, expected: Any, dtype: str, rounding: float = 1.0) -> None:
    assert found.dtype == np.dtype(dtype)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    found, expected = np.nan_to_num(found), np.nan_to_num(expected)
    error = np.abs(found - expected).max(initial=0.0)
    assert error <= rounding * ROUNDING[dtype] * max(np.abs(expected).max(initial=0.0), 1e-9)


@pytest.mark.parametrize(("name", "layout"), EVERY_CASE)
def test_convolution(version: str, dtype: str, name: str, layout: str) -> None:
    case, compiled = {**CASES, **WIDE}[name], CompiledConvolution()
    g, order = geometry(case), LAYOUTS[layout]
    x, w = draw(case.x, 1).astype(dtype), draw(case.w, 2).astype(dtype)
    bias, dy = draw(case.w[:1], 3).astype(dtype), draw(g.output_shape, 4).astype(dtype)
    assert compiled.unsupported(g, dtype) is None
    assert plan_of(g, dtype).m == TILES.get(name)
    rounding = 5.0 if TILES.get(name) == 4 else 1.0  # the larger tiles lose up to a digit
    y, dx, dweight = by_taps(x, w, dy, case)
    y += bias.reshape(1, -1, 1, 1)
    x, dy = order(x), order(dy)
    for relu in (False, True):
        epilogue = Epilogue(None, bias, None, relu)  # type: ignore[arg-type]
        is_close(
            compiled.forward_epilogue(x, w, g, epilogue), np.maximum(y, 0) if relu else y, dtype, rounding
        )
    is_close(compiled.forward(x, w, g), y - bias.reshape(1, -1, 1, 1), dtype, rounding)
    is_close(compiled.grad_input(dy, w, g), dx, dtype, rounding)
    is_close(compiled.grad_weight(x, dy, g), dweight, dtype, rounding)


@pytest.mark.parametrize("name", ["winograd, F(2x2)", "winograd, F(4x4)", "stem", "depthwise"])
@pytest.mark.parametrize("bytes_at_once", [1, 20_000, 1 << 20])
@pytest.mark.parametrize("odd", [1.0, np.nan])
def test_a_pooling_behind_it_gives_the_same_bits(
    version: str, name: str, bytes_at_once: int, odd: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native.convolution, "POOLED_BYTES", bytes_at_once)
    case, compiled = WIDE[name], CompiledConvolution()
    case = case._replace(x=(11, *case.x[1:]))
    g = geometry(case)
    x, w, bias = (draw(shape, 5).astype("float32") for shape in (case.x, case.w, case.w[:1]))
    x[3, 0, 1, 2] = odd
    pooling = max_pool.PoolGeometry.of("test", g.output_shape, 3, 2, 1, False)
    epilogue = Epilogue(None, bias, None, True)  # type: ignore[arg-type]
    pooled = compiled.forward_epilogue(x, w, g, epilogue._replace(pooling=pooling))
    y = compiled.forward_epilogue(x, w, g, epilogue)
    if odd == 1:
        np.testing.assert_array_equal(pooled, max_pool.max_pool_windows.portable(y, pooling))
    else:
        is_close(pooled, max_pool.max_pool_windows.portable(y, pooling), "float32", 5.0)


@pytest.mark.parametrize("name", ["winograd, F(2x2)", "winograd, F(4x4)", "strided", "depthwise"])
def test_the_bits_do_not_depend_on_threads(version: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.sizes, "WORTH_A_PART", 1000)
    native.convolution._plans.clear()
    case, compiled = WIDE[name], CompiledConvolution()
    case = case._replace(x=(11, *case.x[1:]))
    g = geometry(case)
    x, w, dy = (draw(shape, 5).astype("float32") for shape in (case.x, case.w, g.output_shape))
    found = []
    for threads in (1, 2, 4):
        with xpcnn.backend.threads.use_num_threads(threads):
            found.append(
                [compiled.forward(x, w, g), compiled.grad_input(dy, w, g), compiled.grad_weight(x, dy, g)]
            )
    assert plan_of(g, "float32").sizes.parts > 1
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "name", ["winograd, F(2x2)", "winograd, F(4x4)", "strided", "depthwise", "wide groups", "stem"]
)
def test_scratch_memory_is_what_is_stated(name: str, threads: int, dtype: str) -> None:
    case, compiled = WIDE[name], CompiledConvolution()
    g = geometry(case._replace(x=(30, case.x[1], 40, 36)))
    x, w, dy = (draw(shape, 5).astype(dtype) for shape in (g.input_shape, g.weight_shape, g.output_shape))
    x, dy = last(x), last(dy)
    stated = compiled.workspace_bytes(g, dtype)
    with xpcnn.backend.threads.use_num_threads(threads):
        for run in (
            lambda: compiled.forward(x, w, g),
            lambda: compiled.grad_input(dy, w, g),
            lambda: compiled.grad_weight(x, dy, g),
        ):
            run()
            result, peak = scratch(run)
            assert peak - result.nbytes <= 1.1 * stated + 8192


@needs_kernels
@pytest.mark.parametrize("limit", [1 << 20, 1 << 19])
def test_a_workspace_limit_cuts_the_work(limit: int) -> None:
    x, w, dy = (draw(s, 6).astype("f") for s in ((40, 32, 28, 28), (32, 32, 3, 3), (40, 32, 28, 28)))
    y, ctx = ops.conv2d(x, w, padding=1, algorithm="native")
    whole = [y, *ops.conv2d.backward(ctx, dy)[:2]]
    xpcnn.set_workspace_limit(limit)
    y, ctx = ops.conv2d(x, w, padding=1, algorithm="native")
    (dx, dw, _), peak = scratch(lambda: ops.conv2d.backward(ctx, dy))
    assert peak - dx.nbytes - dw.nbytes <= 1.1 * limit
    for found, expected in zip([y, dx, dw], whole, strict=True):
        is_close(found, expected, "float32", 5.0)


@pytest.mark.parametrize("name", ["winograd, F(2x2)", "winograd, F(4x4)", "strided", "depthwise"])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_nan_and_infinity_stay_where_they_belong(version: str, name: str, odd: float) -> None:
    case, compiled = WIDE[name], CompiledConvolution()
    g = geometry(case)
    x, w, dy = (draw(shape, 6).astype("float32") for shape in (case.x, case.w, g.output_shape))
    x[0, 1, 2, 3] = dy[-1, 1, -1, -1] = odd
    with np.errstate(invalid="ignore"):
        expected = by_taps(x, w, dy, case)
    found = compiled.forward(x, w, g), compiled.grad_input(dy, w, g), compiled.grad_weight(x, dy, g)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.isfinite(one), np.isfinite(other))


# -- primitives ----------------------------------------------------------------------------

SHAPES = [(3, 37, 6, 5), (2, 1, 4, 4), (2, 64, 3, 3), (1, 7, 1, 1)]


@pytest.fixture
def compiled(version: str) -> dict[str, Any]:
    return native.table()


def same(found: Any, expected: Any, dtype: str) -> None:
    assert found is not NotImplemented
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=ROUNDING[dtype] * np.abs(expected).max(initial=1)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_activations(compiled: dict[str, Any], dtype: str, shape: tuple[int, ...]) -> None:
    x, dy = last(draw(shape, 7).astype(dtype)), last(draw(shape, 8).astype(dtype))
    x.reshape(-1)[0] = np.nan
    x[0, 0, 0, 0] = np.nan
    bias = draw(shape[1:2], 9).astype(dtype)
    for name in ("relu_array", "add"):
        primitive, arguments = getattr(activation, name), (x,) if name == "relu_array" else (x, dy)
        np.testing.assert_array_equal(compiled[name](*arguments), primitive.portable(*arguments))
    np.testing.assert_array_equal(compiled["relu_grad"](dy, x), activation.relu_grad.portable(dy, x))
    for name, relu in (("add_bias", False), ("add_bias_relu", True)):
        y = x.copy(order="K") + bias.reshape(1, -1, 1, 1)
        np.testing.assert_array_equal(
            compiled[name](x.copy(order="K"), bias), np.maximum(y, 0) if relu else y
        )


@pytest.mark.parametrize("shape", [(3, 37, 6, 7), (2, 64, 8, 8), (1, 3, 5, 5)])
@pytest.mark.parametrize("options", [{}, {"stride": 1, "padding": 1}, {"stride": 3, "ceil_mode": True}])
def test_max_pool(compiled: dict[str, Any], dtype: str, shape: Any, options: dict[str, Any]) -> None:
    options = {"stride": None, "padding": 0, "ceil_mode": False, **options}
    g = max_pool.PoolGeometry.of("max_pool2d", shape, 2, *options.values())
    x = np.round(draw(shape, 10)).astype(dtype)  # with ties
    x[0, 0, 1, 1], x[0, 1, 2, 2] = np.nan, np.inf
    y = compiled["max_pool_windows"](x, g)
    np.testing.assert_array_equal(y, max_pool.max_pool_windows.portable(x, g))
    dy = draw(y.shape, 11).astype(dtype)
    same(compiled["max_pool_scatter"](dy, x, y, g), max_pool.max_pool_scatter.portable(dy, x, y, g), dtype)


@pytest.mark.parametrize("shape", [(100, 10), (1, 1), (3, 1000)])
@pytest.mark.parametrize("size", [1.0, 50.0, 1e30])
def test_softmax_cross_entropy(compiled: dict[str, Any], dtype: str, shape: Any, size: float) -> None:
    x, target = (draw(shape, 17) * size).astype(dtype), np.abs(draw(shape, 18)).astype(dtype)
    target[::2] = 0
    target[::2, -1] = 1
    x[0, 0] = -np.inf if shape[1] > 1 and size < 1e30 else x[0, 0]
    target[0, 0] = 0 if shape[1] > 1 else 1
    loss, logarithms = compiled["cross_entropy"](x, target)
    expected, wide = ops.loss.cross_entropy.portable(x.astype("float64"), target.astype("float64"))
    assert loss.dtype == logarithms.dtype == np.dtype(dtype)
    np.testing.assert_allclose(logarithms, wide, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    np.testing.assert_allclose(loss, expected, rtol=ROUNDING[dtype])
    gradient = compiled["cross_entropy_gradient"](logarithms, target, 0.25)
    same(gradient, ops.loss.cross_entropy_gradient.portable(wide, target.astype("float64"), 0.25), dtype)


@pytest.mark.parametrize("shape", [(3, 37, 6, 5), (40, 16, 3, 3), (4, 5)])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_batch_norm(compiled: dict[str, Any], dtype: str, shape: tuple[int, ...], mean: float) -> None:
    x = draw(shape, 12).astype(dtype) + np.dtype(dtype).type(mean)
    x = last(x) if x.ndim == 4 else x
    weight, bias, rm = (draw(shape[1:2], seed).astype(dtype) for seed in (13, 14, 15))
    rv = np.abs(rm) + np.dtype(dtype).type(1)
    given = (weight, bias, rm, rv, 0.1, 1e-5)
    scale = max(1.0, mean)
    found = compiled["batch_norm_train"](x, *given)
    wide = [array.astype("float64") if isinstance(array, np.ndarray) else array for array in (x, *given)]
    expected = norm.batch_norm_train.portable(*wide)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=scale * ROUNDING[dtype] * np.abs(other).max())
    relu = compiled["batch_norm_relu_train"](x, *given)[0]
    np.testing.assert_array_equal(relu, np.maximum(found[0], 0))
    dy, (_, m, s, *_) = draw(shape, 16).astype(dtype), found
    for train in (True, False):
        found_gradients = compiled["batch_norm_gradients"](dy, x, weight, m, s, train)
        gradients = norm.batch_norm_gradients.portable(
            dy.astype("float64"), wide[0], wide[1], expected[1], expected[2], train
        )
        for one, other in zip(found_gradients, gradients, strict=True):
            np.testing.assert_allclose(
                one, other, rtol=0, atol=10 * scale * ROUNDING[dtype] * np.abs(other).max()
            )


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("with_relu", [True, False])
def test_batch_norm_of_infinity(compiled: dict[str, Any], dtype: str, train: bool, with_relu: bool) -> None:
    """The statistics, and where the gradients are finite, are those of the portable definition."""
    x, dy = last(draw((3, 37, 6, 5), 30).astype(dtype)), last(draw((3, 37, 6, 5), 31).astype(dtype))
    x[0, 1, 2, 3], x[1, 2, 3, 3], x[2, 3, 0, 0] = np.inf, -np.inf, np.nan
    x[0, 4, 0, 0], x[0, 4, 0, 1] = np.inf, -np.inf
    x[0, 5], x[1, 5] = 3e38, -3e38
    mean, var = draw((37,), 32).astype(dtype), np.ones(37, dtype)
    weight = draw((37,), 33).astype(dtype)
    with np.errstate(all="ignore"):
        if train:
            found = compiled["batch_norm_train"](x, weight, None, mean, var, 0.1, 1e-5)
            wide = [array.astype("float64") for array in (x, weight, mean, var)]
            expected = norm.batch_norm_train.portable(wide[0], wide[1], None, *wide[2:], 0.1, 1e-5)
            np.testing.assert_allclose(np.delete(found[1], 5), np.delete(expected[1], 5), 1e-4, 1e-4)
            np.testing.assert_allclose(np.delete(found[3], 5), np.delete(expected[3], 5), 1e-4, 1e-4)
        mean[3] = np.nan
        arguments = (dy, x, weight, mean, np.ones(37, dtype), train)
        if with_relu:
            y = np.abs(dy)
            found = compiled["batch_norm_relu_gradients"](*arguments, y)
        else:
            found = compiled["batch_norm_gradients"](*arguments)
        expected = norm.batch_norm_gradients.portable(*arguments)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.isfinite(one), np.isfinite(other))


@pytest.mark.parametrize("name", ["sgd_step", "adam_step", "adamw_step"])
@pytest.mark.parametrize("wrong", ["shape", "read-only", "gradient"])
def test_updates_of_state_that_does_not_fit(compiled: dict[str, Any], name: str, wrong: str) -> None:
    data, options = np.ones((3, 400), "float32"), {"lr": 0.1, "weight_decay": 0.0, "eps": 1e-8}
    options |= {"betas": (0.9, 0.999)} if "adam" in name else {"momentum": 0.9, "nesterov": False}
    slots = ("m", "v") if "adam" in name else ("velocity",)
    state = {slot: np.zeros((3, 4) if wrong == "shape" else data.shape, "float32") for slot in slots}
    state[slots[-1]].flags.writeable = wrong != "read-only"
    gradient = data[:1] if wrong == "gradient" else data
    assert compiled[name]([(data, gradient, state, 1, options)]) is NotImplemented


def test_unaligned_memory_is_copied_or_left_to_numpy(compiled: dict[str, Any], dtype: str) -> None:
    x, dy = unaligned(draw((2, 3, 4, 4), 1).astype(dtype)), draw((2, 3, 4, 4), 2).astype(dtype)
    assert compiled["relu_array"](x) is NotImplemented
    assert compiled["add"](dy, x) is NotImplemented
    given = native.sizes.Images.of(x)
    assert given.address % x.itemsize == native.sizes.pointer(native.sizes.in_c_order(x)) % x.itemsize == 0
    np.testing.assert_array_equal(given.array, x)


# -- which version, and where there is none ----------------------------------------------------


@pytest.mark.parametrize("version", ["0"], indirect=True)
def test_switched_off(version: str) -> None:
    x, w = np.ones((1, 2, 4, 4), "float32"), np.ones((3, 2, 3, 3), "float32")
    assert native.table() == {}
    with pytest.raises(
        AlgorithmError, match=r"the compiled kernels, which are switched off by \$XPCNN_NATIVE=0"
    ):
        ops.conv2d(x, w, algorithm="native")
    assert ops.conv2d(x, w)[0].shape == (1, 3, 2, 2)


def test_an_unknown_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, "v9")
    forget()
    with pytest.raises(BackendError, match=r"\$XPCNN_NATIVE must be 0 or one of .*, got 'v9'"):
        library.why_absent()
    monkeypatch.undo()
    forget()


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The versions that run here, the fastest first, in a folder of their own; none is loaded from there."""
    monkeypatch.delenv(library.VARIABLE, raising=False)
    forget()
    built, best = library.built_versions(), library.version()
    for name in built:
        shutil.copy(library._path(name), tmp_path)
    monkeypatch.setattr(library, "HERE", tmp_path)
    forget()
    yield built[built.index(str(best)) :]
    monkeypatch.undo()
    forget()


def spoil(name: str, how: str) -> None:
    path = library._path(name)
    path.write_bytes(path.read_bytes()[: int(how)] if how.isdigit() else how.encode())


SPOILT = pytest.mark.parametrize("how", ["", "no library", "50", "1000", "100000"])


@needs_kernels
@SPOILT
def test_a_damaged_library_is_passed_over(
    copied: list[str], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, *slower = copied
    spoil(best, how)
    assert library.version() == (slower[0] if slower else None)
    monkeypatch.setenv(library.VARIABLE, best)
    forget()
    reason = "is cut off" if how.isdigit() else "not usable"
    with pytest.raises(BackendError, match=rf"^\$XPCNN_NATIVE={best}: the compiled kernels are .*{reason}"):
        library.why_absent()


@needs_kernels
@SPOILT
def test_without_an_undamaged_library_there_are_no_kernels(copied: list[str], how: str) -> None:
    for name in copied:
        spoil(name, how)
    assert str(library.why_absent()).startswith("not usable: ")
    assert native.table() == {}
    with pytest.raises(AlgorithmError, match=r"which are not usable: .*; install xpcnn again"):
        ops.conv2d(np.ones((1, 2, 4, 4)), np.ones((3, 2, 3, 3)), algorithm="native")


@needs_kernels
def test_a_library_of_other_sources_is_passed_over(
    copied: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernels.cpp").write_text("// newer\n")
    monkeypatch.setattr(library, "SOURCES", tmp_path)
    assert "was compiled from other sources; install xpcnn again" in str(library.why_absent())
    assert library.library("float32") is None


@pytest.mark.skipif(bool(library.why_absent()), reason=f"the compiled kernels are {library.why_absent()}")
def test_auto_takes_them() -> None:
    backend = xpcnn.backend.registry.instance("numpy", "cpu")
    g = ConvGeometry.of((2, 16, 8, 8), (16, 16, 3, 3), padding=1)
    for name in ("forward", "grad_input", "grad_weight"):
        assert plan_for(name, g, np.dtype("float32"), backend, "auto").algorithm.name == "native"


SANITIZED = """
import sys
from pathlib import Path
import pytest
from xpcnn.backend.cpu.native import library
library.HERE = Path(sys.argv[1])
sys.exit(pytest.main([sys.argv[2], "-q", "-x", "-p", "no:cacheprovider", "-k", sys.argv[3]]))
"""


@pytest.mark.slow
@pytest.mark.process
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """The tests above once more, with every access and every shift checked."""
    hatch_build = pytest.importorskip(
        "xpcnn.backend.cpu.native.hatch_build", reason="hatchling is not installed"
    )
    best = library.version()
    try:
        compiler = hatch_build.find_compiler()
    except RuntimeError as error:
        pytest.skip(str(error))
    runtime = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    if best is None or not os.path.isabs(runtime):
        pytest.skip(library.why_absent() or f"{compiler} has no AddressSanitizer")
    flags = next(versions[best] for versions in hatch_build.VERSIONS.values() if best in versions)
    sanitize = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g")
    hatch_build._compile(compiler, (*flags, *sanitize), tmp_path / f"kernels_{best}.so")
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        library.VARIABLE: best,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    chosen = f"{best} and (test_convolution or test_max_pool or test_batch_norm or test_activations)"
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(tmp_path), __file__, chosen],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
