"""Runs the plan of a convolution: groups and tiles, the epilogue, packed weights, sums over tiles."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from xpcnn.backend import Array, Backend, backend_of
from xpcnn.backend.reference import in_reference
from xpcnn.ops.conv.algorithm import ALGORITHMS, find, requested
from xpcnn.ops.conv.autotune import is_tuning, tuned
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.nonfinite import DIRECT, has_spread
from xpcnn.ops.conv.plan import (
    PARTIAL_SUMS,
    UNLIMITED,
    WORKSPACE,
    ConvPlan,
    Tile,
    make_plan,
    rows_of,
    unsupported_reason,
)
from xpcnn.ops.conv.results import check_fresh, check_kind
from xpcnn.ops.max_pool import PoolGeometry, max_pool_windows

__all__ = ["Epilogue", "forward", "grad_input", "grad_weight", "new_channels_last", "packed", "plan_for"]

_plans: dict[Any, ConvPlan] = {}
_MOST_PLANS, _MOST_TILES = 512, 1 << 16  # a tile takes half a kilobyte


def plan_for(
    pass_name: str, geometry: ConvGeometry, dtype: Any, backend: Backend, name: str, op: str = "conv2d"
) -> ConvPlan:
    """Return the plan of one pass under the settings of this moment; made once, and kept.

    Raises
    ------
    AlgorithmError
        For an algorithm that is not known, or cannot do this, with its reason; it names `op`.
    """
    if in_reference():
        name, limit = requested() if name == "auto" else name, UNLIMITED
    else:
        limit = WORKSPACE.limit or backend.default_workspace
        if name == "auto" and is_tuning():
            name = tuned(geometry, pass_name, dtype, backend, run_pass) or name
    # The algorithm itself, too: a name may come to mean another one. The backend comes before the dtype:
    # dtypes of two libraries may hash alike, and must not be compared.
    settings = limit, op, name, ALGORITHMS.get(name), *backend.convolutions.values()
    key = pass_name, geometry.key, backend, dtype, settings
    plan = _plans.get(key)
    if plan is None:
        plan = make_plan(pass_name, geometry, dtype, backend, name, limit, op)
        tiles = len(plan.tiles) + sum(len(kept.tiles) for kept in list(_plans.values()))
        if len(_plans) >= _MOST_PLANS or tiles > _MOST_TILES:
            _plans.clear()
        _plans[key] = plan
    return plan


class Epilogue(NamedTuple):
    """What is done to each finished tile of y while it is in the cache.

    Attributes
    ----------
    add : function
        ``add(y, bias)``: `add_bias`, or `add_bias_relu`.
    bias : array (K,)
    pooling : PoolGeometry, optional
        Of a maximum pooling, which comes first: bias and ReLU do not change which number is the largest.
    """

    add: Callable[[Array, Array], Array]
    bias: Array
    pooling: PoolGeometry | None = None

    def __call__(self, y: Array, channels: slice) -> Array:
        """Return what takes the place of `y`, a fresh array (n, k, oh, ow) of these output channels."""
        if self.pooling is not None:
            y = max_pool_windows(y, self.pooling)
        return self.add(y, self.bias[channels])


def forward(plan: ConvPlan, x: Array, weight: Array, epilogue: Epilogue | None = None) -> Array:
    """Return y (N, K, OH, OW), or what the epilogue makes of it."""
    if plan.upcast:
        x, weight = _upcast(plan, x), _upcast(plan, weight)
        epilogue = epilogue and epilogue._replace(bias=_upcast(plan, epilogue.bias))
    if plan.is_whole:
        y = _computed(plan, x, weight, plan.geometry)
        y = y if epilogue is None else epilogue(y, slice(0, plan.geometry.k))
    elif (
        epilogue is not None and epilogue.pooling is not None and plan.splits_images
    ):  # a window may reach over several tiles
        y = epilogue(_forward_tiles(plan, x, weight, None), slice(0, plan.geometry.k))
    else:
        y = _forward_tiles(plan, x, weight, epilogue)
    return plan.backend.xp.astype(y, plan.dtype) if plan.upcast else y


def _forward_tiles(plan: ConvPlan, x: Array, weight: Array, epilogue: Epilogue | None) -> Array:
    pooling = None if epilogue is None else epilogue.pooling
    y = new_channels_last(x, plan.geometry.output_shape if pooling is None else pooling.output_shape)
    filters = _filters(plan, weight)

    def compute(tile: Tile) -> None:
        # What is pooled has other rows and columns.
        outputs = tile.outputs if pooling is None else (*tile.outputs[:2], ...)
        place = y[outputs] if pooling is None else None
        if tile.geometry.h == 0:
            part = new_channels_last(x, tile.geometry.output_shape, zeros=True)  # of padding alone
        else:
            part = _computed(plan, x[tile.inputs], filters[tile.filters.start], tile.geometry, place)
        if epilogue is not None:
            part = epilogue(part, tile.filters)
        if part is not place:
            y[outputs] = part

    with _packed_weights():
        plan.backend.parallel_for(compute, plan.tiles, plan.max_workers)
    return y


def new_channels_last(like: Array, shape: tuple[int, ...], zeros: bool = False) -> Array:
    """Return a new array (N, C, H, W) over channels-last memory, of the dtype of `like`."""
    backend = backend_of(like)
    n, c, h, w = shape
    make = backend.xp.zeros if zeros else backend.xp.empty
    return backend.xp.permute_dims(make((n, h, w, c), dtype=like.dtype, device=backend.device), (0, 3, 1, 2))


def grad_input(
    plan: ConvPlan, dy: Array, weight: Array, epilogue: Callable[[Array], Array] | None = None
) -> Array:
    """Return dx (N, C, H, W), or what the epilogue makes of it before it is rounded to its dtype."""
    if plan.upcast:
        dy, weight = _upcast(plan, dy), _upcast(plan, weight)
    if plan.is_whole:
        dx = _computed(plan, dy, weight, plan.geometry)
    else:
        dx = _grad_input_tiles(plan, dy, weight)
    dx = dx if epilogue is None else epilogue(dx)
    return plan.backend.xp.astype(dx, plan.dtype) if plan.upcast else dx


def _grad_input_tiles(plan: ConvPlan, dy: Array, weight: Array) -> Array:
    geometry = plan.geometry
    # Neighbouring tiles of rows overlap in the input, and must be added up; strides may leave rows unseen.
    overlap = plan.splits_images
    unseen = rows_of(geometry, 0, geometry.oh)[1] != slice(0, geometry.h)
    dx = new_channels_last(dy, geometry.input_shape, zeros=overlap or unseen)
    filters = _filters(plan, weight)

    def compute(tile: Tile) -> None:
        if not tile.geometry.h:
            return
        weights = filters[tile.filters.start]
        if overlap:
            dx[tile.inputs] += _computed(plan, dy[tile.outputs], weights, tile.geometry)
            return
        place = dx[tile.inputs]
        part = _computed(plan, dy[tile.outputs], weights, tile.geometry, place)
        if part is not place:
            dx[tile.inputs] = part

    with _packed_weights():
        plan.backend.parallel_for(compute, plan.tiles, 1 if overlap else plan.max_workers)
    return dx


def grad_weight(plan: ConvPlan, x: Array, dy: Array) -> Array:
    """Return dweight (K, C/groups, kh, kw)."""
    if plan.upcast:
        x, dy = _upcast(plan, x), _upcast(plan, dy)
    dweight = _grad_weight(plan, x, dy)
    if plan.algorithm.spreads and has_spread(plan.backend, dweight):
        dweight = _grad_weight(_direct_plan(plan, x.dtype), x, dy)
    return plan.backend.xp.astype(dweight, plan.dtype) if plan.upcast else dweight


def _direct_plan(plan: ConvPlan, dtype: Any) -> ConvPlan:
    """Return the plan for the same, without a transform that spreads NaN."""
    limit = UNLIMITED if in_reference() else WORKSPACE.limit or plan.backend.default_workspace
    for name in DIRECT:
        if unsupported_reason(find(name), plan.geometry, dtype, plan.backend, limit) is None:
            break
    return plan_for(plan.pass_name, plan.geometry, dtype, plan.backend, name)


def _grad_weight(plan: ConvPlan, x: Array, dy: Array) -> Array:
    algorithm, per_call, backend = plan.algorithm, plan.per_call, plan.backend
    if plan.is_whole:
        dweight = algorithm.grad_weight(x, dy, plan.geometry)
        _check_result(plan, dweight, plan.geometry.weight_shape, x, dy, plan.geometry)
        return backend.ascontiguous(dweight)

    def partial_sum(tiles: tuple[Tile, ...]) -> dict[int, Array]:
        """Return the gradients that some tiles give, by the first of their filters."""
        sums: dict[tuple[int, tuple[int, ...]], Array] = {}  # by shape, too: tiles of other sizes may differ
        for tile in tiles:
            if tile.geometry.h:
                part = algorithm.grad_weight_partial(x[tile.inputs], dy[tile.outputs], tile.geometry)
                if plan.is_foreign:
                    check_fresh(plan, part, x, dy)
                _add(sums, (tile.filters.start, tuple(part.shape)), part)
        gradients: dict[int, Array] = {}
        for (first, _), total in sums.items():
            part = algorithm.finish_grad_weight(total, per_call)
            _check_result(plan, part, per_call.weight_shape, x, dy, per_call)
            _add(gradients, first, part)
        return gradients

    # Runs of tiles, summed in their order: neither depends on the number of threads.
    tiles = plan.tiles
    length = max(1, -(-len(tiles) // min(PARTIAL_SUMS, plan.max_workers)))
    runs = [tiles[start : start + length] for start in range(0, len(tiles), length)]
    totals: dict[int, Array] = {}
    for found in backend.parallel_map(partial_sum, runs, plan.max_workers):
        for first, part in found.items():
            _add(totals, first, part)
    if totals and per_call.k == plan.geometry.k:
        return backend.ascontiguous(totals[0])
    dweight = backend.xp.zeros(plan.geometry.weight_shape, dtype=x.dtype, device=backend.device)
    for first, total in totals.items():
        dweight[first : first + per_call.k, ...] = total
    return dweight


def _add(totals: dict[Any, Array], key: Any, part: Array) -> None:
    if key in totals:
        totals[key] += part
    else:
        totals[key] = part


def _upcast(plan: ConvPlan, x: Array) -> Array:
    xp = plan.backend.xp
    return xp.astype(x, xp.float32)


def _filters(plan: ConvPlan, weight: Array) -> dict[int, Array]:
    """Return the weight of each group by its first output channel."""
    k = plan.per_call.k
    return {start: weight[start : start + k, ...] for start in range(0, plan.geometry.k, k)}


def _computed(plan: ConvPlan, a: Array, b: Array, geometry: ConvGeometry, out: Array | None = None) -> Array:
    """Return the result of a forward or grad_input pass, for a tile or for everything.

    An algorithm may write it to `out`. Where NaN may have spread, it is computed again without transforms.
    """
    algorithm, name = plan.algorithm, plan.pass_name
    compute = getattr(algorithm, name)
    result: Array = compute(a, b, geometry, out) if algorithm.accepts_out else compute(a, b, geometry)
    shape = geometry.output_shape if name == "forward" else geometry.input_shape
    _check_result(plan, result, shape, a, b, geometry)
    if algorithm.spreads and has_spread(plan.backend, result):
        result = getattr(find(DIRECT[0]), name)(a, b, geometry)
    return result


def _check_result(
    plan: ConvPlan, result: Any, shape: tuple[int, ...], a: Array, b: Array, geometry: ConvGeometry
) -> None:
    """Require what an algorithm returns: a new array of this shape, with the dtype and backend of `a`."""
    if type(result) is not type(a) or result.shape != shape or result.dtype != a.dtype:
        check_kind(plan, result, shape, a, geometry)
    if plan.is_foreign:
        check_fresh(plan, result, a, b)


def run_pass(pass_name: str, name: str, a: Array, b: Array, geometry: ConvGeometry) -> Array:
    """Run one pass by the algorithm `name`: what `autotune` measures."""
    plan = plan_for(pass_name, geometry, a.dtype, backend_of(a), name)
    if pass_name == "forward":
        return forward(plan, a, b)
    return grad_input(plan, a, b) if pass_name == "grad_input" else grad_weight(plan, a, b)


# -- packed weights --------------------------------------------------------------------


class _Packed:
    """Weights in the forms that algorithms want them in; tiles may be computed by several threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.arrays: dict[Any, tuple[Array, Array]] = {}


_packed: ContextVar[_Packed | None] = ContextVar("xpcnn_packed_weights", default=None)


@contextmanager
def _packed_weights() -> Iterator[None]:
    """Let `packed` keep what it makes until the end of the block."""
    token = _packed.set(_Packed())
    try:
        yield
    finally:
        _packed.reset(token)


def packed(pack: Callable[..., Array], weight: Array, *args: Any) -> Array:
    """Return ``pack(weight, *args)``, made once for all tiles of a convolution."""
    kept = _packed.get()
    if kept is None:
        return pack(weight, *args)
    key = (pack, id(weight), args)
    with kept.lock:
        if key not in kept.arrays:
            # Holding the weight keeps its id from being given to another array.
            kept.arrays[key] = weight, pack(weight, *args)
        return kept.arrays[key][1]
