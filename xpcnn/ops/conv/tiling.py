"""Runs an algorithm over groups, then over pieces of the batch and of the rows that fit the workspace."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from xpcnn.backend import Array, Backend, backend_of, dtype_name
from xpcnn.errors import AlgorithmError
from xpcnn.ops.checks import accumulator, widened
from xpcnn.ops.conv.auto import preference
from xpcnn.ops.conv.autotune import tuned
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.registry import ConvAlgorithm, find
from xpcnn.ops.conv.sharing import shared_between_pieces
from xpcnn.ops.conv.workspace import workspace_limit

__all__ = ["forward", "grad_input", "grad_weight", "operands", "reason_against", "resolve"]


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


def resolve(
    name: str, geometry: ConvGeometry, dtype: Any, backend: Backend, pass_name: str, op: str = "conv2d"
) -> ConvAlgorithm:
    """Return the algorithm for one pass, or raise with its reason why it cannot do this, naming `op`."""
    if name != "auto":
        algorithm = find(name)
        reason = reason_against(algorithm, geometry, dtype, backend)
        if reason is not None:
            raise AlgorithmError(f"{op}: algorithm {name!r} {reason}; algorithm='auto' picks one that can")
        return algorithm
    measured = tuned(geometry, pass_name, dtype, backend)
    return find(
        measured or _preferred(geometry, dtype_name(dtype), backend, pass_name, op, _setting(backend))
    )


def _setting(backend: Backend) -> tuple[int, tuple[str, ...]]:
    """Return what else the choice depends on: it may change from call to call."""
    return workspace_limit(backend), tuple(backend.convolutions)


@functools.lru_cache(maxsize=1024)
def _preferred(
    geometry: ConvGeometry, dtype: str, backend: Backend, pass_name: str, op: str, setting: Any
) -> str:
    """Return the first of the algorithms that `auto` prefers that can do it."""
    reasons = []
    for candidate in preference(geometry, pass_name, dtype, backend):
        reason = reason_against(find(candidate), geometry, backend.dtype(dtype), backend)
        if reason is None:
            return candidate
        reasons.append(f"{candidate} {reason}")
    raise AlgorithmError(f"{op}: no algorithm can do this: {'; '.join(reasons)}")


def reason_against(
    algorithm: ConvAlgorithm, geometry: ConvGeometry, dtype: Any, backend: Backend
) -> str | None:
    """Return why `algorithm` cannot do `geometry` within the workspace limit, or None."""
    seen = _seen_at_once(algorithm, geometry)
    if not algorithm.takes_half:
        dtype = accumulator(backend, dtype) or dtype
    reason = algorithm.unsupported(seen, dtype, backend)
    limit, name = workspace_limit(backend), dtype_name(dtype)
    if reason is None and _plan(algorithm, seen, name, limit, backend.cache_block) is None:
        reason = (
            f"needs {_cost_of_rows(algorithm, seen, name, 1)} bytes of workspace for one row of the "
            f"output, but the limit is {limit}; raise it with xpcnn.set_workspace_limit"
        )
    return reason


def operands(algorithm: ConvAlgorithm, a: Array, b: Array) -> tuple[Array, Array]:
    """Return two arrays as the algorithm wants them: half precision as float32, unless it takes that."""
    if algorithm.takes_half:
        return a, b
    backend = backend_of(a)
    return widened(backend, a), widened(backend, b)


def forward(
    algorithm: ConvAlgorithm,
    x: Array,
    weight: Array,
    geometry: ConvGeometry,
    finish: Callable[[Array, slice], Array] | None = None,
) -> Array:
    """Return y (N, K, OH, OW).

    `finish` is given each fresh piece of y and its output channels, and returns what takes its place: done
    while the piece is in the cache.
    """
    if _is_whole(algorithm, x, geometry):
        y = algorithm.forward(x, weight, geometry)
        return y if finish is None else finish(y, slice(0, geometry.k))
    y = _new_channels_last(x, geometry.output_shape)
    filters = _filters(algorithm, weight, geometry)

    def compute(piece: Piece) -> None:
        if piece.geometry.h:
            part = algorithm.forward(x[piece.inputs], filters[piece.filters.start], piece.geometry)
        else:
            part = _new_channels_last(x, piece.geometry.output_shape, zeros=True)  # of padding alone
        y[piece.outputs] = part if finish is None else finish(part, piece.filters)

    with shared_between_pieces():
        _run(compute, algorithm, x, geometry)
    return y


def grad_input(algorithm: ConvAlgorithm, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
    """Return dx (N, C, H, W)."""
    if _is_whole(algorithm, dy, geometry):
        return algorithm.grad_input(dy, weight, geometry)
    # Neighbouring tiles of rows overlap in the input, and must be added up; strides may leave rows unseen.
    _, rows = _plan_for(algorithm, dy, _seen_at_once(algorithm, geometry))
    overlap = rows < geometry.oh
    unseen = _rows_of(geometry, 0, geometry.oh)[1] != slice(0, geometry.h)
    dx = _new_channels_last(dy, geometry.input_shape, zeros=overlap or unseen)
    filters = _filters(algorithm, weight, geometry)

    def compute(piece: Piece) -> None:
        if piece.geometry.h:
            part = algorithm.grad_input(dy[piece.outputs], filters[piece.filters.start], piece.geometry)
            if overlap:
                dx[piece.inputs] += part
            else:
                dx[piece.inputs] = part

    with shared_between_pieces():
        _run(compute, algorithm, dy, geometry, alone=overlap)
    return dx


def grad_weight(algorithm: ConvAlgorithm, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
    """Return dweight (K, C/groups, kh, kw)."""
    if _is_whole(algorithm, x, geometry, summed=True):
        return algorithm.grad_weight(x, dy, geometry)
    backend = backend_of(x)
    seen = _seen_at_once(algorithm, geometry)

    def compute(piece: Piece) -> tuple[slice, Array | None]:
        if piece.geometry.h == 0:
            return piece.filters, None
        part = algorithm.grad_weight_part(x[piece.inputs], dy[piece.outputs], piece.geometry)
        return piece.filters, part

    # Summed in the order of the pieces, whoever is the first to finish.
    totals: dict[tuple[int, int], Array] = {}
    for filters, part in backend.each(compute, *_pieces(algorithm, x, geometry, summed=True)):
        place = filters.start, filters.stop
        if part is not None and place in totals:
            totals[place] += part
        elif part is not None:
            totals[place] = part
    dweight = backend.xp.zeros(geometry.weight_shape, dtype=x.dtype, device=backend.device)
    for (start, stop), total in totals.items():
        dweight[start:stop, ...] = algorithm.grad_weight_whole(total, seen)
    return dweight


def _run(
    compute: Callable[[Piece], None],
    algorithm: ConvAlgorithm,
    x: Array,
    geometry: ConvGeometry,
    alone: bool = False,
) -> None:
    """Compute all pieces, each `alone` where they write to the same places."""
    pieces, at_most = _pieces(algorithm, x, geometry)
    deque(backend_of(x).each(compute, pieces, 1 if alone else at_most), maxlen=0)


def _seen_at_once(algorithm: ConvAlgorithm, geometry: ConvGeometry) -> ConvGeometry:
    """Return the geometry of all groups for an algorithm that takes them, of one group for the others."""
    return geometry if algorithm.takes_groups else geometry.one_group()


def _is_whole(algorithm: ConvAlgorithm, x: Array, geometry: ConvGeometry, summed: bool = False) -> bool:
    """Whether one call does it all, without copies into and out of pieces."""
    if _seen_at_once(algorithm, geometry) is not geometry:
        return False
    return _plan_for(algorithm, x, geometry, summed) == (max(geometry.n, 1), geometry.oh)


def _filters(algorithm: ConvAlgorithm, weight: Array, geometry: ConvGeometry) -> dict[int, Array]:
    """Return the weight of each group by its first output channel."""
    k = _seen_at_once(algorithm, geometry).k
    return {start: weight[start : start + k, ...] for start in range(0, geometry.k, k)}


def _pieces(
    algorithm: ConvAlgorithm, x: Array, geometry: ConvGeometry, summed: bool = False
) -> tuple[tuple[Piece, ...], int]:
    """Return the pieces, and how many of them the workspace limit allows at a time."""
    backend = backend_of(x)
    return _cut(
        algorithm, geometry, dtype_name(x.dtype), workspace_limit(backend), backend.cache_block, summed
    )


@functools.lru_cache(maxsize=256)
def _cut(
    algorithm: ConvAlgorithm, geometry: ConvGeometry, dtype: str, limit: int, block: int | None, summed: bool
) -> tuple[tuple[Piece, ...], int]:
    seen = _seen_at_once(algorithm, geometry)
    plan = _plan(algorithm, seen, dtype, limit, block, summed)
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
        return _cost_of_rows(algorithm, geometry, dtype, rows)
    return algorithm.workspace_bytes(geometry.with_batch(min(images, geometry.n)), dtype)


def _tiles(geometry: ConvGeometry, images: int, rows: int) -> Iterator[Tile]:
    """Yield tiles of so many images and so many rows of the output; the last ones may be smaller."""
    for start in range(0, geometry.n, images):
        stop = min(start + images, geometry.n)
        batch = geometry.with_batch(stop - start)
        for row in range(0, geometry.oh, rows):
            end = min(row + rows, geometry.oh)
            part, input_rows = _rows_of(batch, row, end)
            yield Tile(slice(start, stop), slice(row, end), input_rows, part)


@functools.lru_cache(maxsize=4096)
def _rows_of(geometry: ConvGeometry, start: int, stop: int) -> tuple[ConvGeometry, slice]:
    return geometry.with_rows(start, stop)


def _plan_for(
    algorithm: ConvAlgorithm, x: Array, geometry: ConvGeometry, summed: bool = False
) -> tuple[int, int]:
    backend = backend_of(x)
    limit = workspace_limit(backend)
    plan = _plan(algorithm, geometry, dtype_name(x.dtype), limit, backend.cache_block, summed)
    assert plan is not None  # `resolve` has made sure
    return plan


@functools.lru_cache(maxsize=1024)
def _plan(
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

    images = bisect_right(range(1, n + 1), limit, key=cost)
    if images and block is not None and algorithm.in_cache:
        weights = cost(0)
        more = 2 * weights if summed else weights
        images = max(1, bisect_right(range(1, images + 1), weights + max(block, more), key=cost))
    if images:
        return -(-n // -(-n // images)), oh  # as even as can be: threads end together
    if n == 0:
        return 1, oh
    rows = bisect_right(
        range(1, oh + 1), limit, key=lambda count: _cost_of_rows(algorithm, geometry, dtype, count)
    )
    return (1, rows) if rows else None


def _cost_of_rows(algorithm: ConvAlgorithm, geometry: ConvGeometry, dtype: str, rows: int) -> int:
    """Return the workspace of the hungriest tile, when one image is cut into so many rows."""
    return max(
        algorithm.workspace_bytes(tile.geometry, dtype) for tile in _tiles(geometry.with_batch(1), 1, rows)
    )


def _new_channels_last(like: Array, shape: tuple[int, ...], zeros: bool = False) -> Array:
    """Return a new array (N, C, H, W) over channels-last memory."""
    backend = backend_of(like)
    n, c, h, w = shape
    make = backend.xp.zeros if zeros else backend.xp.empty
    return backend.xp.permute_dims(make((n, h, w, c), dtype=like.dtype, device=backend.device), (0, 3, 1, 2))
