"""Runs an algorithm over groups, then over pieces of the batch and of the rows that fit the workspace."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

from xpcnn.backend import Array, Backend, backend_of
from xpcnn.errors import AlgorithmError
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.registry import ConvAlgorithm, find
from xpcnn.ops.conv.workspace import workspace_limit

__all__ = ["forward", "grad_input", "grad_weight", "resolve"]

# "auto" takes the first of these that can do the geometry within the workspace.
AUTO_ORDER = ("im2col", "loop")


class Tile(NamedTuple):
    """A piece of the work: which images, which rows of the output, and the input rows they see."""

    images: slice
    output_rows: slice
    input_rows: slice
    geometry: ConvGeometry


def resolve(name: str, geometry: ConvGeometry, dtype: Any, backend: Backend) -> ConvAlgorithm:
    """Return the algorithm to use, or raise with its reason why it cannot do this."""
    one = geometry.one_group()
    if name != "auto":
        algorithm = find(name)
        reason = _reason(algorithm, one, dtype, backend)
        if reason is not None:
            raise AlgorithmError(f"conv2d: algorithm {name!r} {reason}; algorithm='auto' picks one that can")
        return algorithm
    reasons = []
    for candidate in AUTO_ORDER:
        reason = _reason(find(candidate), one, dtype, backend)
        if reason is None:
            return find(candidate)
        reasons.append(f"{candidate} {reason}")
    raise AlgorithmError(f"conv2d: no algorithm can do this: {'; '.join(reasons)}")


def _reason(algorithm: ConvAlgorithm, geometry: ConvGeometry, dtype: Any, backend: Backend) -> str | None:
    reason = algorithm.unsupported(geometry, dtype, backend)
    if reason is None and _tiles(algorithm, geometry, dtype, workspace_limit(backend)) is None:
        least = algorithm.workspace_bytes(geometry.with_batch(1).with_rows(0, 1)[0], dtype)
        reason = (
            f"needs about {least} bytes of workspace for one row of the output, but the limit is "
            f"{workspace_limit(backend)}; raise it with xpcnn.set_workspace_limit"
        )
    return reason


def forward(algorithm: ConvAlgorithm, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
    """Return y (N, K, OH, OW)."""
    if _is_whole(algorithm, x, geometry):
        return algorithm.forward(x, weight, geometry)
    y = _zeros_channels_last(x, geometry.output_shape)
    for inputs, outputs, tile in _pieces(algorithm, x, geometry):
        y[tile.images, outputs, tile.output_rows, :] = algorithm.forward(
            x[tile.images, inputs, tile.input_rows, :], weight[outputs, ...], tile.geometry
        )
    return y


def grad_input(algorithm: ConvAlgorithm, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
    """Return dx (N, C, H, W)."""
    if _is_whole(algorithm, dy, geometry):
        return algorithm.grad_input(dy, weight, geometry)
    dx = _zeros_channels_last(dy, geometry.input_shape)
    for inputs, outputs, tile in _pieces(algorithm, dy, geometry):
        # Added, not assigned: neighbouring tiles of rows overlap in the input.
        dx[tile.images, inputs, tile.input_rows, :] += algorithm.grad_input(
            dy[tile.images, outputs, tile.output_rows, :], weight[outputs, ...], tile.geometry
        )
    return dx


def grad_weight(algorithm: ConvAlgorithm, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
    """Return dweight (K, C/groups, kh, kw)."""
    if _is_whole(algorithm, x, geometry):
        return algorithm.grad_weight(x, dy, geometry)
    backend = backend_of(x)
    dweight = backend.xp.zeros(geometry.weight_shape, dtype=x.dtype, device=backend.device)
    for inputs, outputs, tile in _pieces(algorithm, x, geometry):
        dweight[outputs, ...] += algorithm.grad_weight(
            x[tile.images, inputs, tile.input_rows, :],
            dy[tile.images, outputs, tile.output_rows, :],
            tile.geometry,
        )
    return dweight


def _is_whole(algorithm: ConvAlgorithm, x: Array, geometry: ConvGeometry) -> bool:
    """Whether one call does it all, without copies into and out of pieces."""
    if geometry.groups != 1:
        return False
    tiles = _tiles(algorithm, geometry, x.dtype, workspace_limit(backend_of(x)))
    return tiles is not None and len(tiles) == 1


def _pieces(
    algorithm: ConvAlgorithm, x: Array, geometry: ConvGeometry
) -> Iterator[tuple[slice, slice, Tile]]:
    """Yield the input channels, output channels and tile of every piece."""
    one = geometry.one_group()
    for tile in _tiles(algorithm, one, x.dtype, workspace_limit(backend_of(x))) or ():
        for group in range(geometry.groups):
            yield (
                slice(group * one.c, (group + 1) * one.c),
                slice(group * one.k, (group + 1) * one.k),
                tile,
            )


@functools.lru_cache(maxsize=1024)
def _tiles(
    algorithm: ConvAlgorithm, geometry: ConvGeometry, dtype: Any, limit: int
) -> tuple[Tile, ...] | None:
    """Return the pieces that keep the scratch memory under `limit`, or None if no cut does."""
    n, oh = geometry.n, geometry.oh

    def cost_of_images(count: int) -> int:
        return algorithm.workspace_bytes(geometry.with_batch(count), dtype)

    def cost_of_rows(count: int) -> int:
        one = geometry.with_batch(1)
        parts = (one.with_rows(row, min(row + count, oh))[0] for row in range(0, oh, count))
        return max(algorithm.workspace_bytes(part, dtype) for part in parts)

    images = bisect_right(range(1, n + 1), limit, key=cost_of_images) if n else 1
    rows = oh
    if images == 0:
        images = 1
        rows = bisect_right(range(1, oh + 1), limit, key=cost_of_rows)
        if rows == 0:
            return None
    tiles = []
    for start in range(0, max(n, 1), images):
        batch = slice(start, min(start + images, n))
        whole = geometry.with_batch(batch.stop - batch.start)
        if rows == oh:
            tiles.append(Tile(batch, slice(0, oh), slice(0, geometry.h), whole))
            continue
        for row in range(0, oh, rows):
            stop = min(row + rows, oh)
            part, input_rows = whole.with_rows(row, stop)
            tiles.append(Tile(batch, slice(row, stop), input_rows, part))
    return tuple(tiles)


def _zeros_channels_last(like: Array, shape: tuple[int, ...]) -> Array:
    """Return zeros (N, C, H, W) over channels-last memory."""
    backend = backend_of(like)
    n, c, h, w = shape
    zeros = backend.xp.zeros((n, h, w, c), dtype=like.dtype, device=backend.device)
    return backend.xp.permute_dims(zeros, (0, 3, 1, 2))
