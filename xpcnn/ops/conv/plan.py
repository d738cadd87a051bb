"""The plan of a convolution: how one pass of one geometry is executed under the settings of the moment.

A plan names the algorithm, the tiles, their workspace, and how many may run at once. It is made once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from xpcnn.backend import Backend, dtype_name
from xpcnn.errors import AlgorithmError, ArgumentError
from xpcnn.ops.conv.algorithm import ConvAlgorithm, find
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.heuristic import rank_algorithms
from xpcnn.ops.op import accumulator, plain

PARTIAL_SUMS = 4
"""How many sums over tiles are made side by side."""

UNLIMITED = 1 << 62
"""Bytes of workspace that nothing exceeds."""


class Tile(NamedTuple):
    """A part of the work: some images and rows of the output of one group, and what it reads."""

    inputs: tuple[slice, ...]
    outputs: tuple[slice, ...]
    filters: slice
    geometry: ConvGeometry


@dataclass(frozen=True)
class ConvPlan:
    """How one pass of a convolution is executed.

    Attributes
    ----------
    pass_name : {"forward", "grad_input", "grad_weight"}
    geometry : ConvGeometry
        Of the whole convolution.
    per_call : ConvGeometry
        Of all groups, or of one group where the algorithm sees them one by one.
    algorithm : ConvAlgorithm
    backend : Backend
    dtype : dtype
        Of the arrays given and returned.
    upcast : bool
        Whether the algorithm sees float32 instead: of half precision, unless it takes that itself.
    is_whole : bool
        Whether a single call does it all, without copies into and out of tiles.
    tiles : tuple of Tile
        Empty where `is_whole`.
    splits_images : bool
        Whether a tile is fewer rows than an image has.
    workspace : int
        Bytes of scratch memory of the largest tile.
    max_workers : int
        How many tiles the workspace limit allows at once.
    is_foreign : bool
        Whether the algorithm is a user's: what it returns is checked for memory of its inputs.
    """

    pass_name: str
    geometry: ConvGeometry
    per_call: ConvGeometry
    algorithm: ConvAlgorithm
    backend: Backend
    dtype: Any
    upcast: bool
    is_whole: bool
    tiles: tuple[Tile, ...]
    splits_images: bool
    workspace: int
    max_workers: int
    is_foreign: bool


def make_plan(
    pass_name: str, geometry: ConvGeometry, dtype: Any, backend: Backend, name: str, limit: int, op: str
) -> ConvPlan:
    """Return the plan for one pass, by the algorithm `name` or by the best that can do it.

    Parameters
    ----------
    name : str
        ``"auto"``, or the name of an algorithm.
    limit : int
        Bytes of scratch memory; `UNLIMITED` makes no tiles.
    op : str
        What errors name.

    Raises
    ------
    AlgorithmError
        For an algorithm that is not known, or cannot do this within the limit, with its reason.
    """
    names = (name,) if name != "auto" else rank_algorithms(geometry, pass_name, backend)
    reasons = []
    for algorithm in map(find, names):
        plan = plan_or_reason(geometry, pass_name, dtype, backend, algorithm, limit)
        if isinstance(plan, ConvPlan):
            return plan
        reasons.append(f"{algorithm.name} {plan}")
    if name != "auto":
        raise AlgorithmError(f"{op}: algorithm {name!r} {plan}; algorithm='auto' picks one that can")
    raise AlgorithmError(f"{op}: no algorithm can do this: {'; '.join(reasons)}")


def plan_or_reason(
    geometry: ConvGeometry, pass_name: str, dtype: Any, backend: Backend, algorithm: ConvAlgorithm, limit: int
) -> ConvPlan | str:
    """Return the plan by this algorithm, or why it cannot do this."""
    algorithm = algorithm.on(backend)
    per_call = geometry if algorithm.native_groups else geometry.one_group()
    wide = None if algorithm.native_half else accumulator(backend, dtype)
    compute_dtype = backend.dtype(dtype) if wide is None else wide
    reason = algorithm.unsupported(per_call, compute_dtype, backend)
    if reason is not None:
        return reason
    shape = _tile_shape(algorithm, per_call, compute_dtype, backend, limit)
    if shape is None:
        return (
            f"needs {_workspace(algorithm, per_call, compute_dtype, 1, 1)} bytes of workspace for one row of "
            f"the output, but the limit is {limit}; raise it with xpcnn.set_workspace_limit"
        )
    is_whole = per_call is geometry and shape == (max(geometry.n, 1), geometry.oh)
    workspace = _workspace(algorithm, per_call, compute_dtype, *shape)
    return ConvPlan(
        pass_name,
        geometry,
        per_call,
        algorithm,
        backend,
        backend.dtype(dtype),
        upcast=dtype_name(compute_dtype) != dtype_name(dtype),
        is_whole=is_whole,
        tiles=() if is_whole else tuple(_make_tiles(geometry, per_call, *shape)),
        splits_images=shape[1] < per_call.oh,
        workspace=workspace,
        max_workers=max(1, limit // max(1, workspace)),
        is_foreign=not type(algorithm).__module__.startswith("xpcnn."),
    )


# -- tiles -----------------------------------------------------------------------------


def _tile_shape(
    algorithm: ConvAlgorithm, geometry: ConvGeometry, dtype: Any, backend: Backend, limit: int
) -> tuple[int, int] | None:
    """Return the images and output rows of a tile, or None if no tile keeps to `limit`.

    A tile has fewer images than the limit allows where its scratch memory is to stay in the cache. But it has
    enough of them to outweigh the weights, which every tile reads again.
    """
    n, oh = geometry.n, geometry.oh

    def workspace(images: int) -> int:
        return algorithm.workspace_bytes(geometry.with_batch(images), dtype)

    images = bisect_right(range(1, n + 1), limit, key=workspace)
    block = None if limit >= UNLIMITED else backend.cache_block_bytes
    if images and block is not None and algorithm.cache_blocked:
        weights = workspace(0)
        images = max(1, bisect_right(range(1, images + 1), weights + max(block, weights), key=workspace))
    if images:
        count = -(-n // images)
        return -(-n // count), oh  # as even as can be
    if n == 0:
        return 1, oh
    bytes_of_rows = partial(_workspace, algorithm, geometry, dtype, 1)
    rows = bisect_right(range(1, oh + 1), limit, key=bytes_of_rows)
    return (1, rows) if rows else None


def _workspace(algorithm: ConvAlgorithm, geometry: ConvGeometry, dtype: Any, images: int, rows: int) -> int:
    """Return the bytes of scratch memory of the largest tile of so many images and output rows."""
    geometry = geometry.with_batch(min(images, geometry.n))
    if rows >= geometry.oh:
        return algorithm.workspace_bytes(geometry, dtype)
    return max(algorithm.workspace_bytes(part, dtype) for _, part, _ in _split_rows(geometry, rows))


def _split_rows(geometry: ConvGeometry, rows: int) -> Iterator[tuple[slice, ConvGeometry, slice]]:
    """Yield output rows, so many at a time, the geometry of just these, and the input rows they read."""
    for start in range(0, geometry.oh, rows):
        stop = min(start + rows, geometry.oh)
        yield slice(start, stop), *geometry.with_rows(start, stop)


def _make_tiles(geometry: ConvGeometry, per_call: ConvGeometry, images: int, rows: int) -> Iterator[Tile]:
    """Yield the tiles of so many images and output rows, group by group; the last ones may be smaller."""
    everything = slice(None)
    for start in range(0, geometry.n, images):
        batch = slice(start, min(start + images, geometry.n))
        for output_rows, part, input_rows in _split_rows(per_call.with_batch(batch.stop - start), rows):
            for group in range(geometry.k // per_call.k):
                channels = slice(group * per_call.c, (group + 1) * per_call.c)
                filters = slice(group * per_call.k, (group + 1) * per_call.k)
                yield Tile(
                    (batch, channels, input_rows, everything),
                    (batch, filters, output_rows, everything),
                    filters,
                    part,
                )


# -- the workspace limit ---------------------------------------------------------------


class Workspace:
    """The bytes that `set_workspace_limit` has set; None where each backend's default holds."""

    limit: int | None = None


WORKSPACE = Workspace()


def set_workspace_limit(limit: int | None) -> None:
    """Bound the scratch memory of each convolution call, in bytes, for the whole process.

    Convolutions that would need more are computed in tiles: of some images, then of some rows of the output.
    None restores each backend's own default: 64 MiB on a CPU, 1 GiB on a GPU.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.set_workspace_limit(16 << 20)
    >>> xpcnn.get_workspace_limit()
    16777216
    >>> xpcnn.set_workspace_limit(None)
    """
    limit = plain(limit)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ArgumentError(f"set_workspace_limit: limit must be a positive number of bytes, got {limit!r}")
    WORKSPACE.limit = limit


def get_workspace_limit() -> int | None:
    """Return the limit in bytes, or None where each backend's default holds."""
    return WORKSPACE.limit


def workspace_limit(backend: Backend) -> int:
    """Return the bytes a convolution on `backend` may use."""
    return WORKSPACE.limit or backend.default_workspace
