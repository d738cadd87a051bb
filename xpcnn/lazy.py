"""Names of a package that are imported when they are first used, so that importing the package is quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazily"]


def lazily(package: str, names: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    names : mapping of str to tuple of str
        Modules -> the attributes that are found in each; of the package itself, its submodules.
    """
    places = {name: module for module, found in names.items() for name in found}

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if places[name] == package:
            return importlib.import_module(f"{package}.{name}")  # which sets the attribute
        value = getattr(importlib.import_module(places[name]), name)
        setattr(sys.modules[package], name, value)  # from now on without this function
        return value

    return get
