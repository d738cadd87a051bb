"""Names of a package that are imported when they are first used, so that importing the package is quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazily"]


def lazily(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    names : mapping of str to str
        Modules -> the attributes found in each, parted by spaces; of the package itself, its submodules.
    """
    places = {name: module for module, found in names.items() for name in found.split()}

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if places[name] == package:
            return importlib.import_module(f"{package}.{name}")  # which sets the attribute
        value = getattr(importlib.import_module(places[name]), name)
        setattr(sys.modules[package], name, value)  # from now on without this function
        return value

    return get
