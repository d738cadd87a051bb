"""CUDA kernels, and the functions that start them in place of the portable primitives.

A family is a source ``<name>.cu`` and a module ``<name>.py`` of wrappers: each takes what the `primitive` of
its name takes, and answers `NotImplemented` where its kernel does not serve the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from xpcnn.backend.cuda import conv, images, norm, optim, pool, random

__all__ = ["FAMILIES", "table"]

_MODULES: Final = (conv, pool, norm, random, optim, images)

FAMILIES: Final = tuple(module.FAMILY for module in _MODULES)


def table() -> Mapping[str, Callable[..., Any]]:
    """Return the wrappers by the names of the primitives they replace. Nothing is compiled yet."""
    return {name: kernel for module in _MODULES for name, kernel in module.KERNELS.items()}
