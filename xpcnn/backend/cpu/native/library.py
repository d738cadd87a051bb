"""The compiled kernels as ctypes functions: which version of the library is loaded, and what each takes."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from xpcnn.errors import BackendError

__all__ = ["VARIABLE", "Library", "built_versions", "library", "version", "why_absent"]

VARIABLE: Final = "XPCNN_NATIVE"
"""The environment variable that chooses a version: ``0`` for none, or one of `VERSIONS`."""

VERSIONS: Final = {"x86_64": ("v4", "v3", "v2"), "aarch64": ("neon",)}
"""The versions that are built for an architecture, the fastest first."""

ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64"}

HERE: Final = Path(__file__).parent
SOURCES: Final = HERE

_POINTER, _LONG, _INT, _DOUBLE = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_double
_KINDS: Final = {"p": _POINTER, "l": _LONG, "i": _INT, "d": _DOUBLE}

# Of each function: what it returns, if anything, and takes.
_SIGNATURES: Final = {
    "width": ("l", ""),
    "packed_forward_size": ("l", "p"),
    "packed_turned_size": ("l", "p"),
    "pack_forward": ("", "ppp"),
    "pack_turned": ("", "ppp"),
    "forward_scratch": ("l", "p"),
    "forward": ("", "pppppipp"),
    "grad_input_scratch": ("l", "p"),
    "grad_input": ("", "pppppp"),
    "grad_weight_size": ("l", "p"),
    "grad_weight_scratch": ("l", "p"),
    "grad_weight": ("", "ppppppp"),
    "unpack": ("", "ppp"),
    "max_pool": ("", "ppp"),
    "max_pool_gradient": ("", "ppppip"),
    "avg_pool": ("", "ppip"),
    "avg_pool_gradient": ("", "ppip"),
    "sum_channels": ("", "pllp"),
    "moments": ("", "ppllp"),
    "normalise": ("", "ppppillp"),
    "norm_sums": ("", "ppppllp"),
    "norm_gradient": ("", "pppppppllp"),
    "relu": ("", "ppl"),
    "relu_gradient": ("", "pppl"),
    "add": ("", "pppl"),
    "add_bias": ("", "ppill"),
    "cross_entropy": ("", "ppllpp"),
    "cross_entropy_gradient": ("", "ppdllp"),
    "sgd": ("", "ppppddidl"),
    "adam": ("", "pppppdddddddl"),
}
_WINOGRAD: Final = {
    "pack": ("", "ppip"),
    "packed_size": ("l", "ll"),
    "scratch": ("l", "pl"),
    "forward": ("l", "pppppipllp"),
    "grad_weight": ("", "ppppppllp"),
    "unpack": ("l", "ppp"),
}


class Library:
    """The kernels for one dtype as attributes: ``library.forward(…)``. `winograd` has those of F(m×m)."""

    def __init__(self, loaded: ctypes.CDLL, prefix: str) -> None:
        _bind(self, loaded, prefix, _SIGNATURES)
        self.winograd = {m: SimpleNamespace() for m in (2, 4)}
        for m, functions in self.winograd.items():
            _bind(functions, loaded, f"{prefix}_winograd{m}", _WINOGRAD)
        self.lanes: int = self.width()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def _bind(owner: Any, loaded: ctypes.CDLL, prefix: str, signatures: Mapping[str, tuple[str, str]]) -> None:
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, f"{prefix}_{name}")
        function.restype = _KINDS.get(result)
        function.argtypes = [_KINDS[kind] for kind in arguments]
        setattr(owner, name, function)


@functools.cache
def library(dtype: str) -> Library | None:
    """Return the kernels for ``"float32"`` or ``"float64"``, or None where there are none."""
    loaded = _loaded()
    prefix = {"float32": "f32", "float64": "f64"}.get(dtype)
    return None if prefix is None or isinstance(loaded, str) else Library(loaded, prefix)


def why_absent() -> str | None:
    """Return why there are no compiled kernels, or None where there are."""
    loaded = _loaded()
    return loaded if isinstance(loaded, str) else None


def version() -> str | None:
    """Return which version is loaded, such as ``"v4"``."""
    loaded = _loaded()
    return None if isinstance(loaded, str) else Path(loaded._name).stem.removeprefix("kernels_")


def built_versions() -> list[str]:
    """Return the versions that were built, the fastest first."""
    return [name for name in _known() if _path(name).exists()]


def _known() -> tuple[str, ...]:
    machine = platform.machine().lower()
    return VERSIONS.get(ARCHITECTURES.get(machine, machine), ())


@functools.cache
def _loaded() -> ctypes.CDLL | str:
    """Return the library, or why there is none."""
    asked, built = os.environ.get(VARIABLE, ""), built_versions()
    if asked == "0":
        return f"switched off by ${VARIABLE}=0"
    if asked and asked not in _known():
        raise BackendError(f"${VARIABLE} must be 0 or one of {', '.join(_known())}, got {asked!r}")
    if not built:
        return "not built; they are compiled when xpcnn is installed where there is a C++ compiler"
    if asked and asked not in built:
        raise BackendError(f"${VARIABLE}={asked}: only {', '.join(built)} were built")
    lowest = _open(built[-1])
    if isinstance(lowest, str):
        names, reasons, level = [], [lowest], 0
    else:
        names, reasons, level = [asked] if asked else built, [], lowest.processor_level()
    for name in names:
        if not name.startswith("v") or int(name[1:]) <= level:
            found = _open(name)
            if not isinstance(found, str):
                return found
            reasons.append(found)
    if asked or not reasons:
        too_little = f"this processor has no more than x86-64-v{level}"
        reason = f"the compiled kernels are {reasons[0]}" if reasons else too_little
        raise BackendError(f"${VARIABLE}={asked or built[-1]}: {reason}")
    return reasons[0]


def _open(name: str) -> ctypes.CDLL | str:
    """Return a version of the library, or why that cannot be used."""
    path = _path(name)
    try:
        if not _is_whole(path):
            return f"not usable: {path} is cut off; install xpcnn again"
        loaded, expected = ctypes.CDLL(str(path)), _checksum()
    except OSError as error:
        return f"not usable: {error}; install xpcnn again"
    sources = getattr(loaded, "sources", None)
    if sources is not None:
        sources.restype = ctypes.c_long
    if expected is not None and (sources is None or sources() != expected):
        return f"not usable: {path} was compiled from other sources; install xpcnn again"
    return loaded


def _is_whole(path: Path) -> bool:
    """Return whether an ELF file is as long as it says: loading a part of one would end the process."""
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] != b"\x7fELF":
            return True  # another format, or none: the loader tells
        if len(head) < 64:
            return False
        sections, (size, count) = struct.unpack_from("<Q", head, 40)[0], struct.unpack_from("<HH", head, 58)
        return bool(file.seek(0, os.SEEK_END) >= sections + size * count)


def _checksum() -> int | None:
    """Return the checksum of the sources, as `hatch_build` computes it, or None where they are not here."""
    paths = sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.hpp")])
    return zlib.crc32(b"".join(path.read_bytes() for path in paths)) if paths else None


def _path(name: str) -> Path:
    return HERE / f"kernels_{name}.so"
