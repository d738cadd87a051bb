"""Functions that a backend may replace with a kernel of its own.

The portable function stays the definition, and is what readers read; the kernel is held against it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from xpcnn.backend.current import backend_of

__all__ = ["primitive"]

Function = TypeVar("Function", bound=Callable[..., Any])


def primitive(portable: Function) -> Function:
    """Let the backend of the first argument, an array, replace this function by a kernel of the same name.

    A kernel is found in `Backend.kernels` and takes the same arguments. It answers `NotImplemented` where it
    does not serve their dtypes or shapes; the portable function, kept as ``portable``, does those.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn.backend.primitive import primitive
    >>> @primitive
    ... def double(x):
    ...     return 2 * x
    >>> double(xpcnn.asarray([1.0, 2.0]))
    array([2., 4.])
    """
    name = portable.__name__

    @functools.wraps(portable)
    def dispatch(x: Any, *args: Any, **options: Any) -> Any:
        kernel = backend_of(x).kernels.get(name)
        if kernel is not None:
            result = kernel(x, *args, **options)
            if result is not NotImplemented:
                return result
        return portable(x, *args, **options)

    dispatch.portable = portable  # type: ignore[attr-defined]
    return cast(Function, dispatch)
