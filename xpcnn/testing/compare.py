"""Comparison of arrays, of one library or of two."""

from __future__ import annotations

from typing import Any

import numpy as np

from xpcnn.backend import Array, backend_of, dtype_name, is_array, to_numpy

__all__ = ["assert_close"]

# A few hundred rounding errors of each dtype; other dtypes are compared exactly.
_RTOL = {"bfloat16": 2e-2, "float16": 2e-3, "float32": 1e-5, "float64": 1e-11}


def assert_close(
    actual: Array,
    expected: Any,
    *,
    dtype: Any = None,
    backend: str | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Check that an array has the expected shape, dtype and values: ``|a − e| <= atol + rtol·|e|``.

    Infinities and NaNs must stand exactly where they are expected.

    Parameters
    ----------
    actual : array of any backend
    expected : array of any backend, sequence or number
    dtype : str or dtype, optional
        What `actual` must be; if not given, the dtype of `expected` where that is an array.
    backend : str, optional
        The name of the backend that `actual` must be on; any if not given.
    rtol : float, optional
        If not given, by the dtype of `actual`: 1e-11 for float64, 1e-5 for float32, 2e-3 for float16, 2e-2
        for bfloat16, 0 for others.
    atol : float, optional
        If not given, `rtol` times the largest finite magnitude in `expected`, as sums round relative to their
        largest terms.

    Raises
    ------
    AssertionError
        Saying what differs; of values, as NumPy's own comparisons do.
    BackendError
        When `actual` is no array.

    Examples
    --------
    >>> import numpy as np
    >>> assert_close(np.asarray([1.0, 2.0]) / 3, [1 / 3, 2 / 3])
    >>> assert_close(np.asarray([1.0, 2.0]), [1.0, 2.5], rtol=1e-3, atol=0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    AssertionError: ...
    assert_close
    Mismatched elements: 1 / 2 (50%)
    ...
    """
    on = backend_of(actual)
    if backend is not None and on.name != backend:
        raise AssertionError(f"assert_close: the array is on {on}, expected on {backend}")
    found = dtype_name(actual.dtype)
    if dtype is not None or is_array(expected):
        wanted = dtype_name(expected.dtype if dtype is None else dtype)
        if found != wanted:
            raise AssertionError(f"assert_close: dtype is {found}, expected {wanted}")
    a, e = to_numpy(actual), to_numpy(expected) if is_array(expected) else np.asarray(expected)
    if a.shape != e.shape:
        raise AssertionError(f"assert_close: shape is {a.shape}, expected {e.shape}")
    if found not in _RTOL and not rtol and not atol:
        np.testing.assert_array_equal(a, e, "assert_close")
        return
    a, e = a.astype(np.float64), e.astype(np.float64)
    rtol = _RTOL.get(found, 0.0) if rtol is None else rtol
    if atol is None:
        atol = rtol * float(np.max(np.abs(e), where=np.isfinite(e), initial=0.0))
    np.testing.assert_allclose(a, e, rtol, atol, err_msg="assert_close")
