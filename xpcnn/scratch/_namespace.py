"""The stand-in for ``import numpy as np``, whose names are looked up on the current backend at each use."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy

from xpcnn.backend import Array, Backend, get_backend, is_array
from xpcnn.scratch._arrays import default_float

__all__ = ["np", "random_of"]

_LIKE_NUMPY = {"numpy", "cupy"}
"""Backends whose library has NumPy's own functions, and is handed out as it is."""

_CREATING = {"arange", "asarray", "empty", "eye", "full", "linspace", "ones", "zeros"}
_OF_NUMBERS = {"abs", "ceil", "cos", "exp", "floor", "log", "sin", "sqrt", "tanh"}
_DRAWS = {"choice", "normal", "permutation", "rand", "randint", "randn", "random", "seed", "uniform"}


class StandIn(ModuleType):
    """A module whose attributes are those of the current backend's library.

    With NumPy it is NumPy, with CuPy it is CuPy. With another library it has what that library's array API
    namespace has, and of NumPy's names beyond the standard those that the book's scripts cannot do without:
    ``array``, ``average``, ``dot``, ``newaxis`` and ``random``.

    Raises
    ------
    AttributeError
        For a name that the current backend does not have.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn.scratch import np
    >>> np.dot(np.array([[1.0, 2.0]]), np.array([3.0, 4.0]))
    array([11.])
    >>> with xpcnn.use_backend("array_api_strict"):
    ...     x = np.ones((2, 3))
    >>> xpcnn.backend_of(x).name
    'array_api_strict'
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python itself asks modules for
            raise AttributeError(name)
        backend = get_backend()
        if backend.name in _LIKE_NUMPY:
            return getattr(sys.modules[backend.name], name)
        return _adapt(backend, name)


np: Any = StandIn("np", StandIn.__doc__)


def _adapt(backend: Backend, name: str) -> Any:
    """Return what stands for NumPy's `name` with a library that is not made like NumPy."""
    if name == "random":
        return HostRandom(backend)
    if name == "array":
        return functools.partial(_array, backend)
    if name == "newaxis":
        return None
    # torch has a dot of its own, for vectors alone; matmul is NumPy's dot up to two axes.
    found = getattr(backend.xp, {"dot": "matmul", "average": "mean"}.get(name, name), None)
    if found is None:
        raise AttributeError(
            f"xpcnn.scratch.np: the backend {backend.name} has no {name!r}; numpy and cupy have all that "
            f"NumPy has, and xpcnn.to_numpy(x) is for NumPy's own functions"
        )
    if name in _CREATING:
        return functools.partial(found, device=backend.device)
    return _of_numbers(name, found) if name in _OF_NUMBERS else found


def _array(backend: Backend, values: Any, dtype: Any = None) -> Array:
    """Return a new array, as ``numpy.array`` does: of an array, a number, or a sequence of either."""
    if isinstance(values, (list, tuple)) and values and all(is_array(value) for value in values):
        values = backend.xp.stack([backend.asarray(value) for value in values])
    return backend.copy(backend.asarray(values, dtype))


def _of_numbers(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, which takes arrays alone, extended to ``np.sqrt(2.0 / n)``: a Python number."""

    @functools.wraps(function)
    def either(x: Any, **options: Any) -> Any:
        return function(x, **options) if is_array(x) else getattr(numpy, name)(x).item()

    return either


class HostRandom:
    """The functions of ``numpy.random`` that the book uses, for a library that has none of that kind.

    Numbers are drawn by NumPy on the host, whose global state ``seed`` sets, and moved to the backend;
    floating ones take the library's default dtype.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _DRAWS:
            raise AttributeError(
                f"xpcnn.scratch.np.random: {name!r} is not offered on the backend {self._backend.name}; "
                f"there are {', '.join(sorted(_DRAWS))}"
            )
        return functools.partial(self._draw, getattr(numpy.random, name))

    def _draw(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        backend = self._backend
        on_host = [backend.to_numpy(value) if is_array(value) else value for value in arguments]
        drawn = function(*on_host, **options)
        if not isinstance(drawn, numpy.ndarray):
            return drawn
        return backend.asarray(drawn, default_float(backend) if drawn.dtype.kind == "f" else None)


def random_of(backend: Backend) -> Any:
    """Return what ``np.random`` is while `backend` is the current one."""
    return sys.modules[backend.name].random if backend.name in _LIKE_NUMPY else HostRandom(backend)
