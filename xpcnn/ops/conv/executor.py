"""Runs the plan of a convolution: groups and tiles, the epilogue, packed weights, sums over tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from xpcnn.backend import Array, Backend, backend_of, primitive
from xpcnn.backend.reference import in_reference
from xpcnn.ops.conv.algorithm import ALGORITHMS, find, requested
from xpcnn.ops.conv.autotune import fastest_algorithm, is_tuning
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.plan import PARTIAL_SUMS, UNLIMITED, WORKSPACE, ConvPlan, Tile, make_plan
from xpcnn.ops.conv.results import check_result
from xpcnn.ops.max_pool import PoolGeometry, max_pool_windows

_plans: dict[Any, ConvPlan] = {}
_MOST_PLANS, _MOST_TILES = 512, 128
"""Plans kept, and tiles of each: a tile takes half a kilobyte."""


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
            name = fastest_algorithm(geometry, pass_name, dtype, backend, run_pass) or name
    # The algorithm itself, too: a name may come to mean another one. The backend comes before the dtype:
    # dtypes of two libraries may hash alike, and must not be compared.
    settings = limit, op, name, ALGORITHMS.get(name), *backend.convolutions.values()
    key = pass_name, geometry.key, backend, dtype, settings
    plan = _plans.get(key)
    if plan is None:
        plan = make_plan(pass_name, geometry, dtype, backend, name, limit, op)
        if len(plan.tiles) <= _MOST_TILES:
            if len(_plans) >= _MOST_PLANS:
                _plans.clear()
            _plans[key] = plan
    return plan


def run_pass(
    pass_name: str, name: str, a: Array, b: Array, geometry: ConvGeometry, op: str = "conv2d"
) -> Array:
    """Return y, dx or dweight: one pass by the algorithm `name`, without an epilogue."""
    return run(plan_for(pass_name, geometry, a.dtype, backend_of(a), name, op), a, b)


@primitive
def add_bias(y: Array, bias: Array) -> Array:
    """Return y (N, K, OH, OW) plus a number for each channel; `y` is fresh, and may be written to."""
    y += backend_of(y).xp.reshape(bias, (1, -1, 1, 1))
    return y


@primitive
def add_bias_relu(y: Array, bias: Array) -> Array:
    """Return ``max(y + bias, 0)`` likewise; NaN stays NaN."""
    backend = backend_of(y)
    zero = backend.xp.zeros((), dtype=y.dtype, device=backend.device)
    return backend.xp.maximum(add_bias(y, bias), zero)


class Epilogue(NamedTuple):
    """What is done to each finished tile of y, or to the whole dx, while it is in the cache.

    Attributes
    ----------
    add : function
        ``add(y, bias)``: `add_bias`, or `add_bias_relu`.
    bias : array (K,)
    pooling : PoolGeometry, optional
        Of a maximum pooling, which comes first: bias and ReLU do not change which number is the largest.
    relu : bool
        Whether `add` is `add_bias_relu`.
    """

    add: Callable[[Array, Array], Array]
    bias: Array
    pooling: PoolGeometry | None = None
    relu: bool = False

    def __call__(self, y: Array, channels: slice) -> Array:
        """Return what takes the place of `y`, a fresh array (n, k, oh, ow) of these output channels."""
        if self.pooling is not None:
            y = max_pool_windows(y, self.pooling)
        return self.add(y, self.bias[channels])


def run(plan: ConvPlan, a: Array, b: Array, epilogue: Epilogue | None = None) -> Array:
    """Return y, dx or dweight of a pass; or what the epilogue makes of y or dx, before that is rounded."""
    passes: dict[str, Callable[..., Array]]
    passes = {"forward": _forward, "grad_input": _grad_input, "grad_weight": _grad_weight}
    run_plan = passes[plan.pass_name]
    if not plan.upcast:
        return run_plan(plan, a, b, epilogue)
    xp = plan.backend.xp
    if epilogue is not None:
        epilogue = epilogue._replace(bias=xp.astype(epilogue.bias, xp.float32))
    result = run_plan(plan, xp.astype(a, xp.float32), xp.astype(b, xp.float32), epilogue)
    return xp.astype(result, plan.dtype)


def _forward(plan: ConvPlan, x: Array, weight: Array, epilogue: Epilogue | None) -> Array:
    pooling = None if epilogue is None else epilogue.pooling
    # A window of a pooling may reach over several tiles of rows.
    at_once = plan.is_whole or (pooling is not None and plan.splits_images)
    if plan.is_whole and epilogue is not None and plan.algorithm.fuses_epilogue:
        y = plan.algorithm.forward_epilogue(x, weight, plan.geometry, epilogue)
        epilogue = None
    elif plan.is_whole:
        y = _compute(plan, x, weight, plan.geometry)
    else:
        shape = plan.geometry.output_shape if pooling is None or at_once else pooling.output_shape
        y = new_channels_last(x, shape)
        _run_tiles(plan, x, weight, y, None if at_once else epilogue)
    return epilogue(y, slice(0, plan.geometry.k)) if at_once and epilogue is not None else y


def _grad_input(plan: ConvPlan, dy: Array, weight: Array, epilogue: Epilogue | None) -> Array:
    geometry = plan.geometry
    if plan.is_whole:
        dx = _compute(plan, dy, weight, geometry)
    else:
        # Neighbouring tiles of rows overlap in the input, and are added up; strides may leave rows unread.
        gaps = plan.splits_images or any(tile.inputs[2] != slice(0, geometry.h) for tile in plan.tiles[:1])
        dx = new_channels_last(dy, geometry.input_shape, zeros=gaps)
        _run_tiles(plan, dy, weight, dx)
    return dx if epilogue is None else epilogue(dx, slice(0, geometry.c))


def _run_tiles(
    plan: ConvPlan, a: Array, weight: Array, result: Array, epilogue: Epilogue | None = None
) -> None:
    """Compute the tiles of a forward or grad_input pass, each at its place in `result`."""
    is_forward, k = plan.pass_name == "forward", plan.per_call.k
    overlap = plan.splits_images and not is_forward
    pooled = epilogue is not None and epilogue.pooling is not None
    filters = {start: weight[start : start + k, ...] for start in range(0, plan.geometry.k, k)}

    def compute(tile: Tile) -> None:
        read, write = (tile.inputs, tile.outputs) if is_forward else (tile.outputs, tile.inputs)
        if pooled:
            write = (*write[:2], slice(None), slice(None))  # what is pooled has other rows and columns
        place = None if pooled or overlap else result[write]
        if tile.geometry.h:
            part = _compute(plan, a[read], filters[tile.filters.start], tile.geometry, place)
        elif is_forward:
            part = new_channels_last(a, tile.geometry.output_shape, zeros=True)  # of padding alone
        else:
            return
        if epilogue is not None:
            part = epilogue(part, tile.filters)
        if overlap:
            result[write] += part
        elif part is not place:
            result[write] = part

    with _pack_once():
        plan.backend.parallel_for(compute, plan.tiles, 1 if overlap else plan.max_workers)


def _grad_weight(plan: ConvPlan, x: Array, dy: Array, epilogue: Epilogue | None = None) -> Array:
    dweight = _sum_over_tiles(plan, x, dy)
    if plan.algorithm.spreads and _has_spread(plan.backend, dweight):
        direct = plan_for("grad_weight", plan.geometry, x.dtype, plan.backend, DIRECT)
        dweight = _sum_over_tiles(direct, x, dy)
    return dweight


def _sum_over_tiles(plan: ConvPlan, x: Array, dy: Array) -> Array:
    """Return dweight (K, C/groups, kh, kw)."""
    backend, k = plan.backend, plan.per_call.k

    def gradient(a: Array, b: Array, geometry: ConvGeometry) -> Array:
        dweight = plan.algorithm.grad_weight(a, b, geometry)
        if plan.is_foreign:
            check_result(plan, dweight, geometry.weight_shape, x, dy, geometry)
        return dweight

    def partial_sum(tiles: tuple[Tile, ...]) -> dict[int, Array]:
        """Return the gradients that some tiles give, by the first of their filters."""
        return _sums(
            (tile.filters.start, gradient(x[tile.inputs], dy[tile.outputs], tile.geometry))
            for tile in tiles
            if tile.geometry.h
        )

    if plan.is_whole:
        return backend.ascontiguous(gradient(x, dy, plan.geometry))
    # Runs of tiles, summed in their order: neither depends on the number of threads.
    length = max(1, -(-len(plan.tiles) // min(PARTIAL_SUMS, plan.max_workers)))
    runs = [plan.tiles[start : start + length] for start in range(0, len(plan.tiles), length)]
    found = backend.parallel_map(partial_sum, runs, plan.max_workers)
    dweight = backend.xp.zeros(plan.geometry.weight_shape, dtype=x.dtype, device=backend.device)
    for first, total in _sums(item for sums in found for item in sums.items()).items():
        dweight[first : first + k, ...] = total
    return dweight


def _sums(parts: Iterable[tuple[int, Array]]) -> dict[int, Array]:
    """Return the sum of the arrays of each key; the first array of each is written to."""
    sums: dict[int, Array] = {}
    for key, part in parts:
        if key in sums:
            sums[key] += part
        else:
            sums[key] = part
        del part
    return sums


def new_channels_last(like: Array, shape: tuple[int, ...], zeros: bool = False) -> Array:
    """Return a new array (N, C, H, W) over channels-last memory, of the dtype of `like`."""
    backend = backend_of(like)
    n, c, h, w = shape
    make = backend.xp.zeros if zeros else backend.xp.empty
    return backend.xp.permute_dims(make((n, h, w, c), dtype=like.dtype, device=backend.device), (0, 3, 1, 2))


def _compute(plan: ConvPlan, a: Array, b: Array, geometry: ConvGeometry, out: Array | None = None) -> Array:
    """Return the result of a forward or grad_input pass, for a tile or for everything.

    An algorithm may write it to `out`. Where NaN may have spread, it is computed again without transforms.
    """
    place = (out,) if plan.algorithm.accepts_out else ()
    result: Array = getattr(plan.algorithm, plan.pass_name)(a, b, geometry, *place)
    if plan.is_foreign:
        shape = geometry.output_shape if plan.pass_name == "forward" else geometry.input_shape
        check_result(plan, result, shape, a, b, geometry)
    if plan.algorithm.spreads and _has_spread(plan.backend, result):
        result = getattr(find(DIRECT), plan.pass_name)(a, b, geometry)
    return result


# -- NaN and infinity ------------------------------------------------------------------
#
# A transform sums numbers that the definition keeps apart, so NaN in one pixel reaches a whole tile or image.
# Such results are computed again without transforms, and with less scratch memory.

DIRECT = "kn2row"


def _has_spread(backend: Backend, result: Array) -> bool:
    """Whether NaN or infinity may have spread in a result (N, K, H, W), or (K, C, kh, kw).

    Products sum over the channels, so what reaches one channel of the result reaches all: one channel is
    checked, and one place of the others. False on a device, as the check would synchronise with it.
    """
    if backend.cache_block_bytes is None or 0 in result.shape:
        return False
    return not backend.has_finite_sums((result[:, 0, :, :], result[0, :, 0, 0]))


# -- packed weights --------------------------------------------------------------------

_packed: ContextVar[dict[Any, tuple[Array, Array]] | None] = ContextVar("xpcnn_packed_weights", default=None)


@contextmanager
def _pack_once() -> Iterator[None]:
    """Let `pack_weights` keep what it makes until the end of the block."""
    token = _packed.set({})
    try:
        yield
    finally:
        _packed.reset(token)


def pack_weights(pack: Callable[..., Array], weight: Array, *args: Any) -> Array:
    """Return ``pack(weight, *args)``, made once for all tiles of a convolution."""
    kept = _packed.get()
    if kept is None:
        return pack(weight, *args)
    key = (pack, id(weight), args)
    if key not in kept:  # two threads may both make it: the bits are the same
        # Holding the weight keeps its id from being given to another array.
        kept[key] = weight, pack(weight, *args)
    return kept[key][1]
