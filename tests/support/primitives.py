"""The functions that a backend may replace by kernels of its own."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import xpcnn
from xpcnn import nn, ops, optim


def replaceable() -> dict[str, Any]:
    """The definitions by name: of primitives, and None for what `optim` marks as updated `foreach`."""
    found: dict[str, Any] = {"matmul": xpcnn.backend.matmul.portable}
    for package in (ops, nn, optim):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(info.name)).values():
                if hasattr(value, "portable"):
                    found[value.__name__] = value.portable
                elif inspect.isclass(value):
                    found.update({m.kernel: None for m in vars(value).values() if hasattr(m, "kernel")})
    return found
