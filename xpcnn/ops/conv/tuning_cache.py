"""Which algorithms were measured to be the fastest, on what: a file that outlives the process.

A cache is never worth an error: a file that cannot be used is left out with a warning, and written anew.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xpcnn.backend import Backend
from xpcnn.backend.facts import device_facts
from xpcnn.ops.conv.geometry import ConvGeometry

__all__ = ["CACHE_DIR_VARIABLE", "TuningCache", "cache_file", "environment_of", "task", "tuning_cache"]

CACHE_DIR_VARIABLE = "XPCNN_CACHE_DIR"
_FORMAT = 1

# By their names in package registries; what a backend computes with, beside NumPy.
_LIBRARIES = {
    "cupy": ("cupy-cuda12x", "cupy-cuda13x", "cupy", "nvidia-cudnn-frontend"),
    "array_api_strict": ("array-api-strict",),
}

Choices = dict[str, dict[str, str]]


def cache_file() -> Path:
    """Return where choices are kept: in ``$XPCNN_CACHE_DIR``, else in the user's cache folder."""
    folder = os.environ.get(CACHE_DIR_VARIABLE)
    if not folder:
        import pooch

        folder = pooch.os_cache("xpcnn")
    return Path(folder).expanduser() / "autotune.json"


def tuning_cache() -> TuningCache:
    """Return the choices in `cache_file`, read when they are first asked for."""
    path = cache_file()
    with _lock:
        if path not in _caches:
            _caches[path] = TuningCache(path)
        return _caches[path]


_caches: dict[Path, TuningCache] = {}
_lock = threading.Lock()


class TuningCache:
    """Names of algorithms by environment and task, in memory and in a JSON file.

    Every addition writes the file whole, beside it first, and takes over what other processes have added
    since. What two write at the same moment, one may lose; it writes it again with its next addition.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: Choices | None = None
        self._added: Choices = {}
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many choices there are, of all environments."""
        with self._lock:
            return sum(map(len, self._choices().values()))

    def find(self, environment: str, task: str) -> str | None:
        """Return the algorithm chosen for a task, or None."""
        with self._lock:
            return self._choices().get(environment, {}).get(task)

    def add(self, environment: str, task: str, algorithm: str) -> None:
        """Keep a choice, in the file too where it can be written."""
        with self._lock:
            self._added.setdefault(environment, {})[task] = algorithm
            self._known = _merged(self._read(), self._added)
            try:
                self._write(self._known)
            except OSError as error:
                reason = error.strerror or error
                self._warn(f"cannot write {self.path} ({reason}); choices last for this process only")

    def _choices(self) -> Choices:
        if self._known is None:
            self._known = self._read()
        return self._known

    def _read(self) -> Choices:
        try:
            return _parsed(self.path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):  # the latter is told of when writing
            return {}
        except OSError as error:
            self._warn(f"cannot read {self.path} ({error.strerror or error}); measuring anew")
        except (ValueError, RecursionError) as error:  # what json raises, and decoding, are ValueErrors
            self._warn(f"ignoring {self.path} ({error}); measuring anew, and replacing it")
        return {}

    def _write(self, choices: Choices) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}-{threading.get_ident()}.part")
        text = json.dumps({"format": _FORMAT, "choices": choices}, indent=1, sort_keys=True)
        try:
            part.write_text(text + "\n", "utf-8")
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(f"autotune: {message}", RuntimeWarning, stacklevel=2)


def _parsed(text: str) -> Choices:
    content = json.loads(text)
    if not isinstance(content, dict) or "format" not in content:
        raise ValueError("not a file of measured choices")
    if content["format"] != _FORMAT:
        raise ValueError(f"format {content['format']!r}, not {_FORMAT}")
    choices: Any = content.get("choices")
    if not isinstance(choices, dict) or not all(map(_are_names, choices.values())):
        raise ValueError("its choices are not names by environment and task")
    return choices


def _are_names(tasks: Any) -> bool:
    return isinstance(tasks, dict) and all(isinstance(name, str) for name in tasks.values())


def _merged(first: Choices, second: Choices) -> Choices:
    """Return the choices of both; where they differ, the second's."""
    return {name: {**first.get(name, {}), **second.get(name, {})} for name in first | second}


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
    """Return the device, how it is set to compute, and the versions of what computes on it."""
    return _environment(backend, tuple(backend.settings().items()), _threads(backend))


@functools.lru_cache(maxsize=64)
def _environment(backend: Backend, settings: tuple[tuple[str, bool], ...], threads: int) -> str:
    facts = device_facts(backend)
    device = facts.pop("device")
    if backend.reads_are_free:  # on the host
        device = f"{_processor()}, {threads} thread{'s' if threads != 1 else ''}"
    from xpcnn import __version__

    libraries = ("numpy", *_LIBRARIES.get(backend.name, (backend.name,)))
    versions = {name: version for name in libraries if (version := _version(name)) is not None}
    described = {**facts, **dict(settings), "xpcnn": __version__, **versions}
    return "; ".join(
        [f"{backend.name} on {device}", *(f"{name} {value}" for name, value in described.items())]
    )


def _version(package: str) -> str | None:
    import importlib.metadata  # slow to import, and needed here alone

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


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
    if not backend.reads_are_free:
        return 0
    pools = _pools("openmp" if backend.name == "torch" else "blas")
    return max((pool.num_threads for pool in pools), default=1)


@functools.cache
def _pools(kind: str) -> list[Any]:
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api=kind).lib_controllers)
