"""Which algorithms were measured to be the fastest, on what: a file that outlives the process.

A cache is never worth an error: a file that cannot be used is ignored with a warning, and replaced.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from xpcnn.backend import Backend
from xpcnn.backend.device_info import processor
from xpcnn.backend.threads import blas_threads
from xpcnn.errors import ArgumentError, CheckpointError
from xpcnn.io import checked, make_folder, read_json, write_json

__all__ = ["TuningCache", "cache_file", "environment_of", "threads_of", "tuning_cache"]


def cache_file() -> Path:
    """Return where choices are kept: in ``$XPCNN_CACHE_DIR``, else in the user's cache folder."""
    folder = os.environ.get("XPCNN_CACHE_DIR")
    if not folder:
        import pooch

        folder = pooch.os_cache("xpcnn")
    try:
        return Path(folder).expanduser() / "autotune.json"
    except RuntimeError as error:  # of ~nobody
        raise ArgumentError(f"$XPCNN_CACHE_DIR: {folder!r}: {error}") from None


class TuningCache:
    """Names of algorithms by what they were measured for, in memory and in a JSON file.

    The file is read now, and written whole with each addition. Of processes that write it, the last one's
    choices stay; those of the others are measured again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.choices: dict[str, str] = {}
        self._writable = True
        try:
            if path.is_file():
                self.choices = checked(dict[str, str], read_json(path), str(path))
        except CheckpointError as error:
            self._warn(f"ignoring {error}; measuring again, and replacing it")

    def add(self, task: str, algorithm: str) -> None:
        """Keep a choice, in the file too where it can be written."""
        self.choices[task] = algorithm
        try:
            if self._writable:
                make_folder(self.path.parent)
                write_json(self.path, self.choices)
        except OSError as error:
            self._writable = False
            self._warn(f"{error}; choices last for this process only")

    @staticmethod
    def _warn(message: str) -> None:
        warnings.warn(f"autotune: {message}", RuntimeWarning, stacklevel=3)


_caches: dict[Path, TuningCache] = {}


def tuning_cache() -> TuningCache:
    """Return the choices in `cache_file`, which is read once."""
    path = cache_file()
    if path not in _caches:
        _caches[path] = TuningCache(path)
    return _caches[path]


def environment_of(backend: Backend) -> str:
    """Return the device, how it is set to compute, and the versions of xpcnn and of the backend's library."""
    from xpcnn import __version__

    facts = {**backend.device_info(), **backend.settings()}
    if backend.is_host:
        facts |= {"device": processor(), "threads": threads_of(backend)}
    facts |= {"xpcnn": __version__, backend.name: getattr(sys.modules.get(backend.name), "__version__", "")}
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def threads_of(backend: Backend) -> int:
    """Return how many threads the matrix products of the backend's library use on the host at present."""
    if backend.name == "torch":
        return int(sys.modules["torch"].get_num_threads())
    return blas_threads()
