"""`@op`, a forward function and its backward as one object, and what every op asks of its arguments.

``relu.backward`` is the backward of ``relu``, so whatever takes an op has its derivative too. The checks keep
the ops themselves readable as formulas.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from xpcnn.arguments import MOST_SIZE
from xpcnn.arguments import flag as flag
from xpcnn.arguments import in_words as in_words
from xpcnn.arguments import plain as plain
from xpcnn.arguments import positive as positive
from xpcnn.arguments import real as real
from xpcnn.arguments import whole as whole
from xpcnn.backend import FLOATS, Array, Backend, array_dtype_name, backend_of, dtype_name, native
from xpcnn.backend.registry import BACKENDS
from xpcnn.errors import ArgumentError, BackendError, DtypeError, ShapeError, XpcnnError

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


# -- arguments -------------------------------------------------------------------------

MOST_NUMBERS = 2**40
"""Arrays are smaller: in float32 that is 4 TiB."""

_HALVES = frozenset({"float16", "bfloat16"})


def common_backend(op: str, **arrays: Any) -> Backend:
    """Return the backend of all `arrays`, which must share it and one floating dtype.

    Only ``bias`` may be None, and is passed over then.
    """
    found: Backend | None = None
    for name, array in arrays.items():
        if array is None and name == "bias":
            continue
        # Looked up here, as calling functions for each argument would cost more than the test.
        backend = BACKENDS.get(type(array)) or _backend_of(op, name, array)
        if found is None:
            found, first, dtype = backend, name, array.dtype
            if (backend, dtype) not in _floating:
                if dtype_name(dtype) not in FLOATS:
                    raise _not_floating(op, name, dtype)
                _floating.add((backend, dtype))
        elif backend is not found or array.dtype != dtype:
            raise _disagreement(op, arrays, first, name)
    assert found is not None
    return found


_floating: set[tuple[Backend, Any]] = set()
"""Dtypes known to be floating. Those of two libraries may hash alike, and must not be compared."""


def check_backend(op: str, first: str, backend: Backend, name: str, array: Array) -> None:
    """Require that `array`, of any dtype, lives on the backend of the argument `first`."""
    other = _backend_of(op, name, array)
    if other is not backend:
        raise _mixed(op, first, backend, name, other, moved=name)


def require_array(op: str, name: str, value: Any) -> Array:
    """Return an array of real numbers in native byte order, or raise an error that names it and its type."""
    _backend_of(op, name, value)
    kind = array_dtype_name(value.dtype)
    if kind not in FLOATS and not kind.startswith(("int", "uint", "bool")):
        raise DtypeError(f"{op}: {name} must be an array of real numbers, got {kind}")
    # Looked at here for NumPy's arrays, as calling a function would cost more than the test.
    array: Array = value if getattr(value.dtype, "isnative", False) else native(value)
    return array


def _backend_of(op: str, name: str, array: Array) -> Backend:
    if array is None:
        raise BackendError(f"{op}: {name}: expected an array, got None; make one with xpcnn.asarray(...)")
    try:
        return backend_of(array)
    except BackendError as error:
        raise BackendError(f"{op}: {name}: {error}") from None


def _disagreement(op: str, arrays: dict[str, Any], first: str, name: str) -> XpcnnError:
    """Return the error for an array that is unlike the first one."""
    one, other = arrays[first], arrays[name]
    # Images and gradients are to fit the weight, unless another array agrees with them.
    second = [each for each, array in arrays.items() if array is not None][1]
    changed, kept = (first, other) if first in ("x", "dy") and name == second else (name, one)
    if backend_of(one) is not backend_of(other):
        return _mixed(op, first, backend_of(one), name, backend_of(other), changed)
    if dtype_name(other.dtype) not in FLOATS:
        return _not_floating(op, name, other.dtype)
    return DtypeError(
        f"{op}: {first} is {dtype_name(one.dtype)} but {name} is {dtype_name(other.dtype)}; "
        f"convert {changed}: xpcnn.asarray({changed}, dtype={dtype_name(kept.dtype)!r})"
    )


def _mixed(op: str, first: str, backend: Backend, name: str, other: Backend, moved: str) -> BackendError:
    to = other if moved == first else backend
    return BackendError(
        f"{op}: {first} is on {backend}, {name} on {other}; move one of them: "
        f"xpcnn.asarray({moved}) inside `with xpcnn.use_backend({to.name!r})`, xpcnn.to_numpy, "
        f"or model.to(backend=...)"
    )


def _not_floating(op: str, name: str, dtype: Any) -> DtypeError:
    return DtypeError(
        f"{op}: {name} must be floating, got {dtype_name(dtype)}; convert it, "
        f"e.g. xpcnn.asarray({name}, dtype='float32')"
    )


@functools.lru_cache(maxsize=256)
def accumulator(backend: Backend, dtype: Any) -> Any | None:
    """Return float32 where `dtype` is half precision, which is too narrow to sum in; else None."""
    return backend.xp.float32 if dtype_name(dtype) in _HALVES else None


def upcast(backend: Backend, x: Array) -> Array:
    """Return `x` in the dtype it is summed in: itself, or half precision as float32."""
    wide = accumulator(backend, x.dtype)
    return x if wide is None else backend.xp.astype(x, wide)


def check_rank(op: str, name: str, shape: tuple[int, ...], rank: int, layout: str) -> None:
    """Require that an array of `shape` has `rank` axes, or more where `layout` ends in "...)"."""
    more = layout.endswith("...)")
    if len(shape) < rank or (len(shape) > rank and not more):
        axes = f"at least {rank}" if more else rank
        raise ShapeError(f"{op}: {name} must have {axes} axes {layout}, got shape {tuple(shape)}")


def check_shapes(op: str, fits: str, shape: tuple[int, ...], **arrays: Array | None) -> None:
    """Require that each array that is given has the `shape` that `fits` another."""
    for name, array in arrays.items():
        if array is not None and tuple(array.shape) != shape:
            raise ShapeError(f"{op}: {name} has shape {tuple(array.shape)}, but must have {shape} for {fits}")


def check_dy(op: str, dy: Array, shape: tuple[int, ...], like: Array) -> Backend:
    """Require that the gradient `dy` has the shape, backend and dtype of the forward result."""
    backend = common_backend(op, dy=dy, x=like)
    if tuple(dy.shape) != tuple(shape):
        raise ShapeError(f"{op}: dy has shape {tuple(dy.shape)} but the forward result had {tuple(shape)}")
    return backend


def cached(build: Any, fixed: tuple[Any, ...], *options: Any) -> Any:
    """Return ``build(*fixed, *options)``, with options as Python's numbers, by the cache of `build`.

    For a cache, True and 1.0 equal 1. So the cache is bypassed where an option holds anything but ints.
    """
    parts = [part for option in options for part in (option if type(option) is tuple else (option,))]
    if {*map(type, parts)} == {int}:  # by far the commonest
        return build(*fixed, *options)
    numbers = [plain(option) for option in options]
    parts = [part for option in numbers for part in (option if isinstance(option, tuple) else (option,))]
    exact = {*map(type, parts)} <= {int, str, type(None)}
    return (build if exact else build.__wrapped__)(*fixed, *numbers)


def pair(op: str, name: str, value: Any, minimum: int) -> tuple[int, int]:
    """Return an int or a (height, width) pair of ints as a pair, each at least `minimum`."""
    values = plain(value)
    values = values if isinstance(values, tuple) else (values, values)
    if len(values) != 2 or not all(type(v) is int for v in values):
        raise ArgumentError(f"{op}: {name} must be an int or a pair (height, width), got {in_words(value)}")
    if min(values) < minimum or max(values) > MOST_SIZE:
        bound = f"least {minimum}" if min(values) < minimum else f"most {MOST_SIZE}"
        raise ArgumentError(f"{op}: {name} must be at {bound}, got {in_words(value)}")
    return values[0], values[1]


def require_possible(op: str, what: str, shape: tuple[int, ...]) -> None:
    """Refuse a shape that no memory holds, before anything of it is made."""
    if max(shape, default=0) > MOST_SIZE or math.prod(shape) >= MOST_NUMBERS:
        raise ArgumentError(
            f"{op}: {what} would have shape {shape}, {math.prod(shape):,} numbers; no memory holds that"
        )


def sizes(op: str, name: str, value: Any) -> tuple[int, ...]:
    """Return an int or a sequence of ints as a tuple of at least one, each at least 1."""
    values = plain(value)
    values = values if isinstance(values, tuple) else (values,)
    if not values or not all(type(v) is int and 1 <= v <= MOST_SIZE for v in values):
        raise ArgumentError(
            f"{op}: {name} must be a positive int or a sequence of them, got {in_words(value)}"
        )
    return values


_HALF_LOWEST = {"float32": -(2.0**127 - 2.0**103), "float64": -(2.0**1023 - 2.0**970)}


def below_max(backend: Backend, x: Array, axis: int) -> Array:
    """Return x − max(x) along an axis, in the dtype to sum in; −inf where that is beyond the dtype."""
    xp = backend.xp
    halves = upcast(backend, x) * 0.5  # whose differences cannot overflow
    halves = halves - xp.max(halves, axis=axis, keepdims=True)
    lowest = _HALF_LOWEST[array_dtype_name(halves.dtype)]
    return xp.where(halves < lowest, -math.inf, xp.maximum(halves, lowest) * 2)
