"""Channels-last memory in blocks of pixels, passed over as flat arrays, and sums over the pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from xpcnn.backend.cpu.parallel import Array, blocks

__all__ = ["Blocking", "CentredBlocks", "Sum"]

_BLOCK_BYTES: Final = 1 << 20

_ROW: Final = 1024
"""Elements that are added up side by side: about the shortest that NumPy adds at full speed."""

_RUN: Final = 32
"""Rows of those that are added up in the array's dtype; their sums are added up in float64."""


class Blocking(NamedTuple):
    """How a matrix (pixels, C) is cut."""

    channels: int
    group: int
    """Pixels that are added up side by side."""
    block: int
    """Pixels of a block, a multiple of `group`."""

    @classmethod
    def of(cls, matrix: Array) -> Blocking:
        pixels, channels = matrix.shape
        group = max(1, _ROW // channels)
        block = max(1, _BLOCK_BYTES // (matrix.itemsize * channels * group)) * group
        return cls(channels, group, min(block, -(-pixels // group) * group))

    @property
    def step(self) -> int:
        """Elements of a block."""
        return self.block * self.channels

    def blocks(self, share: slice) -> Iterator[slice]:
        """Yield the places of the blocks of a share of the flat matrix."""
        for part in blocks(share.stop - share.start, self.step):
            yield slice(share.start + part.start, share.start + part.stop)

    def repeated(self, values: Array, dtype: Any) -> Array:
        """Return a number for each channel as often as a block has pixels, in one row."""
        return np.repeat(values.astype(dtype)[None], self.block, axis=0).reshape(-1)


class Sum:
    """The sum over pixels for each channel, in float64, of blocks that are given one after another."""

    def __init__(self, grid: Blocking) -> None:
        self._channels = grid.channels
        self._wide = np.zeros(grid.group * grid.channels)
        self._rest = np.zeros(grid.channels)

    def add(self, flat: Array) -> None:
        for total, part, rows in self._parts(flat.size):
            total += _sum_in_float64(np.add.reduce(flat[part].reshape(rows), axis=1))

    def add_product(self, flat: Array, other: Array) -> None:
        for total, part, rows in self._parts(flat.size):
            products = np.einsum("rij,rij->rj", flat[part].reshape(rows), other[part].reshape(rows))
            total += _sum_in_float64(products)

    def _parts(self, size: int) -> Iterator[tuple[Array, slice, tuple[int, int, int]]]:
        """Yield the sum that each part of a block belongs to, its place, and its shape: runs of rows."""
        start = 0
        for total, run in ((self._wide, _RUN), (self._wide, 1), (self._rest, 1)):
            runs = (size - start) // (run * total.size)
            if runs:
                stop = start + runs * run * total.size
                # Fewer rows than a run are one run.
                yield total, slice(start, stop), (runs, run, total.size) if run > 1 else (1, runs, total.size)
                start = stop

    def value(self) -> Array:
        total: Array = self._rest + np.add.reduce(self._wide.reshape(-1, self._channels), axis=0)
        return total


def _sum_in_float64(runs: Array) -> Array:
    """Return the sum of the sums (runs, columns)."""
    total: Array = np.add.reduce(runs, axis=0, dtype=np.float64)
    return total


class CentredBlocks:
    """Blocks of x, minus a number for each channel if there is one."""

    def __init__(self, grid: Blocking, x: Array, centre: Array | None) -> None:
        self._flat = x
        self._centres = None if centre is None else grid.repeated(centre, x.dtype)

    def __getitem__(self, part: slice) -> Array:
        values = self._flat[part]
        return values if self._centres is None else values - self._centres[: values.size]
