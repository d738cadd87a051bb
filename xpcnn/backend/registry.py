"""The known backends, each imported when first asked for."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from xpcnn.backend.base import Backend
from xpcnn.errors import BackendError

__all__ = ["available_backends", "backend_names", "load"]

_MODULES = {
    "numpy": "xpcnn.backend._numpy",
    "cupy": "xpcnn.backend._cupy",
    "torch": "xpcnn.backend._torch",
    "array_api_strict": "xpcnn.backend._strict",
}


def backend_names() -> tuple[str, ...]:
    """Return the name of every known backend, usable here or not."""
    return tuple(_MODULES)


def available_backends() -> dict[str, str | None]:
    """Return every known backend with None, or the reason why it cannot be used here.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.available_backends()["numpy"] is None
    True
    """
    return {name: module_of(name).unavailable() for name in _MODULES}


def module_of(name: str) -> ModuleType:
    """Return the module of a backend, without importing the library behind it."""
    if not isinstance(name, str) or name not in _MODULES:
        raise BackendError(f"unknown backend {name!r}; known: {', '.join(_MODULES)}")
    return importlib.import_module(_MODULES[name])


def load(name: str, device: Any = None) -> Backend:
    """Return the backend of that name on `device`, or raise `BackendError` saying why not."""
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
