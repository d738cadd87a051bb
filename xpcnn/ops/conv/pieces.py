"""How the batch and the rows of a convolution are cut into pieces."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.registry import ConvAlgorithm

__all__ = ["RUNS", "Piece", "cost_of_rows", "cut", "plan_of", "rows_of", "seen_at_once"]

RUNS = 4
"""How many sums of pieces are made side by side."""


class Tile(NamedTuple):
    """A piece of the work: which images, which rows of the output, and the input rows they see."""

    images: slice
    output_rows: slice
    input_rows: slice
    geometry: ConvGeometry


class Piece(NamedTuple):
    """A tile of one group: where it lies in the input, the output and the weight."""

    inputs: tuple[slice, ...]
    outputs: tuple[slice, ...]
    filters: slice
    geometry: ConvGeometry


def seen_at_once(algorithm: ConvAlgorithm, geometry: ConvGeometry) -> ConvGeometry:
    """Return the geometry of all groups for an algorithm that takes them, of one group for the others."""
    return geometry if algorithm.takes_groups else geometry.one_group()


@functools.lru_cache(maxsize=256)
def cut(
    algorithm: ConvAlgorithm, geometry: ConvGeometry, dtype: str, limit: int, block: int | None, summed: bool
) -> tuple[tuple[Piece, ...], int]:
    """Return the pieces of a pass, and how many of them the workspace limit allows at a time.

    Parameters
    ----------
    limit : int
        Bytes of scratch memory that must not be exceeded.
    block : int or None
        Bytes that stay in a cache.
    summed : bool
        Whether what the pieces give is added up.
    """
    seen = seen_at_once(algorithm, geometry)
    plan = plan_of(algorithm, seen, dtype, limit, block, summed)
    assert plan is not None  # `resolve` has made sure
    pieces = []
    for tile in _tiles(seen, *plan):
        for group in range(geometry.k // seen.k):
            inputs = slice(group * seen.c, (group + 1) * seen.c)
            filters = slice(group * seen.k, (group + 1) * seen.k)
            piece = Piece(
                (tile.images, inputs, tile.input_rows, slice(None)),
                (tile.images, filters, tile.output_rows, slice(None)),
                filters,
                tile.geometry,
            )
            pieces.append(piece)
    return tuple(pieces), max(1, limit // max(1, _cost(algorithm, seen, dtype, *plan)))


@functools.lru_cache(maxsize=1024)
def _cost(algorithm: ConvAlgorithm, geometry: ConvGeometry, dtype: str, images: int, rows: int) -> int:
    """Return the workspace of the hungriest piece."""
    if rows < geometry.oh:
        return cost_of_rows(algorithm, geometry, dtype, rows)
    return algorithm.workspace_bytes(geometry.with_batch(min(images, geometry.n)), dtype)


def _tiles(geometry: ConvGeometry, images: int, rows: int) -> Iterator[Tile]:
    """Yield tiles of so many images and so many rows of the output; the last ones may be smaller."""
    for start in range(0, geometry.n, images):
        stop = min(start + images, geometry.n)
        batch = geometry.with_batch(stop - start)
        for row in range(0, geometry.oh, rows):
            end = min(row + rows, geometry.oh)
            part, input_rows = rows_of(batch, row, end)
            yield Tile(slice(start, stop), slice(row, end), input_rows, part)


@functools.lru_cache(maxsize=4096)
def rows_of(geometry: ConvGeometry, start: int, stop: int) -> tuple[ConvGeometry, slice]:
    """Return `ConvGeometry.with_rows`, worked out once."""
    return geometry.with_rows(start, stop)


@functools.lru_cache(maxsize=1024)
def plan_of(
    algorithm: ConvAlgorithm,
    geometry: ConvGeometry,
    dtype: str,
    limit: int,
    block: int | None,
    summed: bool = False,
) -> tuple[int, int] | None:
    """Return how many images and output rows to do at once, or None if no cut keeps to `limit`.

    Fewer images than the limit allows where their scratch memory is to stay in a cache of `block` bytes; but
    enough of them to outweigh the weights, which every piece reads anew; or, where it is `summed`, adds up.
    """
    n, oh = geometry.n, geometry.oh

    def cost(images: int) -> int:
        return algorithm.workspace_bytes(geometry.with_batch(images), dtype)

    images = most = bisect_right(range(1, n + 1), limit, key=cost)
    if images and block is not None and algorithm.in_cache:
        weights, block = cost(0), int(block * algorithm.larger_pieces)
        more = 8 * weights // 5 if summed else weights
        images = max(1, bisect_right(range(1, images + 1), weights + max(block, more), key=cost))
    if images:
        # As even as can be, and as many for each of several threads, so that they end together.
        count = -(-n // images)
        even = max(1, round(count / RUNS)) * RUNS
        if count > 2 and -(-n // even) <= most:
            count = even
        return -(-n // count), oh
    if n == 0:
        return 1, oh
    rows = bisect_right(
        range(1, oh + 1), limit, key=lambda count: cost_of_rows(algorithm, geometry, dtype, count)
    )
    return (1, rows) if rows else None


def cost_of_rows(algorithm: ConvAlgorithm, geometry: ConvGeometry, dtype: str, rows: int) -> int:
    """Return the workspace of the hungriest tile, when one image is cut into so many rows."""
    return max(
        algorithm.workspace_bytes(tile.geometry, dtype) for tile in _tiles(geometry.with_batch(1), 1, rows)
    )
