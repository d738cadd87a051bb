"""The primitives a backend may override, each against its portable definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xpcnn
from xpcnn import Key
from xpcnn.backend import Backend
from xpcnn.testing import assert_close

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def on(make: Any) -> Backend:
    """The backend under test."""
    return xpcnn.backend_of(make.array([0.0]))


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """(shape, kernel, stride, dilation) in which the kernel fits."""
    kernel, stride, dilation = draw(PAIRS), draw(PAIRS), draw(PAIRS)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    sizes = [draw(st.integers(r, r + 4)) for r in reach]
    return (draw(st.integers(0, 2)), draw(st.integers(1, 2)), *sizes), kernel, stride, dilation


def by_loops(x: np.ndarray[Any, Any], kernel: Any, stride: Any, dilation: Any) -> np.ndarray[Any, Any]:
    """Every window, cut out by itself."""
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    oh, ow = ((size - span) // s + 1 for size, span, s in zip(x.shape[2:], spans, stride, strict=True))
    out = np.zeros((*x.shape[:2], oh, ow, *kernel), x.dtype)
    for i in range(oh):
        for j in range(ow):
            top, left = i * stride[0], j * stride[1]
            out[:, :, i, j] = x[
                :, :, top : top + spans[0] : dilation[0], left : left + spans[1] : dilation[1]
            ]
    return out


@given(case=windows(), layout=st.sampled_from(["plain", "channels last", "cut out", "backwards", "repeated"]))
def test_sliding_windows(make: Any, case: Any, layout: str) -> None:
    shape, kernel, stride, dilation = case
    n, c, h, w = shape
    values = np.arange(math.prod(shape), dtype="float32").reshape(shape)
    x, xp, backend = make.array(values), make.xp, on(make)
    if layout == "channels last":
        x = xp.permute_dims(make.array(values.transpose(0, 2, 3, 1).copy()), (0, 3, 1, 2))
    elif layout == "cut out":
        x = make.array(np.stack([values, -1 - values], -1).reshape(n, c, h, 2 * w))[:, :, :, ::2]
    elif layout == "backwards":
        x = xp.flip(make.array(values[:, :, ::-1].copy()), axis=2)
    elif layout == "repeated" and n:
        values = np.broadcast_to(values[:1], shape)
        x = xp.broadcast_to(x[:1, ...], shape)
    expected = by_loops(values, kernel, stride, dilation)
    assert_close(backend.sliding_windows(x, kernel, stride, dilation), expected, rtol=0)
    assert_close(Backend.sliding_windows(backend, x, kernel, stride, dilation), expected, rtol=0)


def test_sliding_windows_are_a_view_where_there_are_strides(make: Any) -> None:
    x = make.array(np.zeros((1, 2, 40, 40)), "float32")
    view = on(make).sliding_windows(x, (3, 3), (1, 1), (1, 1))
    if make.backend == "array_api_strict":
        return
    assert np.shares_memory(make.to_numpy(view), make.to_numpy(x)) or make.backend == "cupy"
    if make.backend == "numpy":
        assert not view.flags.writeable


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (), (0, 3)], ids=str)
def test_masked(make: Any, name: str, shape: tuple[int, ...]) -> None:
    """0 where the mask is false, even for NaN and infinities; bit for bit the input elsewhere."""
    if not make.has(name):
        pytest.skip(f"{make.backend} has no {name}")
    rng = np.random.default_rng(0)
    host = "float32" if name == "bfloat16" else name
    tiny = 2.0**-133 if name == "bfloat16" else float(np.finfo(name).smallest_subnormal)
    odd = [np.nan, np.inf, -np.inf, -0.0, 0.0, 1.5, tiny, -2.5]
    values, mask = rng.choice(odd, shape).astype(host), rng.integers(0, 2, shape).astype(bool)
    x, m = make.array(values, name), make.array(mask)
    values = np.array(make.to_numpy(x))  # PyTorch gives each NaN of bfloat16 a sign
    backend = on(make)
    with make.unchanged(x, m):
        for kept in (backend.masked(m, x), Backend.masked(backend, m, x)):
            make.check_kind(kept, shape, name)
            got = make.to_numpy(kept)
            np.testing.assert_array_equal(got[mask], values[mask])
            np.testing.assert_array_equal(np.signbit(got[mask]), np.signbit(values[mask]))
            assert not got[~mask].any()
            assert not np.signbit(got[~mask]).any()


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_erfc(make: Any, name: str) -> None:
    """Python's own erfc is the reference: to the last digits absolutely, and relatively in the right tail."""
    values = np.concatenate(
        [np.linspace(-7, 7, 2801), np.random.default_rng(0).standard_normal(2000), [0.0, -0.0, 1e-300, 40.0]]
    ).astype(name)
    expected = np.asarray([math.erfc(value) for value in values.tolist()])
    backend, x = on(make), make.array(values)
    tail = (values > 0.5) & (expected > 1e-30)
    with make.unchanged(x):
        for y in (backend.erfc(x), Backend.erfc(backend, x)):
            make.check(y, expected, name, rtol=1e-15 if name == "float64" else 5e-7, scale=1.0)
            ratio = make.to_numpy(y)[tail] / expected[tail]
            np.testing.assert_allclose(ratio, 1, rtol=1e-13 if name == "float64" else 3e-5)
    x = make.array([np.nan, np.inf, -np.inf, 1e300, -1e300])
    for y in (backend.erfc(x), Backend.erfc(backend, x)):
        np.testing.assert_array_equal(make.to_numpy(y), [np.nan, 0.0, 2.0, 0.0, 2.0])


