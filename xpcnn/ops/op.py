"""`@op`: a forward function and its backward, as one object.

``relu.backward`` is the backward of ``relu``, so whatever takes an op has its derivative too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from xpcnn.backend import native

__all__ = ["Op", "native_arrays", "op"]

P = ParamSpec("P")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
Backward = TypeVar("Backward", bound=Callable[..., Any])


class Op(Protocol[P, Result_co]):
    """A function ``op(x, …) -> (y, ctx)`` with ``op.backward(ctx, dy) -> gradients``."""

    __name__: str
    backward: Callable[..., Any]

    def __call__(self, *args: P.args, **options: P.kwargs) -> Result_co: ...

    def def_backward(self, backward: Backward) -> Backward:
        """Decorate the function that becomes ``backward``."""


def op(forward: Callable[P, Result]) -> Op[P, Result]:
    """Decorate a forward function; ``forward.def_backward`` then decorates its backward.

    Both remain plain functions, whose array arguments are converted as `native_arrays` says.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn.ops.op import op
    >>> @op
    ... def double(x):
    ...     return 2 * x, ()
    >>> @double.def_backward
    ... def _(ctx, dy):
    ...     return 2 * dy
    >>> y, ctx = double(xpcnn.asarray([1.0, 2.0]))
    >>> double.backward(ctx, y)
    array([4., 8.])
    """
    function = cast(Op[P, Result], native_arrays(forward))

    def def_backward(backward: Backward) -> Backward:
        backward.__name__, backward.__qualname__ = "backward", f"{forward.__qualname__}.backward"
        function.backward = native_arrays(backward)
        return cast(Backward, function.backward)

    function.def_backward = def_backward  # type: ignore[method-assign]
    return function


def native_arrays(function: Callable[P, Result]) -> Callable[P, Result]:
    """Decorate a function: array arguments become native arrays before it is called.

    Arrays of the other byte order ('>f4' on most machines) are converted. Tensors that require a gradient are
    detached, as there is no autograd here.
    """

    @functools.wraps(function)
    def with_native_arrays(*args: P.args, **options: P.kwargs) -> Result:
        # Not a function of its own, as calling it for each argument would cost more than the test.
        for value in (*args, *options.values()) if options else args:
            dtype = getattr(value, "dtype", None)
            if dtype is None:
                continue
            in_order = getattr(dtype, "isnative", None)  # None for other libraries
            if in_order is False or (in_order is None and getattr(value, "requires_grad", False)):
                return function(*map(native, args), **{name: native(v) for name, v in options.items()})
        return function(*args, **options)

    return with_native_arrays
