"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from xpcnn import __version__
from xpcnn.backend.cpu.native import library as native
from xpcnn.backend.device_info import processor

# By their names in package registries; CuPy has one for each major version of CUDA.
_NEEDED = ("numpy", "array-api-compat", "array-api-extra", "safetensors", "pooch", "threadpoolctl", "tqdm")
_OPTIONAL = ("cupy-cuda12x", "cupy-cuda13x", "cupy", "nvidia-cudnn-frontend", "nvidia-cudnn-cu12",
             "nvidia-cudnn-cu13", "torch", "array-api-strict", "ml_dtypes", "matplotlib",
             "pillow")  # fmt: skip


def machine() -> dict[str, Any]:
    """Return the processor, the cores this process may use, and the versions that matter."""
    return {**hardware(), **versions()}


def hardware() -> dict[str, Any]:
    """Return the processor, the cores this process may use, and the compiled kernels."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kernels = native.version() or f"none: {native.why_absent()}"
    return {"processor": processor(), "cores": cores, "kernels": kernels}


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package, of the libraries it works with and of NumPy's BLAS."""
    found = {"xpcnn": __version__, "python": platform.python_version()}
    for name in (*_NEEDED, *_OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if name in _NEEDED:
                found[name] = "missing"
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {**found, "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()}
