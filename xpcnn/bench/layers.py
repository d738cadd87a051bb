"""Pooling, batch normalisation and ReLU, forward and backward: one contestant of ours, and PyTorch's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from xpcnn import ops
from xpcnn.backend import Backend, itemsize
from xpcnn.backend.torch_peer import LAYOUTS, TorchPeer
from xpcnn.bench import oracle
from xpcnn.bench.calls import in_channels_last, picked, waited
from xpcnn.bench.geometries import LayerCase
from xpcnn.bench.measure import OURS, Contestant, Problem

__all__ = ["PASSES", "problem"]

PASSES = ("forward", "backward")

_NORM_OPERATIONS = 8
"""Of a batch normalisation for each number; pooling has one for each number of a window, ReLU one."""


def problem(
    name: str,
    case: LayerCase,
    backend: Backend,
    *,
    dtype: str = "float32",
    passes: Iterable[str] = PASSES,
    torch_peer: TorchPeer | None = None,
) -> Problem:
    """Return a layer as a problem, on what a layer before it computed: channels-last in memory."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(case.shape, np.float32).astype(dtype)
    dy = rng.standard_normal(_output_shape(case), np.float32).astype(dtype)
    options = dict(case.options)
    if case.op == "batch_norm":
        options |= {part: rng.random(case.shape[1], np.float32).astype(dtype) for part in ("weight", "bias")}
    passes = tuple(passes)
    ours = functools.cache(functools.partial(_ours, case.op, x, dy, options, backend))
    contestants = [
        Contestant(OURS, one, functools.partial(picked, ours, one), backend.to_numpy, backend)
        for one in passes
    ]
    if torch_peer is not None:
        contestants += _torch(torch_peer, case.op, x, dy, options, passes)
    answers = functools.cache(functools.partial(oracle.layer, case.op, x, dy, options))
    operations, traffic = _operations(case, dy.size), float((x.size + dy.size) * itemsize(dtype))
    arguments = ", ".join(f"{name.removesuffix('_size')} {value}" for name, value in case.options.items())
    return Problem(
        name,
        ", ".join(filter(None, ["x".join(map(str, case.shape)), arguments])),
        contestants,
        operations=lambda _: operations,
        traffic=lambda _: traffic,
        expected=lambda one: answers()[one],
        tolerance=oracle.TOLERANCE[dtype],
    )


def _output_shape(case: LayerCase) -> tuple[int, ...]:
    if "kernel_size" not in case.options:
        return case.shape
    kernel, padding = case.options["kernel_size"], case.options.get("padding", 0)
    stride = case.options.get("stride", kernel)
    return *case.shape[:2], *((size + 2 * padding - kernel) // stride + 1 for size in case.shape[2:])


def _operations(case: LayerCase, outputs: int) -> float:
    each = _NORM_OPERATIONS if case.op == "batch_norm" else case.options.get("kernel_size", 1) ** 2
    return float(outputs * each)


def _ours(
    op: str, x: np.ndarray, dy: np.ndarray, options: dict[str, Any], backend: Backend
) -> dict[str, Callable[[], Any]]:
    taken = {
        name: backend.asarray(value) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    if op == "batch_norm":
        taken["train"] = True
    forward = functools.partial(getattr(ops, op), in_channels_last(backend, x), **taken)
    backward = getattr(ops, op).backward
    gradient = in_channels_last(backend, dy)
    _, ctx = forward()

    def to_input() -> Any:
        gradients = backward(ctx, gradient)
        return waited(backend, gradients[0] if isinstance(gradients, tuple) else gradients)

    return {"forward": lambda: waited(backend, forward()[0]), "backward": to_input}


def _torch(
    peer: TorchPeer,
    op: str,
    x: np.ndarray,
    dy: np.ndarray,
    options: dict[str, Any],
    passes: tuple[str, ...],
) -> list[Contestant]:
    if op == "batch_norm":
        options = {"running_mean": None, "running_var": None, "training": True, **options}
    contestants = []
    for layout in LAYOUTS:
        calls = functools.cache(functools.partial(peer.layer, op, x, dy, layout, options))
        contestants += [
            Contestant("torch", one, functools.partial(picked, calls, one), peer.host, variant=layout)
            for one in passes
        ]
    return contestants
