"""Which algorithms were measured to be the fastest, on what: a file that outlives the process.

A cache is never worth an error: a file that cannot be used is ignored with a warning, and replaced.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from xpcnn.backend import Backend
from xpcnn.errors import ArgumentError, CheckpointError
from xpcnn.io import checked, read_json, write_json
from xpcnn.ops.conv.geometry import ConvGeometry

__all__ = ["CACHE_DIR_VARIABLE", "TuningCache", "cache_file", "environment_of", "task", "tuning_cache"]

CACHE_DIR_VARIABLE = "XPCNN_CACHE_DIR"
_FORMAT: Literal[1] = 1

Choices = dict[str, dict[str, str]]


class _Content(NamedTuple):
    """What the file holds."""

    format: Literal[1]
    choices: Choices


def cache_file() -> Path:
    """Return where choices are kept: in ``$XPCNN_CACHE_DIR``, else in the user's cache folder."""
    folder = os.environ.get(CACHE_DIR_VARIABLE)
    if not folder:
        import pooch

        folder = pooch.os_cache("xpcnn")
    try:
        return Path(folder).expanduser() / "autotune.json"
    except RuntimeError as error:  # of ~nobody
        raise ArgumentError(f"${CACHE_DIR_VARIABLE}: {folder!r}: {error}") from None


def tuning_cache() -> TuningCache:
    """Return the choices in `cache_file`, which is read once."""
    path = cache_file()
    with _lock:
        if path not in _caches:
            _caches[path] = TuningCache(path)
        return _caches[path]


_caches: dict[Path, TuningCache] = {}
_lock = threading.Lock()


class TuningCache:
    """Names of algorithms by environment and task, in memory and in a JSON file.

    The file is read now, and written whole with each addition. Of processes that write it, the last one's
    choices stay; those of the others are measured again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writable = True
        self._lock = threading.Lock()
        self._choices: Choices = {}
        try:
            if path.is_file():
                self._choices = checked(_Content, read_json(path), str(path)).choices
        except CheckpointError as error:
            self._warn(f"ignoring {error}; measuring again, and replacing it")

    def __len__(self) -> int:
        """Return how many choices there are, of all environments."""
        with self._lock:
            return sum(map(len, self._choices.values()))

    def find(self, environment: str, task: str) -> str | None:
        """Return the algorithm chosen for a task, or None."""
        return self._choices.get(environment, {}).get(task)

    def add(self, environment: str, task: str, algorithm: str) -> None:
        """Keep a choice, in the file too where it can be written."""
        with self._lock:
            self._choices.setdefault(environment, {})[task] = algorithm
            try:
                if self._writable:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    write_json(self.path, _Content(_FORMAT, self._choices)._asdict())
            except OSError as error:
                self._writable = False
                ours = isinstance(error, CheckpointError)  # which names the file
                reason = error if ours else f"cannot write {self.path}: {error.strerror or error}"
                self._warn(f"{reason}; choices last for this process only")

    @staticmethod
    def _warn(message: str) -> None:
        warnings.warn(f"autotune: {message}", RuntimeWarning, stacklevel=3)


# -- what a choice holds for -----------------------------------------------------------


def task(geometry: ConvGeometry, pass_name: str, dtype: str, limit: int, candidates: Sequence[str]) -> str:
    """Return all that a choice depends on beside the environment; a new candidate may be a better one."""
    g = geometry
    return (
        f"{pass_name} {dtype} x{_sizes(g.input_shape)} w{_sizes(g.weight_shape)} stride{_sizes(g.stride)} "
        f"padding{_sizes(g.padding)} dilation{_sizes(g.dilation)} groups{g.groups} "
        f"limit{limit} of {','.join(candidates)}"
    )


def _sizes(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


def environment_of(backend: Backend) -> str:
    """Return the device, how it is set to compute, and the versions of xpcnn and of the backend's library."""
    return _environment(backend, tuple(backend.settings().items()), _threads(backend))


@functools.lru_cache(maxsize=64)
def _environment(backend: Backend, settings: tuple[tuple[str, bool], ...], threads: int) -> str:
    facts = backend.device_info()
    device = facts.pop("device")
    if backend.is_host:  # on the host
        device = f"{_processor()}, {threads} thread{'s' if threads != 1 else ''}"
    from xpcnn import __version__

    described = {**facts, **dict(settings), "xpcnn": __version__, backend.name: _version(backend.name)}
    return "; ".join(
        [f"{backend.name} on {device}", *(f"{name} {value}" for name, value in described.items())]
    )


def _version(library: str) -> str:
    return str(getattr(sys.modules.get(library), "__version__", "unknown"))


@functools.cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):  # not Linux
        pass
    return platform.processor() or platform.machine()


def _threads(backend: Backend) -> int:
    """Return how many threads the library's matrix products use at present; 0 on a device of their own."""
    if not backend.is_host:
        return 0
    pools = _pools("openmp" if backend.name == "torch" else "blas")
    return max((pool.num_threads for pool in pools), default=1)


@functools.cache
def _pools(kind: str) -> list[Any]:
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api=kind).lib_controllers)


def _reset_in_child() -> None:
    """Release, in a forked child, the locks that other threads of its parent may have held."""
    global _lock
    _lock = threading.Lock()
    for cache in _caches.values():
        cache._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
