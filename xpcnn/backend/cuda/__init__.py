"""CUDA kernels, and the functions that start them in place of the portable primitives.

A family is a source ``<name>.cu`` and a module ``<name>.py`` of wrappers: each takes what the `primitive` of
its name takes, and answers `NotImplemented` where its kernel does not serve the arguments.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from xpcnn.backend.cuda.source import Family

__all__ = ["families", "table"]

_MODULES: Final = ("conv", "pool", "norm", "random", "optim", "images")


def families() -> tuple[Family, ...]:
    """Return every family there is."""
    return tuple(module.FAMILY for module in _modules())


def table() -> Mapping[str, Callable[..., Any]]:
    """Return the wrappers by the names of the primitives they replace. Nothing is compiled yet."""
    found: dict[str, Callable[..., Any]] = {}
    for module in _modules():
        found.update(module.KERNELS)
    return MappingProxyType(found)


def _modules() -> list[Any]:
    return [importlib.import_module(f"{__name__}.{name}") for name in _MODULES]
