"""What every op asks of its arguments, so that the ops themselves can be read as formulas."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Array, Backend, backend_of, dtype_name
from xpcnn.errors import ArgumentError, BackendError, DtypeError, ShapeError

__all__ = ["accumulator", "check_dy", "check_rank", "common_backend", "pair"]

_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_known_float: dict[Any, bool] = {}


def common_backend(op: str, **arrays: Array | None) -> Backend:
    """Return the backend of all `arrays`, which must share it and one floating dtype."""
    found: Backend | None = None
    for name, array in arrays.items():
        if array is None:
            continue
        try:
            backend = backend_of(array)
        except BackendError as error:
            raise BackendError(f"{op}: {name}: {error}") from None
        if found is None:
            found, first, dtype = backend, name, array.dtype
            if not _is_float(dtype):
                raise _not_floating(op, name, dtype)
        elif backend is not found:
            raise BackendError(
                f"{op}: {first} is on {found}, {name} on {backend}; move one of them: "
                f"xpcnn.asarray({name}) inside `with xpcnn.use_backend({found.name!r})`, xpcnn.to_numpy, "
                f"or model.to(backend=...)"
            )
        elif array.dtype != dtype:
            if not _is_float(array.dtype):
                raise _not_floating(op, name, array.dtype)
            raise DtypeError(
                f"{op}: {first} is {dtype_name(dtype)} but {name} is {dtype_name(array.dtype)}; "
                f"convert one of them, e.g. xpcnn.asarray({name}, dtype={dtype_name(dtype)!r})"
            )
    assert found is not None
    return found


def _is_float(dtype: Any) -> bool:
    known = _known_float.get(dtype)
    if known is None:
        known = _known_float[dtype] = dtype_name(dtype) in _FLOATS
    return known


def _not_floating(op: str, name: str, dtype: Any) -> DtypeError:
    return DtypeError(
        f"{op}: {name} must be floating, got {dtype_name(dtype)}; convert it, "
        f"e.g. xpcnn.asarray({name}, dtype='float32')"
    )


def accumulator(backend: Backend, dtype: Any) -> Any | None:
    """Return float32 where `dtype` is half precision, which is too narrow to sum in; else None."""
    return backend.xp.float32 if dtype_name(dtype) in ("float16", "bfloat16") else None


def check_rank(op: str, name: str, array: Array, rank: int, layout: str) -> None:
    """Require that `array` has `rank` axes."""
    if array.ndim != rank:
        raise ShapeError(
            f"{op}: {name} must have {rank} axes {layout}, got {array.ndim} (shape {tuple(array.shape)})"
        )


def check_dy(op: str, dy: Array, shape: tuple[int, ...], like: Array) -> Backend:
    """Require that the gradient `dy` has the shape, backend and dtype of the forward result."""
    backend = common_backend(op, dy=dy, x=like)
    if tuple(dy.shape) != tuple(shape):
        raise ShapeError(f"{op}: dy has shape {tuple(dy.shape)} but the forward result had {tuple(shape)}")
    return backend


def pair(op: str, name: str, value: Any, minimum: int) -> tuple[int, int]:
    """Return an int or a (height, width) pair of ints as a pair, each at least `minimum`."""
    values = (value, value) if not isinstance(value, (tuple, list)) else tuple(value)
    if len(values) != 2 or not all(_is_int(v) for v in values):
        raise ArgumentError(f"{op}: {name} must be an int or a pair (height, width), got {value!r}")
    if min(values) < minimum:
        raise ArgumentError(f"{op}: {name} must be at least {minimum}, got {value!r}")
    return int(values[0]), int(values[1])


def _is_int(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)
