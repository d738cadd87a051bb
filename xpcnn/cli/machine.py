"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from xpcnn import __version__
from xpcnn.backend.device_info import processor

__all__ = ["hardware", "machine", "versions"]

_LIBRARIES = ("numpy", "torch")
_OPTIONAL = ("cupy-cuda12x", "cupy-cuda13x", "cupy", "nvidia-cudnn-frontend")


def machine() -> dict[str, Any]:
    """Return the processor, the cores this process may use, and the versions that matter."""
    return {**hardware(), **versions()}


def hardware() -> dict[str, Any]:
    """Return the processor, and the cores this process may use."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def versions() -> dict[str, Any]:
    """Return the versions of Python, of this package, of the array libraries and of NumPy's BLAS."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    optional = {name: _version(name) for name in _OPTIONAL}
    return {
        "python": platform.python_version(),
        "xpcnn": __version__,
        **{name: _version(name) for name in _LIBRARIES},
        **{name: found for name, found in optional.items() if found is not None},
        "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