def test_in_any_memory_order(make: Any) -> None:
    x = make.array(np.random.default_rng(0).standard_normal((3, 4, 5)))
    kinds = {
        "permuted": make.xp.permute_dims(x, (1, 2, 0)),
        "cut out": x[1:, ::2, 1:4],
        "repeated": make.xp.broadcast_to(x[:, :1, :], (3, 4, 5)),
        "empty": x[:0, ...],
        "0-d": x[1, 1, 1],
        "more than one block": make.array(np.random.default_rng(0).standard_normal((5, 9000))),
    }
    for array in kinds.values():
        values = make.to_numpy(array)
        expected = np.vectorize(math.erfc, otypes=["float64"])(values)
        make.check(on(make).erfc(array), expected, "float64", scale=1.0)
        make.check(on(make).masked(array > 0, array), np.maximum(values, 0), "float64", rtol=0)


def test_channels_last(make: Any) -> None:
    values = np.arange(120.0).reshape(2, 3, 4, 5)
    y = on(make).channels_last(make.array(values))
    make.check(y, values.transpose(0, 2, 3, 1), "float64", rtol=0)
    if make.backend in ("numpy", "torch"):
        assert make.to_numpy(y).flags.c_contiguous


def test_copy(make: Any) -> None:
    x = make.array(np.ones((3, 2)))
    for array in (x, make.xp.permute_dims(x, (1, 0)), x[0, 0]):
        y = on(make).copy(array)
        make.check(y, np.ones(array.shape), "float64", rtol=0)
        host = make.to_numpy(y)
        assert host.flags.c_contiguous
        assert not np.shares_memory(host, make.to_numpy(x))
        assert host.flags.writeable or make.backend == "cupy"


def test_one_hot(make: Any) -> None:
    labels = np.asarray([2, 0, 3, 3])
    for dtype in ("float32", "float64"):
        for some in (labels, labels[:0], labels.astype("int32")):
            rows = on(make).one_hot(make.array(some), 5, make.dtype(dtype))
            make.check(rows, np.eye(5)[some], dtype, rtol=0)


def test_synchronize(make: Any) -> None:
    assert on(make).synchronize() is None
    assert on(make).is_host == (make.backend != "cupy")


# Random numbers -----------------------------------------------------------------------------------------


def uniform(make: Any, key: Key, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray[Any, Any]:
    drawn = on(make).uniform(key, shape, make.dtype(dtype))
    make.check_kind(drawn, shape, dtype)
    return np.array(make.to_numpy(drawn))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_uniform(make: Any, dtype: str) -> None:
    """Even over [0, 1): mean, variance, a histogram, no step from one number to the next."""
    if not make.has(dtype):
        pytest.skip(f"{make.backend} has no {dtype}")
    n = 200_000
    values = uniform(make, Key(0), (n,), dtype).astype("float64")
    assert values.min() >= 0
    assert values.max() < 1
    step = {"float16": 2**-11, "bfloat16": 2**-8}.get(dtype, 0.0)
    assert values.max() > 0.999 - step
    assert abs(values.mean() - 0.5) < 5 * math.sqrt(1 / 12 / n) + step / 2
    assert abs(values.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / n) + step / 2
    counts, _ = np.histogram(values, bins=16, range=(0, 1))
    assert (((counts - n / 16) ** 2) / (n / 16)).sum() < 50  # chi squared, 15 degrees of freedom: 1 in 10⁵
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 5 / math.sqrt(n)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_portable_uniform_stays_below_1(make: Any, dtype: str) -> None:
    if not make.has(dtype):
        pytest.skip(f"{make.backend} has no {dtype}")
    drawn = Backend.uniform(on(make), Key(0), (20_000,), make.dtype(dtype))
    make.check_kind(drawn, (20_000,), dtype)
    assert make.to_numpy(drawn).max() < 1


def test_uniform_is_a_function_of_the_key(make: Any) -> None:
    key, shape = Key(3), (4, 5)
    first = uniform(make, key, shape)
    uniform(make, Key(4), (100,))
    np.testing.assert_array_equal(uniform(make, key, shape), first)
    np.testing.assert_array_equal(uniform(make, Key(3), shape), first)
    others = [key.fold(0), key.fold(1), key.fold("0"), Key(2), Key(4)]
    draws = [uniform(make, other, (5000,)) for other in [key, *others]]
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 5 / math.sqrt(5000)
    assert uniform(make, key, (0, 3)).size == 0
    assert uniform(make, key, ()).shape == ()
