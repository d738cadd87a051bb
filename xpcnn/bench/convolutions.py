"""The contestants of a convolution: every algorithm, the matrix product it cannot beat, and the peers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from xpcnn import ops
from xpcnn.backend import Backend, itemsize
from xpcnn.backend.torch_peer import LAYOUTS, TorchPeer
from xpcnn.bench import loops, oracle
from xpcnn.bench.calls import gemm, in_channels_last, picked, waited
from xpcnn.bench.geometries import described
from xpcnn.bench.measure import FLOOR, PLAIN_LOOP, Contestant, Problem
from xpcnn.errors import AlgorithmError
from xpcnn.ops import ConvGeometry
from xpcnn.ops.conv.executor import plan_for

__all__ = ["LOOP_SECONDS", "PASSES", "check_steps", "host_arrays", "problem"]

PASSES = ("forward", "grad_input", "grad_weight")

LOOP_SECONDS = 1.5
"""A loop that would take longer than this for one call is left out."""

_STEP_SECONDS, _MAC_SECONDS = 5e-6, 1e-9
"""What a turn of a Python loop takes, and each multiplication in it."""

_FROM_A_LOADER = 3
"""Images of so few channels come from a loader, in NCHW memory; others from a layer, channels-last."""

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def host_arrays(geometry: ConvGeometry, dtype: str) -> Arrays:
    """Return x, weight and dy for a geometry: normal random numbers, the same in every run."""
    rng = np.random.default_rng(0)
    shapes = geometry.input_shape, geometry.weight_shape, geometry.output_shape
    x, weight, dy = (rng.standard_normal(shape, np.float32).astype(dtype) for shape in shapes)
    return x, weight / np.asarray(math.sqrt(math.prod(geometry.weight_shape[1:])), dtype), dy


def problem(
    name: str,
    geometry: ConvGeometry,
    backend: Backend,
    *,
    dtype: str = "float32",
    algorithms: Iterable[str] | None = None,
    passes: Iterable[str] = PASSES,
    torch_peer: TorchPeer | None = None,
    plain_loop: bool = False,
) -> Problem:
    """Return a convolution as a problem for the algorithms named, or for all.

    The floor of a pass is its own matrix product on contiguous arrays that exist already: (N·OH·OW, C·kh·kw)
    times (C·kh·kw, K) forward, and the same three sizes in the other two orders backward.
    """
    arrays = host_arrays(geometry, dtype)
    on_device = functools.cache(functools.partial(_on_device, backend, arrays, geometry))
    passes = tuple(passes)
    contestants = [_floor(one, geometry, backend, dtype) for one in passes]
    for algorithm in ops.algorithm_names() if algorithms is None else algorithms:
        for one in passes:
            prepare = functools.partial(_prepared, algorithm, one, geometry, backend, on_device)
            chosen = ""
            if algorithm == "auto":
                chosen = plan_for(one, geometry, backend.dtype(dtype), backend, "auto").algorithm.name
            contestants.append(Contestant(algorithm, one, prepare, backend.to_numpy, backend, variant=chosen))
    if torch_peer is not None:
        contestants += _torch(torch_peer, arrays, geometry, passes)
    if plain_loop:
        for one in passes:
            prepare = functools.partial(_prepared_loop, one, arrays, geometry)
            contestants.append(Contestant(PLAIN_LOOP, one, prepare, np.asarray))
    traffic = float(sum(array.size for array in arrays) * itemsize(dtype))
    return Problem(
        name,
        described(geometry),
        contestants,
        operations=lambda _: 2.0 * geometry.macs,
        traffic=lambda _: traffic,
        expected=lambda one: oracle.convolution(arrays, geometry, one),
        tolerance=oracle.TOLERANCE[dtype],
    )


def _on_device(backend: Backend, arrays: Arrays, geometry: ConvGeometry) -> tuple[Any, Any, Any]:
    """Return x, weight and dy as a network has them: what a layer computed is channels-last in memory."""
    x, weight, dy = arrays
    if geometry.c > _FROM_A_LOADER:
        images = in_channels_last(backend, x)
    else:
        images = backend.asarray(x)
    return images, backend.asarray(weight), in_channels_last(backend, dy)


def _prepared(
    algorithm: str,
    pass_name: str,
    geometry: ConvGeometry,
    backend: Backend,
    on_device: Callable[[], tuple[Any, Any, Any]],
) -> Callable[[], Any]:
    if algorithm == "loop":
        check_steps(math.prod(geometry.output_shape), geometry.macs)
    x, weight, dy = on_device()
    top, bottom, left, right = geometry.padding
    assert (top, left) == (bottom, right)
    forward = functools.partial(
        ops.conv2d,
        x,
        weight,
        stride=geometry.stride,
        padding=(top, left),
        dilation=geometry.dilation,
        groups=geometry.groups,
        algorithm=algorithm,
    )
    if pass_name == "forward":
        return lambda: waited(backend, forward()[0])
    _, ctx = forward()
    place = PASSES.index(pass_name) - 1
    wanted = {"need_dx": place == 0, "need_dweight": place == 1}
    return lambda: waited(backend, ops.conv2d.backward(ctx, dy, **wanted)[place])


def _prepared_loop(pass_name: str, arrays: Arrays, geometry: ConvGeometry) -> Callable[[], Any]:
    if geometry.groups > 1:
        raise AlgorithmError("has no groups")
    check_steps(geometry.n * math.prod(geometry.output_size), geometry.macs)
    return functools.partial(loops.PASSES[pass_name], *arrays, geometry)


def check_steps(steps: int, macs: int) -> None:
    """Refuse a loop of so many turns, with so many multiplications in all, that would take too long."""
    seconds = _STEP_SECONDS * steps + _MAC_SECONDS * macs
    if seconds > LOOP_SECONDS:
        raise AlgorithmError(f"left out: a call would take about {seconds:.0f} s")


def _floor(pass_name: str, geometry: ConvGeometry, backend: Backend, dtype: str) -> Contestant:
    xp = backend.xp
    pixels, group = geometry.n * math.prod(geometry.output_size), geometry.groups
    patch, outputs = math.prod(geometry.weight_shape[1:]), geometry.k // group

    def ones(rows: int, columns: int) -> Any:
        shape = (rows, columns) if group == 1 else (group, rows, columns)
        return xp.ones(shape, dtype=backend.dtype(dtype), device=backend.device)

    def prepare() -> Callable[[], Any]:
        if pass_name == "forward":
            return gemm(backend, ones(pixels, patch), ones(patch, outputs))
        if pass_name == "grad_input":
            return gemm(backend, ones(pixels, outputs), xp.matrix_transpose(ones(patch, outputs)))
        return gemm(backend, xp.matrix_transpose(ones(pixels, patch)), ones(pixels, outputs))

    return Contestant(FLOOR, pass_name, prepare, backend.to_numpy, verified=False)


def _torch(
    peer: TorchPeer, arrays: Arrays, geometry: ConvGeometry, passes: tuple[str, ...]
) -> list[Contestant]:
    top, _, left, _ = geometry.padding
    options = geometry.stride, (top, left), geometry.dilation, geometry.groups
    contestants = []
    for layout in LAYOUTS:
        calls = functools.cache(functools.partial(peer.convolution, arrays, layout, *options))
        contestants += [
            Contestant("torch", one, functools.partial(picked, calls, one), peer.host, variant=layout)
            for one in passes
        ]
    return contestants
