"""What ops may expect of a namespace beyond float32 and float64, and that they do not wait for a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn.backend import matmul

ROWS = np.linspace(-2, 2, 12).reshape(3, 4)


@pytest.fixture(params=["float16", "bfloat16", "float32", "float64"])
def kind(request: pytest.FixtureRequest, make: Any) -> str:
    if not make.has(request.param):
        pytest.skip(f"{make.backend} has no {request.param}")
    return str(request.param)


def host(make: Any, array: Any) -> np.ndarray[Any, Any]:
    return np.asarray(make.to_numpy(array), dtype=np.float64)


def test_where_keeps_the_dtype_and_what_is_no_number(make: Any, kind: str) -> None:
    x, y = make.array(ROWS, kind), make.array(ROWS[::-1] * 3, kind)
    negative, xp = x < 0, make.xp
    mask, of_x, of_y = host(make, negative).astype(bool), host(make, x), host(make, y)
    cut = np.where(mask[:, ::2], of_x[:, ::2], of_y[:, 1::2])
    for got, expected in (
        (xp.where(negative, x, y), np.where(mask, of_x, of_y)),
        (xp.where(negative, x, make.array(0.0, kind)), np.where(mask, of_x, 0)),
        (xp.where(negative, x, 0.5), np.where(mask, of_x, 0.5)),
        (xp.where(negative[:, ::2], x[:, ::2], y[:, 1::2]), cut),
        (xp.where(negative[:1, :], x, y[:, :1]), np.where(mask[:1], of_x, of_y[:, :1])),
    ):
        make.check_kind(got, expected.shape, kind)
        np.testing.assert_array_equal(host(make, got), expected)
    odd = make.array([np.nan, np.inf, -np.inf, -0.0], kind)
    got = xp.where(make.array([True] * 4), odd, make.array([1.0] * 4, kind))
    np.testing.assert_array_equal(host(make, got), [np.nan, np.inf, -np.inf, -0.0])
    assert np.signbit(host(make, got)[3])


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_a_number_leaves_the_dtype(make: Any, kind: str, name: str) -> None:
    function, x = getattr(make.xp, name), make.array(np.abs(ROWS) + 0.25, kind)
    expected = getattr(np, name)(host(make, x), 1.5)
    rtol = {"float16": 2**-9, "bfloat16": 2**-6}.get(kind)
    make.check(function(x, 1.5), expected, kind, rtol=rtol)
    make.check(function(x, make.array(np.full(ROWS.shape, 1.5), kind)), expected, kind, rtol=rtol)
    wider = function(x, make.array(np.full(ROWS.shape, 1.5), "float64"))
    assert wider.dtype == make.dtype("float64")


def test_clip_keeps_the_dtype(make: Any, kind: str) -> None:
    x = make.array([[-3.0, -0.5, np.nan, 0.25, np.inf]], kind)
    for low, high in ((-1.0, 0.5), (None, 0.5), (-1.0, None), (None, None)):
        with make.unchanged(x):
            got = make.xp.clip(x, low, high)
        make.check_kind(got, (1, 5), kind)
        expected = host(make, x)
        expected = expected if (low, high) == (None, None) else np.clip(expected, low, high)
        np.testing.assert_array_equal(host(make, got), expected)
    got = make.xp.clip(make.array([0, 5, 200], "uint8"), 1, 100)
    make.check_kind(got, (3,), "uint8")
    np.testing.assert_array_equal(make.to_numpy(got), [1, 5, 100])


def test_products_of_stacks(make: Any, kind: str) -> None:
    values = np.random.default_rng(0).integers(-4, 5, (2, 3, 4)) / 4  # exact in every dtype, sums too
    a, b = make.array(values, kind), make.array(values.transpose(0, 2, 1).copy(), kind)
    expected = values @ values.transpose(0, 2, 1)
    for got in (matmul(a, b), make.xp.matmul(a, b), make.xp.matmul(a, b[0, ...])[:1, ...]):
        make.check_kind(got, expected[: got.shape[0]].shape, kind)
        np.testing.assert_array_equal(host(make, got), expected[: got.shape[0]])
    make.check(matmul(a[0, ...], b[0, ...]), expected[0], kind, rtol=0.0)


def test_kinds(make: Any, kind: str) -> None:
    xp, dtype = make.xp, make.dtype(kind)
    for wanted in ("real floating", "numeric", ("integral", "real floating"), dtype):
        assert xp.isdtype(dtype, wanted)
    for other in ("integral", "bool", ("bool", "complex floating"), xp.int32):
        assert not xp.isdtype(dtype, other)
    assert not xp.isdtype(xp.int32, dtype)


def test_numpy_functions_without_wrappers() -> None:
    """They answer as array_api_compat's do, which stays as it is."""
    compat = pytest.importorskip("array_api_compat.numpy")
    xp, x = xpcnn.namespace(np.zeros(1)), np.asarray([[1, 2], [3, 4]], np.int8)
    assert {name for name in vars(compat) if not name.startswith("_")} <= set(vars(xp))
    calls = {
        "arange": (5,),
        **dict.fromkeys(("empty", "ones", "zeros"), ((2, 3),)),
        **dict.fromkeys(("empty_like", "ones_like", "zeros_like"), (x,)),
        "full": ((2,), 7),
        "full_like": (x, 7),
        "astype": (x, np.int16),
    }
    for name, arguments in calls.items():
        options = {} if name == "astype" else {"dtype": np.int16}
        got, expected = (getattr(m, name)(*arguments, device="cpu", **options) for m in (xp, compat))
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype) == (expected.shape, np.int16)
        if "empty" not in name:
            np.testing.assert_array_equal(got, expected)
        with pytest.raises(ValueError, match=r"[dD]evice"):
            getattr(xp, name)(*arguments, device="gpu")
    assert xp.sum(x).dtype == np.int64
    assert xp.astype(x, x.dtype, copy=False) is x
    assert xp.astype(x, x.dtype) is not x
    assert xp.astype(np.float32(1), np.float64).dtype == np.float64  # a scalar, as sums are
    assert compat.zeros is not np.zeros
