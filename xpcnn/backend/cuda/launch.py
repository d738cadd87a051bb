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

__all__ = ["Launcher", "PointerTable", "address", "dividers", "launch", "launched_by", "record", "sized"]

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


def sized(name: str, storage: str, result: Array, width: int | None, *more: str) -> tuple[str, int]:
    """Return the kernel that fills `result`, and with how many threads, of so many elements each.

    A `width` of None is that of a kernel without this argument.
    """
    count = result.size // (width or 1)
    index = "unsigned" if count <= MOST_32BIT else "long long"
    arguments = [storage, *([] if width is None else [str(width)]), *more, index]
    return f"{name}<{', '.join(arguments)}>", count


def dividers(*divisors: int) -> list[int]:
    """Return the fields of a ``Divider`` for each, which divides numbers below 2³¹; by 1 in place of 0.

    It divides by a multiplication and a shift.
    """
    fields = []
    for divisor in (max(divisor, 1) for divisor in divisors):
        shift = (divisor - 1).bit_length()
        fields += [divisor, (((1 << shift) - divisor) << 32) // divisor + 1, shift]
    return fields


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


class _CupyLauncher:
    """A `cupy.RawModule` for each family and storage type; CuPy keeps its binaries, also on disk."""

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self._kernels: dict[tuple[str, str], Any] = {}

    def launch(self, family: Family, kernel: str, count: int, args: tuple[Any, ...]) -> None:
        if (family.name, kernel) not in self._kernels:
            self._compile(family, first_argument(kernel))
        blocks = min(-(-count // _THREADS), _MOST_BLOCKS)
        arguments = (count, *map(self._argument, args))
        self._kernels[family.name, kernel]((blocks,), (_THREADS,), arguments)

    def address(self, x: Array) -> int:
        return int(x.data.ptr)

    def _compile(self, family: Family, storage: str) -> None:
        """Compile the kernels whose first argument is this: float is often the only one."""
        names = [name for name in family.kernels if first_argument(name) == storage]
        source = family.source()
        module = self._cupy.RawModule(code=source, options=("-std=c++17",), name_expressions=names)
        self._kernels |= {(family.name, name): module.get_function(name) for name in names}

    def _argument(self, arg: Any) -> Any:
        if not isinstance(arg, PointerTable):
            return arg
        # CuPy copies through pinned memory of its own, in the stream's order: nobody waits.
        return self._cupy.asarray(
            np.array([0 if x is None else self.address(x) for x in arg.arrays], np.int64)
        )


_cupy_launcher = functools.cache(_CupyLauncher)
