"""Show versions, backends and devices, and where datasets and measured choices are kept.

This is what a bug report should come with.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import os
import platform
from collections.abc import Iterator

import numpy as np

from xpcnn import __version__
from xpcnn.backend import available_backends, get_backend, get_num_threads, use_backend
from xpcnn.backend.threads import THREADS_VARIABLE
from xpcnn.cli.output import shown
from xpcnn.data.fetch import DATA_DIR_VARIABLE, SHARED, cache_dir, expand, has_names, holds
from xpcnn.data.mnist import FASHION_MNIST, MNIST
from xpcnn.errors import ArgumentError, BackendError, DatasetError
from xpcnn.ops.conv.tuning_cache import tuning_cache

__all__ = ["add_arguments", "run"]

# By their names in package registries; CuPy has one for each major version of CUDA.
_NEEDED = ("numpy", "array-api-compat", "array-api-extra", "safetensors", "pooch", "threadpoolctl", "tqdm")
_OPTIONAL = (
    "cupy-cuda12x",
    "cupy-cuda13x",
    "cupy",
    "ml_dtypes",
    "nvidia-cudnn-frontend",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "torch",
    "array-api-strict",
    "matplotlib",
    "pillow",
)
_DEVICES = {"cupy": ("{}",), "torch": ("cuda:{}", "mps", "xpu:{}")}
"""The names that devices beside the default one may have; {} stands for 0, 1, …"""

_LONG = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options: there are none."""


def run(args: argparse.Namespace) -> int:
    """Print it all."""
    sections = {
        "versions": _versions(),
        "backends": _backends(),
        "processor": _processor(),
        "datasets": _datasets(),
        "autotune": _autotune(),
        "settings": _settings(),
    }
    for title, lines in sections.items():
        print(title)
        for name, value in _as_far_as_known(lines):
            print(f"  {shown(name):<18} {shown(value)}", flush=True)
    return 0


def _as_far_as_known(lines: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield what a section tells; an error, such as of a path that cannot be, is its last line."""
    try:
        yield from lines
    except OSError as error:
        yield "unknown", error.strerror or str(error)


def _versions() -> Iterator[tuple[str, str]]:
    yield "xpcnn", __version__
    yield "Python", f"{platform.python_version()} ({platform.platform()})"
    for name in (*_NEEDED, *_OPTIONAL):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in _NEEDED:
                yield name, "missing"


def _backends() -> Iterator[tuple[str, str]]:
    for name, reason in available_backends().items():
        yield name, reason or "available on " + ", ".join(dict.fromkeys(_devices(name)))
    yield from _in_use()


def _in_use() -> Iterator[tuple[str, str]]:
    try:
        backend = get_backend()
    except BackendError as error:
        yield "in use", f"none: {error}"
        return
    switches = (f"{name} {'on' if value else 'off'}" for name, value in backend.settings().items())
    yield "in use", ", ".join((str(backend), *switches))


def _devices(name: str) -> Iterator[str]:
    with use_backend(name) as backend:
        yield str(backend.device)
    for pattern in _DEVICES.get(name, ()):
        for number in itertools.count() if "{}" in pattern else (0,):
            try:
                with use_backend(name, pattern.format(number)) as backend:
                    yield str(backend.device)
            except BackendError:
                break


def _processor() -> Iterator[tuple[str, str]]:
    from threadpoolctl import threadpool_info

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cores", f"{usable} usable of {os.cpu_count()}"
    try:
        yield "threads", f"{get_num_threads()} (${THREADS_VARIABLE}, or the usable cores)"
    except ArgumentError as error:
        yield "threads", str(error)
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    yield "NumPy's BLAS", f"{blas.get('name', 'unknown')} {blas.get('version', '')}"
    for pool in threadpool_info():
        yield "thread pool", f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads"


def _datasets() -> Iterator[tuple[str, str]]:
    own = os.environ.get(DATA_DIR_VARIABLE)
    roots = [cache_dir()]
    if own:
        try:
            roots.insert(0, expand(own))
        except DatasetError as error:
            yield "in no folder", str(error)
    yield "looked for in", ", then ".join(map(str, roots))
    yield "synthetic-digits", "drawn by the program"
    for source in (MNIST, FASHION_MNIST):
        # What a folder of its own holds is the dataset's; elsewhere another's files may have those names.
        found = [root / name for root in roots for name in source.folders if has_names(root / name, source)]
        found += [root / name for root in roots for name in SHARED if holds(root / name, source)]
        yield source.name, f"in {found[0]}" if found else "not here; fetched when first used"


def _autotune() -> Iterator[tuple[str, str]]:
    try:
        cache = tuning_cache()
    except ArgumentError as error:
        yield "measured choices", str(error)
        return
    yield "measured choices", f"{len(cache.choices)} in {cache.path}"


def _settings() -> Iterator[tuple[str, str]]:
    ours = sorted(name for name in os.environ if name.startswith("XPCNN_"))
    for name in ours:
        value = os.environ[name]
        yield f"${name}", value if len(value) <= _LONG else f"{value[:_LONG]}… ({len(value):,} characters)"
    if not ours:
        yield "$XPCNN_…", "none set"
