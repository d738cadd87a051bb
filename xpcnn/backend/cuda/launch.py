"""Starting kernels: on the device through CuPy, or wherever a test's launcher runs them.

Nothing is compiled before a family's first launch. Launches go to CuPy's current stream, and nobody waits.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.cuda.source import Family, first_argument

__all__ = ["Launcher", "PointerTable", "address", "divider", "launch", "launched_by", "record", "sized"]

MOST_32BIT: int = (1 << 31) - 1
"""The most work items that are counted in 32 bits."""

_THREADS: Final = 256
_MOST_BLOCKS: Final = 1 << 16


class PointerTable(NamedTuple):
    """A kernel's argument that is an array in device memory of pointers to these arrays; None is a null one.

    It takes a copy to the device, for which nobody waits.
    """

    arrays: tuple[Array | None, ...]


class Launcher(Protocol):
    """What runs kernels and knows where arrays lie."""

    def launch(self, family: Family, kernel: str, count: int, args: tuple[Any, ...]) -> None:
        """Start `kernel` for `count` > 0 work items; `args` follow the count."""

    def address(self, x: Array) -> int:
        """Return where the first element of `x` lies."""


def launch(family: Family, kernel: str, count: int, *args: Any) -> None:
    """Start ``kernel(count, *args)``, one thread a work item; none at all where the count is 0.

    Parameters
    ----------
    family : Family
    kernel : str
        One of ``family.kernels``.
    count : int
        The kernel's first argument, a ``long long``.
    args
        Arrays (a pointer to their first element), ints (``long long``), floats (``double``), NumPy scalars
        (of their own type), what `record` returns (a struct by value), `PointerTable`, and None (a null
        pointer).
    """
    if count:
        _launcher().launch(family, kernel, count, args)


def address(x: Array) -> int:
    """Return where the first element of `x` lies, to see whether vectors may be read there."""
    return _launcher().address(x)


def index_type(count: int) -> str:
    """Return the C++ type that work items of this number are counted in."""
    return "unsigned" if count <= MOST_32BIT else "long long"


def sized(name: str, storage: str, result: Array, width: int | None, *more: str) -> tuple[int, str]:
    """Return how many threads fill `result`, so many elements each, and the kernel that counts them.

    A `width` of None is that of a kernel without this argument.
    """
    count = result.size // (width or 1)
    arguments = [storage, *([] if width is None else [str(width)]), *more, index_type(count)]
    return count, f"{name}<{', '.join(arguments)}>"


def divider(divisor: int) -> tuple[int, int, int]:
    """Return the fields of a ``Divider``, which divides numbers below 2³¹ by a multiplication and a shift."""
    shift = (divisor - 1).bit_length()
    return divisor, (((1 << shift) - divisor) << 32) // divisor + 1, shift


@functools.lru_cache(maxsize=1024)
def record(*fields: int) -> np.ndarray:
    """Return a struct of ``long long`` fields that a kernel takes by value."""
    # CuPy passes a NumPy array by value if it has a single item; so the fields are one item.
    memory = np.zeros((), dtype=[("fields", "<i8", (len(fields),))])
    memory["fields"] = fields
    memory.flags.writeable = False
    return memory


@contextmanager
def launched_by(launcher: Launcher) -> Iterator[None]:
    """Run all kernels through another launcher inside the block. For tests: the whole process is affected."""
    global _other
    before, _other = _other, launcher
    try:
        yield
    finally:
        _other = before


_other: Launcher | None = None


def _launcher() -> Launcher:
    return _other or _cupy_launcher()


@functools.cache
def _cupy_launcher() -> Launcher:
    return _CupyLauncher()


class _CupyLauncher:
    """A `cupy.RawModule` for each family and storage type; CuPy keeps its binaries, also on disk."""

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self._modules: dict[tuple[str, str], Any] = {}
        self._kernels: dict[tuple[str, str], Any] = {}

    def launch(self, family: Family, kernel: str, count: int, args: tuple[Any, ...]) -> None:
        function = self._kernels.get((family.name, kernel))
        if function is None:
            function = self._module(family, kernel).get_function(kernel)
            self._kernels[family.name, kernel] = function
        blocks = min(-(-count // _THREADS), _MOST_BLOCKS)
        function((blocks,), (_THREADS,), (count, *map(self._argument, args)))

    def address(self, x: Array) -> int:
        return int(x.data.ptr)

    def _module(self, family: Family, kernel: str) -> Any:
        """Return the module of all kernels with the same first argument: float is often the only one."""
        storage = first_argument(kernel)
        module = self._modules.get((family.name, storage))
        if module is None:
            module = self._modules[family.name, storage] = self._cupy.RawModule(
                code=family.source(),
                options=("-std=c++17",),
                name_expressions=[other for other in family.kernels if first_argument(other) == storage],
            )
        return module

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, PointerTable):
            # CuPy copies through pinned memory of its own, in the stream's order: nobody waits.
            return self._cupy.asarray(
                np.array([0 if x is None else self.address(x) for x in arg.arrays], np.int64)
            )
        return arg
