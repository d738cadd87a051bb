"""Runs an algorithm over groups, then over pieces of the batch and of the rows that fit the workspace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from xpcnn.backend import Array, Backend, backend_of, dtype_name
from xpcnn.errors import AlgorithmError
from xpcnn.ops.checks import accumulator, widened
from xpcnn.ops.conv.auto import preference
from xpcnn.ops.conv.autotune import tuned
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.nonfinite import DIRECT, computed, has_spread
from xpcnn.ops.conv.pieces import RUNS, Piece, cost_of_rows, cut, plan_of, rows_of, seen_at_once
from xpcnn.ops.conv.registry import ConvAlgorithm, find
from xpcnn.ops.conv.sharing import shared_between_pieces
from xpcnn.ops.conv.workspace import workspace_limit

__all__ = ["forward", "grad_input", "grad_weight", "operands", "reason_against", "resolve"]


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
    seen = seen_at_once(algorithm, geometry)
    if not algorithm.takes_half:
        dtype = accumulator(backend, dtype) or dtype
    reason = algorithm.unsupported(seen, dtype, backend)
    limit, name = workspace_limit(backend), dtype_name(dtype)
    if reason is None and plan_of(algorithm, seen, name, limit, backend.cache_block) is None:
        reason = (
            f"needs {cost_of_rows(algorithm, seen, name, 1)} bytes of workspace for one row of the "
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
    size: tuple[int, int] | None = None,
) -> Array:
    """Return y (N, K, OH, OW).

    `finish` is given each fresh piece of y and its output channels, and returns what takes its place: done
    while the piece is in the cache. What it makes of whole images may have another `size`, (height, width).
    """
    if _is_whole(algorithm, x, geometry):
        y = computed("forward", algorithm, x, weight, geometry)
        return y if finish is None else finish(y, slice(0, geometry.k))
    if size is not None and finish is not None:
        _, rows = _plan_for(algorithm, x, seen_at_once(algorithm, geometry))
        if rows < geometry.oh:  # nothing is made of parts of an image
            return finish(forward(algorithm, x, weight, geometry), slice(0, geometry.k))
    y = _new_channels_last(x, (geometry.n, geometry.k, *(size or (geometry.oh, geometry.ow))))
    filters = _filters(algorithm, weight, geometry)

    def compute(piece: Piece) -> None:
        outputs = piece.outputs if size is None else (*piece.outputs[:2], ...)
        place = y[outputs] if size is None else None
        if piece.geometry.h == 0:
            part = _new_channels_last(x, piece.geometry.output_shape, zeros=True)  # of padding alone
        else:
            weights = filters[piece.filters.start]
            part = computed("forward", algorithm, x[piece.inputs], weights, piece.geometry, place)
        if finish is not None:
            part = finish(part, piece.filters)
        if part is not place:
            y[outputs] = part

    with shared_between_pieces():
        _run(compute, algorithm, x, geometry)
    return y


def grad_input(algorithm: ConvAlgorithm, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
    """Return dx (N, C, H, W)."""
    if _is_whole(algorithm, dy, geometry):
        return computed("grad_input", algorithm, dy, weight, geometry)
    # Neighbouring tiles of rows overlap in the input, and must be added up; strides may leave rows unseen.
    _, rows = _plan_for(algorithm, dy, seen_at_once(algorithm, geometry))
    overlap = rows < geometry.oh
    unseen = rows_of(geometry, 0, geometry.oh)[1] != slice(0, geometry.h)
    dx = _new_channels_last(dy, geometry.input_shape, zeros=overlap or unseen)
    filters = _filters(algorithm, weight, geometry)

    def compute(piece: Piece) -> None:
        if not piece.geometry.h:
            return
        weights = filters[piece.filters.start]
        if overlap:
            dx[piece.inputs] += computed("grad_input", algorithm, dy[piece.outputs], weights, piece.geometry)
            return
        place = dx[piece.inputs]
        part = computed("grad_input", algorithm, dy[piece.outputs], weights, piece.geometry, place)
        if part is not place:
            dx[piece.inputs] = part

    with shared_between_pieces():
        _run(compute, algorithm, dy, geometry, alone=overlap)
    return dx


def grad_weight(algorithm: ConvAlgorithm, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
    """Return dweight (K, C/groups, kh, kw)."""
    dweight = _grad_weight(algorithm, x, dy, geometry)
    if not has_spread(algorithm, dweight):
        return dweight
    backend = backend_of(x)
    able = (find(name) for name in DIRECT if reason_against(find(name), geometry, x.dtype, backend) is None)
    return _grad_weight(next(able), x, dy, geometry)


def _grad_weight(algorithm: ConvAlgorithm, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
    if _is_whole(algorithm, x, geometry, summed=True):
        return backend_of(x).dense(algorithm.grad_weight(x, dy, geometry))
    backend = backend_of(x)
    seen = seen_at_once(algorithm, geometry)

    def summed(run: tuple[Piece, ...]) -> dict[int, Array]:
        """Return the gradients of some pieces, by the first of their filters."""
        sums: dict[tuple[int, tuple[int, ...]], Array] = {}  # by shape, too: other tiles have other parts
        for piece in run:
            if piece.geometry.h:
                part = algorithm.grad_weight_part(x[piece.inputs], dy[piece.outputs], piece.geometry)
                _add(sums, (piece.filters.start, tuple(part.shape)), part)
        gradients: dict[int, Array] = {}
        for (first, _), total in sums.items():
            _add(gradients, first, algorithm.grad_weight_whole(total, seen))
        return gradients

    # Runs of pieces, summed in their order: neither depends on the number of threads.
    pieces, at_most = _pieces(algorithm, x, geometry, summed=True)
    length = max(1, -(-len(pieces) // min(RUNS, at_most)))
    runs = [pieces[start : start + length] for start in range(0, len(pieces), length)]
    totals: dict[int, Array] = {}
    for found in backend.each(summed, runs, at_most):
        for first, part in found.items():
            _add(totals, first, part)
    if totals and seen.k == geometry.k:
        return backend.dense(totals[0])
    dweight = backend.xp.zeros(geometry.weight_shape, dtype=x.dtype, device=backend.device)
    for first, total in totals.items():
        dweight[first : first + seen.k, ...] = total
    return dweight


def _add(totals: dict[Any, Array], key: Any, part: Array) -> None:
    if key in totals:
        totals[key] += part
    else:
        totals[key] = part


def _run(
    compute: Callable[[Piece], None],
    algorithm: ConvAlgorithm,
    x: Array,
    geometry: ConvGeometry,
    alone: bool = False,
) -> None:
    """Compute all pieces, each `alone` where they write to the same places."""
    pieces, at_most = _pieces(algorithm, x, geometry)
    backend_of(x).run_each(compute, pieces, 1 if alone else at_most)


def _is_whole(algorithm: ConvAlgorithm, x: Array, geometry: ConvGeometry, summed: bool = False) -> bool:
    """Whether one call does it all, without copies into and out of pieces."""
    if seen_at_once(algorithm, geometry) is not geometry:
        return False
    return _plan_for(algorithm, x, geometry, summed) == (max(geometry.n, 1), geometry.oh)


def _filters(algorithm: ConvAlgorithm, weight: Array, geometry: ConvGeometry) -> dict[int, Array]:
    """Return the weight of each group by its first output channel."""
    k = seen_at_once(algorithm, geometry).k
    return {start: weight[start : start + k, ...] for start in range(0, geometry.k, k)}


def _pieces(
    algorithm: ConvAlgorithm, x: Array, geometry: ConvGeometry, summed: bool = False
) -> tuple[tuple[Piece, ...], int]:
    """Return the pieces, and how many of them the workspace limit allows at a time."""
    backend = backend_of(x)
    return cut(
        algorithm, geometry, dtype_name(x.dtype), workspace_limit(backend), backend.cache_block, summed
    )


def _plan_for(
    algorithm: ConvAlgorithm, x: Array, geometry: ConvGeometry, summed: bool = False
) -> tuple[int, int]:
    backend = backend_of(x)
    limit = workspace_limit(backend)
    plan = plan_of(algorithm, geometry, dtype_name(x.dtype), limit, backend.cache_block, summed)
    assert plan is not None  # `resolve` has made sure
    return plan


def _new_channels_last(like: Array, shape: tuple[int, ...], zeros: bool = False) -> Array:
    """Return a new array (N, C, H, W) over channels-last memory."""
    backend = backend_of(like)
    n, c, h, w = shape
    make = backend.xp.zeros if zeros else backend.xp.empty
    return backend.xp.permute_dims(make((n, h, w, c), dtype=like.dtype, device=backend.device), (0, 3, 1, 2))
