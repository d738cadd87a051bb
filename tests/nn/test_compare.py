"""assert_close: what it lets pass, what it refuses, and what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.nn import draw, mentions
from xpcnn import errors
from xpcnn.testing import assert_close

INF, NAN = float("inf"), float("nan")


def test_equal(make: Any, dtype: str) -> None:
    values = draw(2, 3, dtype=dtype)
    x = make.array(values)
    assert_close(x, values)
    assert_close(x, x)
    assert_close(values, x)
    assert_close(x, values.tolist(), dtype=dtype, backend=make.backend)
    assert_close(x, values.astype("float64"), dtype=dtype)


def test_rounding_is_forgiven(make: Any, dtype: str) -> None:
    values = draw(50, dtype=dtype)
    few = 20 * np.finfo(dtype).eps
    x = make.array(values * (1 + few))
    assert_close(x, values)
    # Relative to the largest: a sum that cancels keeps the rounding of its terms.
    assert_close(make.array(np.asarray([100.0, 100 * few], dtype)), np.asarray([100.0, 0.0], dtype))
    values[7] += 3e-4
    with pytest.raises(AssertionError, match="Mismatched elements: 1 / 50"):
        assert_close(x, values)


def test_shape_dtype_and_backend(make: Any) -> None:
    x = make.array(draw(2, 3, dtype="float32"))
    with pytest.raises(AssertionError, match=mentions("shape is (2, 3), expected (3, 2)")):
        assert_close(x, np.zeros((3, 2), "float32"))
    with pytest.raises(AssertionError, match="shape"):  # never broadcast
        assert_close(x, 0.0)
    with pytest.raises(AssertionError, match=mentions("dtype is float32, expected float64")):
        assert_close(x, draw(2, 3))
    with pytest.raises(AssertionError, match=mentions("dtype is float32, expected float16")):
        assert_close(x, [0.0], dtype="float16")
    other = "torch" if make.backend == "numpy" else "numpy"
    with pytest.raises(AssertionError, match=mentions(f"on {make.backend} (", f"expected on {other}")):
        assert_close(x, x, backend=other)
    with pytest.raises(errors.BackendError, match="list"):
        assert_close([1.0], [1.0])


def test_message_names_the_worst() -> None:
    expected = np.asarray([[1.0, 0.01, 100.0], [0.0, -4.0, 2.0]])
    actual = np.asarray([[1.0, 0.02, 101.0], [0.0, -4.0, 2.0]])
    told = mentions("assert_close", "Mismatched elements: 2 / 6", "absolute difference", "atol=0")
    with pytest.raises(AssertionError, match=told):
        assert_close(actual, expected, rtol=1e-6, atol=0)


def test_tolerances() -> None:
    x = np.asarray([1.0, 100.0])
    assert_close(x + 0.5, x, rtol=0, atol=0.5)
    assert_close(x * 1.25, x, rtol=0.25, atol=0)
    assert_close(x + 1.0, x, rtol=0.01)  # of the largest
    for wrong in ({"rtol": 0, "atol": 0.4}, {"rtol": 0.01, "atol": 0}, {"rtol": 0.002}):
        with pytest.raises(AssertionError):
            assert_close(x + 0.5, x, **wrong)
    with pytest.raises(AssertionError):
        assert_close(1.5e-7 * x, 1e-7 * x)
    whole = np.asarray([1, 5])
    assert_close(whole, whole + 1, atol=1)
    with pytest.raises(AssertionError):
        assert_close(whole, whole + 1, atol=0.5)


@pytest.mark.parametrize("wrong", [NAN, INF, -INF, 1.0])
@pytest.mark.parametrize("right", [NAN, INF, -INF, 1.0])
def test_not_finite(make: Any, wrong: float, right: float) -> None:
    actual, expected = make.array([0.0, wrong], "float64"), np.asarray([0.0, right])
    if wrong == right or (wrong != wrong and right != right):
        assert_close(actual, expected)
    else:
        with pytest.raises(AssertionError, match="assert_close"):
            assert_close(actual, expected)
        with pytest.raises(AssertionError, match="assert_close"):
            assert_close(actual, expected, rtol=1.0, atol=10.0)


def test_integers_and_bools_are_exact(make: Any) -> None:
    big = 2**60
    assert_close(make.array([big, 1]), [big, 1], dtype="int64")
    with pytest.raises(AssertionError, match="Mismatched elements: 1 / 2"):
        assert_close(make.array([big, 1]), [big + 1, 1])
    assert_close(make.array([True, False]), [True, False], dtype="bool")
    with pytest.raises(AssertionError, match="Mismatched elements: 1 / 2"):
        assert_close(make.array([True, False]), [True, True])
