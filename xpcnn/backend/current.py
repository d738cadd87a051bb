"""Which backend creates new arrays, which one arrays belong to, and which version of a function it runs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from xpcnn.backend import registry
from xpcnn.backend.arrays import Array, Namespace
from xpcnn.backend.base import Backend
from xpcnn.backend.reference import in_reference
from xpcnn.backend.registry import BACKENDS, home_of
from xpcnn.errors import BackendError

__all__ = [
    "asarray",
    "backend_of",
    "get_backend",
    "matmul",
    "namespace",
    "primitive",
    "release_memory",
    "set_backend",
    "use_backend",
]

# Worker threads start with an empty context, so the process default is a plain global.
_default: Backend | None = None
_override: ContextVar[Backend | None] = ContextVar("xpcnn_backend", default=None)


def set_backend(name: str, device: Any = None, **options: bool) -> None:
    """Choose where new arrays are created, for the whole process.

    Arrays and models that exist already stay where they are and keep working.

    Parameters
    ----------
    name : {"numpy", "cupy", "torch", "array_api_strict"}
        The array library.
    device : int or str, optional
        One of its devices: a number for CuPy, ``"cuda:1"`` or ``"mps"`` for torch.
    tf32 : bool, default False
        On CUDA devices: round float32 numbers to TF32 (10 bits of mantissa) before they are multiplied in
        matrix products and convolutions. Holds for the whole process, also for code outside xpcnn, because
        both libraries keep one switch for it.
    deterministic : bool, default True
        On CuPy: cuDNN may use only algorithms that give the same bits every time.

    Raises
    ------
    BackendError
        When the name is unknown, the library is not installed, the device cannot be used, or the backend has
        no such option. The backend in use before stays in use.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.set_backend("numpy")
    >>> xpcnn.get_backend().name
    'numpy'
    """
    global _default
    backend = registry.load(name, device)
    backend.configure({**backend.switches, **options})
    backend.activate()
    _default = backend


@contextmanager
def use_backend(name: str, device: Any = None, **options: bool) -> Iterator[Backend]:
    """Create new arrays on another backend inside a ``with`` block, in this context only.

    Other threads, and other asyncio tasks, are not affected; except by the options, those of `set_backend`,
    which hold for the whole process until the block ends. Options that are not named stay as they are.

    Examples
    --------
    >>> import xpcnn
    >>> with xpcnn.use_backend("numpy") as backend:
    ...     x = xpcnn.asarray([1.0, 2.0])
    >>> xpcnn.backend_of(x) is backend
    True
    """
    backend = registry.load(name, device)
    before = backend.settings()
    backend.configure(options)
    token = _override.set(backend)
    try:
        with backend.activated():
            yield backend
    finally:
        _override.reset(token)
        backend.configure({option: before[option] for option in options})


def get_backend() -> Backend:
    """Return the backend that creates new arrays: this context's, else the process default.

    The default is ``$XPCNN_BACKEND`` when that is set, else numpy.
    """
    return _override.get() or _default or _initial()


def _initial() -> Backend:
    global _default
    name = os.environ.get("XPCNN_BACKEND") or "numpy"
    try:
        _default = registry.load(name)
    except BackendError as error:
        raise BackendError(f"$XPCNN_BACKEND={name}: {error}") from error
    return _default


def asarray(x: Any, dtype: Any = None) -> Array:
    """Return `x` as an array of the current backend; the dtype is kept unless one is given.

    Parameters
    ----------
    x : array of any backend, sequence or number
    dtype : str or dtype, optional
        For example ``"float32"``.
    """
    return get_backend().asarray(x, dtype)


def namespace(*arrays: Array | None) -> Namespace:
    """Return the array namespace that all `arrays` share; None arguments are passed over.

    Raises
    ------
    BackendError
        When they are of two libraries or on two devices.
    """
    return backend_of(*arrays).xp


def backend_of(*arrays: Array | None) -> Backend:
    """Return the backend that all `arrays` live on; None arguments are passed over.

    Raises
    ------
    BackendError
        When they are of two libraries or on two devices, or when one is no array.
    """
    found = BACKENDS.get(type(arrays[0])) if len(arrays) == 1 else None
    if found is not None:  # by far the commonest
        return found
    for array in arrays:
        if array is None:
            continue
        backend = home_of(array)
        if not backend.is_host:
            backend.check_current()
        if found is None:
            found = backend
        elif backend is not found:
            raise BackendError(
                f"arrays on two backends: {found} and {backend}; move one side with "
                f"`with xpcnn.use_backend({found.name!r}): xpcnn.asarray(...)`, xpcnn.to_numpy(...) "
                f"or model.to(backend=...)"
            )
    if found is None:
        raise BackendError("no array given: a namespace is taken from at least one array")
    return found


# -- functions that a backend may replace by a kernel of its own -----------------------

Function = TypeVar("Function", bound=Callable[..., Any])


def primitive(portable: Function, *, draws: bool = False) -> Function:
    """Let the backend of the first argument, an array, replace this function by a kernel of the same name.

    The portable function stays the definition, and is what readers read; the kernel is held against it. A
    kernel is found in `Backend.kernels` and takes the same arguments. It answers `NotImplemented` where it
    does not serve their dtypes or shapes. The portable function, kept as ``portable``, does those, and all of
    them in `xpcnn.reference`; unless it `draws` random numbers, which are to be the same there.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn.backend import primitive
    >>> @primitive
    ... def double(x):
    ...     return 2 * x
    >>> double(xpcnn.asarray([1.0, 2.0]))
    array([2., 4.])
    """
    name = portable.__name__

    @functools.wraps(portable)
    def dispatch(x: Any, *args: Any, **options: Any) -> Any:
        backend = BACKENDS.get(type(x)) or backend_of(x)
        kernel = None if in_reference() and not draws else backend.kernels.get(name)
        if kernel is not None:
            result = kernel(x, *args, **options)
            if result is not NotImplemented:
                return result
        return portable(x, *args, **options)

    dispatch.portable = portable  # type: ignore[attr-defined]
    return cast(Function, dispatch)


@primitive
def matmul(a: Array, b: Array) -> Array:
    """Return ``a @ b`` of two matrices, or of two stacks of matrices (S, M, K) and (S, K, N)."""
    return a @ b if a.ndim == 2 else backend_of(a).xp.matmul(a, b)


def release_memory() -> None:
    """Give back what the backend in use keeps for later: free pages of the heap, or of the GPU's pool.

    While models run, memory that one step frees is kept for the next (on a CPU with glibc: at most 256 MiB
    at the end of each heap). Nothing that is in use is touched.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.release_memory()
    """
    get_backend().release_memory()
