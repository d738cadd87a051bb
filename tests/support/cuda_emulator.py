"""Kernels on the host: a family's source behind the shim, compiled for the CPU, called through ctypes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from xpcnn.backend.cuda.launch import PointerTable
from xpcnn.backend.cuda.source import Family

SHIM = Path(__file__).parent / "shim"
BLOCKS, THREADS = 3, 32
"""Few enough that most launches make each thread take several work items."""

GUARD = 256
"""Bytes on either side of every array that no kernel may write; read as floats they are NaN."""


def compiler() -> str | None:
    """The host's C++ compiler."""
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def program(family: Family) -> str:
    """C++ with functions ``run_<i>`` and ``size_<i>`` for each kernel of the family."""
    functions = "\n".join(
        f'extern "C" void run_{i}(unsigned blocks, unsigned threads, bool backwards, void **args) '
        f"{{ run_grid({kernel}, blocks, threads, backwards, args); }}\n"
        f'extern "C" std::size_t size_{i}(unsigned position) {{ return parameter_size({kernel}, position); }}'
        for i, kernel in enumerate(family.kernels)
    )
    return f'#include "device.h"\n{family.source()}\n{functions}\n'


def build(text: str, library: Path, *options: str) -> None:
    """Compile C++ into a library; warnings are errors."""
    source = library.with_suffix(".cpp")
    source.write_text(text, "utf-8")
    strict = ("-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function")
    command = [compiler() or "c++", *strict, *options, "-shared", "-fPIC", f"-I{SHIM}", "-o", library, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class HostLauncher:
    """Runs kernels over copies of their arrays that lie between guards.

    Every launch is run twice, from the first thread to the last and back, and must give the same bits: no
    thread may depend on what another wrote.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._libraries: dict[str, ctypes.CDLL] = {}
        try:  # can the compiler look out for overflows and misaligned vectors, and say so on stderr?
            build("int nothing;", directory / "nothing.so", "-fsanitize=undefined")
            self.options: tuple[str, ...] = ("-fsanitize=undefined",)
        except AssertionError:
            self.options = ()

    def _library(self, family: Family) -> ctypes.CDLL:
        if family.name not in self._libraries:
            path = self._directory / f"{family.name}.so"
            build(program(family), path, *self.options)
            self._libraries[family.name] = ctypes.CDLL(str(path))
        return self._libraries[family.name]

    def address(self, x: np.ndarray[Any, Any]) -> int:
        return int(x.__array_interface__["data"][0])

    def launch(self, family: Family, kernel: str, count: int, args: tuple[Any, ...]) -> None:
        library, number = self._library(family), family.kernels.index(kernel)
        run, size = library[f"run_{number}"], library[f"size_{number}"]
        forwards, backwards = Copies(), Copies()
        for copies, order in ((forwards, False), (backwards, True)):
            values = [copies.argument(arg) for arg in (count, *args)]
            sizes = [*map(ctypes.sizeof, values), 0]
            assert sizes == [size(i) for i in range(len(sizes))], f"{kernel}: arguments do not fit"
            places = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
            run(ctypes.c_uint(BLOCKS), ctypes.c_uint(THREADS), ctypes.c_bool(order), places)
            copies.check_guards(kernel)
        assert forwards.bytes() == backwards.bytes(), f"{kernel}: the order of its threads matters"
        forwards.write_back(kernel)


class Copies:
    """The memory of one launch's arrays, copied between guards; one copy where arrays are the same memory."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, int], tuple[np.ndarray[Any, Any], int, bool]] = {}
        self._tables: list[Any] = []  # kept until the launch is over

    def argument(self, arg: Any) -> Any:
        """What a kernel's parameter points at, as a ctypes object."""
        if isinstance(arg, PointerTable):
            table = (ctypes.c_void_p * len(arg.arrays))(
                *(None if x is None else self._pointer(x) for x in arg.arrays)
            )
            self._tables.append(table)
            return ctypes.c_void_p(ctypes.addressof(table))
        if arg is None:
            return ctypes.c_void_p(None)
        if isinstance(arg, np.ndarray) and arg.dtype.names is None:
            return ctypes.c_void_p(self._pointer(arg))
        if isinstance(arg, np.ndarray | np.generic):
            return (ctypes.c_char * arg.nbytes).from_buffer_copy(arg.tobytes())
        return {int: ctypes.c_longlong, float: ctypes.c_double}[type(arg)](arg)

    def _pointer(self, x: np.ndarray[Any, Any]) -> int:
        low, high = np.lib.array_utils.byte_bounds(x)
        if (low, high) not in self._blocks:
            for other_low, other_high in self._blocks:
                assert high <= other_low or other_high <= low, "arrays that share only part of their memory"
            self._blocks[low, high] = self._copy(low, high, x.flags.writeable)
        block, start, _ = self._blocks[low, high]
        return block.ctypes.data + start + x.__array_interface__["data"][0] - low

    @staticmethod
    def _copy(low: int, high: int, writeable: bool) -> tuple[np.ndarray[Any, Any], int, bool]:
        block = np.full(high - low + 3 * GUARD, 0xFF, dtype=np.uint8)
        start = GUARD + (low - block.ctypes.data) % 64  # aligned as the array is, for vectors
        ctypes.memmove(block.ctypes.data + start, low, high - low)
        return block, start, writeable

    def bytes(self) -> list[bytes]:
        """Everything the kernel may have written."""
        blocks = self._blocks.items()
        return [block[start : start + high - low].tobytes() for (low, high), (block, start, _) in blocks]

    def check_guards(self, kernel: str) -> None:
        for (low, high), (block, start, _) in self._blocks.items():
            outside = np.concatenate([block[:start], block[start + high - low :]])
            assert (outside == 0xFF).all(), f"{kernel} wrote outside an array"

    def write_back(self, kernel: str) -> None:
        for (low, high), (block, start, writeable) in self._blocks.items():
            inside = block[start : start + high - low].tobytes()
            if inside != ctypes.string_at(low, high - low):
                assert writeable, f"{kernel} wrote to a read-only array"
                ctypes.memmove(low, inside, high - low)
