"""The known backends, each imported when first asked for; which of them an array lives on."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from xpcnn.backend.arrays import Array
from xpcnn.errors import BackendError

if TYPE_CHECKING:
    from xpcnn.backend.base import Backend

__all__ = [
    "BACKENDS",
    "available_backends",
    "backend_names",
    "home_of",
    "is_array",
    "library_of",
    "load",
    "native",
    "to_numpy",
]

LIBRARIES = ("numpy", "cupy", "torch", "array_api_strict")

_MODULES = {
    "numpy": "xpcnn.backend._numpy",
    "cupy": "xpcnn.backend._cupy",
    "torch": "xpcnn.backend._torch",
    "array_api_strict": "xpcnn.backend._strict",
    "other": "xpcnn.backend.base",
}


def backend_names() -> tuple[str, ...]:
    """Return the name of every known backend, usable here or not."""
    return LIBRARIES


def available_backends() -> dict[str, str | None]:
    """Return every known backend with None, or the reason why it cannot be used here.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.available_backends()["numpy"] is None
    True
    """
    return {name: module_of(name).unavailable() for name in LIBRARIES}


def module_of(name: str) -> ModuleType:
    """Return the module of a backend, without importing the library behind it."""
    return importlib.import_module(_MODULES[name])


def load(name: str, device: Any = None) -> Backend:
    """Return the backend of that name on `device`, or raise `BackendError` saying why not."""
    if not isinstance(name, str) or name not in LIBRARIES:
        raise BackendError(f"unknown backend {name!r}; known: {', '.join(LIBRARIES)}")
    module = module_of(name)
    reason = module.unavailable(device)
    if reason is not None:
        raise BackendError(f"backend {name} cannot be used: {reason}")
    try:
        return instance(name, module.parse_device(device))
    except ImportError as error:
        raise BackendError(f"backend {name} cannot be used: it is installed, but {error}") from error


_instances: dict[tuple[str, Any], Backend] = {}


def instance(name: str, device: Any) -> Backend:
    """Return the one backend object of a library's device."""
    found = _instances.get((name, device))
    if found is None:
        # setdefault is atomic: threads that miss together still share one object.
        found = _instances.setdefault((name, device), module_of(name).create(device))
    return found


@functools.cache
def library_of(kind: type) -> str | None:
    """Return which library's arrays are of a type: one of LIBRARIES, "other", or None for no array's type."""
    for base in kind.__mro__:
        name = base.__module__.partition(".")[0]
        if name == "numpy":
            # NumPy's scalars (numpy.float32(1)) count as arrays: its functions answer 0-d input with them.
            fits = issubclass(kind, (np.ndarray, np.generic))
        else:
            # Libraries have types that are no arrays: torch.Size, torch.nn.Module, dtypes, devices.
            fits = name in LIBRARIES and all(hasattr(kind, one) for one in ("shape", "dtype", "device"))
        if fits:
            return name
    return "other" if hasattr(kind, "__array_namespace__") else None


def is_array(x: Any) -> bool:
    """Return whether `x` is an array of some library (numbers and sequences are not)."""
    kind: type = type(x)
    return library_of(kind) is not None


def native(x: Any) -> Any:
    """Return an array in this machine's byte order, and a torch tensor detached from its graph.

    Anything else is returned as it is.
    """
    if getattr(x, "requires_grad", False):
        return x.detach()
    if getattr(getattr(x, "dtype", None), "isnative", True):
        return x
    return np.asarray(x, dtype=x.dtype.newbyteorder("="))


BACKENDS: dict[type, Backend] = {}
"""The backends of arrays whose type alone tells it: those of NumPy, once there was one."""


def home_of(array: Array) -> Backend:
    """Return the backend an array lives on, whichever device is current: to copy it, not to compute."""
    kind = type(array)
    found = BACKENDS.get(kind)
    if found is not None:
        return found
    library = library_of(kind)
    if library is None:
        raise BackendError(f"expected an array, got {kind.__name__}; make one with xpcnn.asarray(...)")
    found = instance(library, module_of(library).device_of(array))
    return BACKENDS.setdefault(kind, found) if kind is np.ndarray else found


def to_numpy(x: Array) -> np.ndarray:
    """Return an array of any backend as a NumPy array on the host (no copy if it is one)."""
    return home_of(x).to_numpy(x)
