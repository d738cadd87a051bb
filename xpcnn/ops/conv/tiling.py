"""Runs an algorithm over groups, then over pieces of the batch and of the rows that fit the workspace."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

from xpcnn.backend import Array, Backend, backend_of, dtype_name
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


def resolve(
    name: str, geometry: ConvGeometry, dtype: Any, backend: Backend, op: str = "conv2d"
) -> ConvAlgorithm:
    """Return the algorithm to use, or raise with its reason why it cannot do this, naming `op`."""
    one = geometry.one_group()
    if name != "auto":
        algorithm = find(name)
        reason = _reason(algorithm, one, dtype, backend)
        if reason is not None:
            raise AlgorithmError(f"{op}: algorithm {name!r} {reason}; algorithm='auto' picks one that can")
        return algorithm
    reasons = []
    for candidate in AUTO_ORDER:
        reason = _reason(find(candidate), one, dtype, backend)
        if reason is None:
            return find(candidate)
        reasons.append(f"{candidate} {reason}")
    raise AlgorithmError(f"{op}: no algorithm can do this: {'; '.join(reasons)}")


def _reason(algorithm: ConvAlgorithm, geometry: ConvGeometry, dtype: Any, backend: Backend) -> str | None:
    reason = algorithm.unsupported(geometry, dtype, backend)
    limit, name = workspace_limit(backend), dtype_name(dtype)
    if reason is None and _plan(algorithm, geometry, name, limit) is None:
        reason = (
            f"needs {_cost_of_rows(algorithm, geometry, name, 1)} bytes of workspace for one row of the "
            f"output, but the limit is {limit}; raise it with xpcnn.set_workspace_limit"
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
    plan = _plan(algorithm, geometry, dtype_name(x.dtype), workspace_limit(backend_of(x)))
    return plan == (max(geometry.n, 1), geometry.oh)


def _pieces(
    algorithm: ConvAlgorithm, x: Array, geometry: ConvGeometry
) -> Iterator[tuple[slice, slice, Tile]]:
    """Yield the input channels, output channels and tile of every piece."""
    one = geometry.one_group()
    plan = _plan(algorithm, one, dtype_name(x.dtype), workspace_limit(backend_of(x)))
    assert plan is not None  # `resolve` has made sure
    for tile in _tiles(one, *plan):
        for group in range(geometry.groups):
            yield (
                slice(group * one.c, (group + 1) * one.c),
                slice(group * one.k, (group + 1) * one.k),
                tile,
            )


def _tiles(geometry: ConvGeometry, images: int, rows: int) -> Iterator[Tile]:
    """Yield tiles of so many images and so many rows of the output; the last ones may be smaller."""
    for start in range(0, geometry.n, images):
        stop = min(start + images, geometry.n)
        batch = geometry.with_batch(stop - start)
        for row in range(0, geometry.oh, rows):
            end = min(row + rows, geometry.oh)
            part, input_rows = batch.with_rows(row, end)
            yield Tile(slice(start, stop), slice(row, end), input_rows, part)


@functools.lru_cache(maxsize=1024)
def _plan(algorithm: ConvAlgorithm, geometry: ConvGeometry, dtype: str, limit: int) -> tuple[int, int] | None:
    """Return how many images and output rows keep scratch memory under `limit`, or None if no cut does."""
    n, oh = geometry.n, geometry.oh
    images = bisect_right(
        range(1, n + 1), limit, key=lambda count: algorithm.workspace_bytes(geometry.with_batch(count), dtype)
    )
    if images or n == 0:
        return max(images, 1), oh
    rows = bisect_right(
        range(1, oh + 1), limit, key=lambda count: _cost_of_rows(algorithm, geometry, dtype, count)
    )
    return (1, rows) if rows else None


def _cost_of_rows(algorithm: ConvAlgorithm, geometry: ConvGeometry, dtype: str, rows: int) -> int:
    """Return the workspace of the hungriest tile, when one image is cut into so many rows."""
    return max(
        algorithm.workspace_bytes(tile.geometry, dtype) for tile in _tiles(geometry.with_batch(1), 1, rows)
    )


def _zeros_channels_last(like: Array, shape: tuple[int, ...]) -> Array:
    """Return zeros (N, C, H, W) over channels-last memory."""
    backend = backend_of(like)
    n, c, h, w = shape
    zeros = backend.xp.zeros((n, h, w, c), dtype=like.dtype, device=backend.device)
    return backend.xp.permute_dims(zeros, (0, 3, 1, 2))
