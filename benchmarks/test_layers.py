"""Pooling, batch normalisation and ReLU, forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmarks.conftest import TORCH
from benchmarks.torch_reference import LAYOUTS, TorchReference
from xpcnn import ops
from xpcnn.backend import Backend
from xpcnn.cli.bench_cases import TOLERANCE, Candidate, Problem, channels_last, waited

OURS = "xpcnn"
PASSES = ("forward", "backward")


class LayerCase(NamedTuple):
    """A layer on one shape: the op by its name, and its arguments."""

    op: str
    shape: tuple[int, int, int, int]
    options: Mapping[str, Any]


LAYERS: Mapping[str, LayerCase] = {
    "max-pool-2": LayerCase("max_pool2d", (100, 30, 24, 24), {"kernel_size": 2}),
    "max-pool-3": LayerCase("max_pool2d", (8, 64, 112, 112), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "avg-pool-2": LayerCase("avg_pool2d", (100, 30, 24, 24), {"kernel_size": 2}),
    "batch-norm": LayerCase("batch_norm", (32, 64, 56, 56), {}),
    "relu": LayerCase("relu", (32, 64, 56, 56), {}),
}


@functools.lru_cache(maxsize=1)
def problem(name: str, backend: Backend, torch: TorchReference | None) -> Problem:
    """Return a layer on what a layer before it computed: channels-last in memory."""
    case = LAYERS[name]
    rng = np.random.default_rng(0)
    x, options = rng.standard_normal(case.shape, np.float32), dict(case.options)
    if case.op == "batch_norm":
        options |= {part: rng.random(case.shape[1], np.float32) for part in ("weight", "bias")}
    answers = layer_answers(case.op, x, options)
    dy = answers["dy"].astype(np.float32)
    ours = functools.cache(functools.partial(xpcnn_calls, case.op, x, dy, options, backend))
    candidates = [
        Candidate(OURS, one, functools.partial(pick, ours, one), backend.to_numpy) for one in PASSES
    ]
    for layout in LAYOUTS if torch is not None else ():
        assert torch is not None
        taken = {"running_mean": None, "running_var": None, "training": True} if "weight" in options else {}
        calls = functools.cache(functools.partial(torch.layer, case.op, x, dy, layout, {**taken, **options}))
        candidates += [
            Candidate("torch", one, functools.partial(pick, calls, one), torch.host, layout) for one in PASSES
        ]
    operations = dy.size * (8 if case.op == "batch_norm" else case.options.get("kernel_size", 1) ** 2)
    arguments = (f"{name.removesuffix('_size')} {value}" for name, value in case.options.items())
    description = ", ".join(["x".join(map(str, case.shape)), *arguments])
    return Problem(
        name,
        description,
        candidates,
        dict.fromkeys(PASSES, float(operations)),
        answers.__getitem__,
        TOLERANCE["float32"],
    )


def pick(calls: Callable[[], Mapping[str, Callable[[], Any]]], pass_name: str) -> Callable[[], Any]:
    """Return the call of one pass, of those that are made together."""
    return calls()[pass_name]


def xpcnn_calls(
    op: str, x: np.ndarray, dy: np.ndarray, options: dict[str, Any], backend: Backend
) -> dict[str, Callable[[], Any]]:
    """Prepare an op forward, and backward to its input."""
    taken = {
        name: backend.asarray(value) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    if op == "batch_norm":
        taken["train"] = True
    forward = functools.partial(getattr(ops, op), channels_last(backend, x), **taken)
    gradient = channels_last(backend, dy)
    _, ctx = forward()

    def to_input() -> Any:
        gradients = getattr(ops, op).backward(ctx, gradient)
        return waited(backend, gradients[0] if isinstance(gradients, tuple) else gradients)

    return {"forward": lambda: waited(backend, forward()[0]), "backward": to_input}


def layer_answers(op: str, x: np.ndarray, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the result, a random `dy` of its shape, and the gradient of the input, in float64."""
    x = x.astype(np.float64)
    rng = np.random.default_rng(1)
    if op == "batch_norm":
        return batch_norm_answers(x, rng.standard_normal(x.shape, np.float32), options)
    kernel = options.get("kernel_size", 1)
    stride, padding = options.get("stride", kernel), options.get("padding", 0)
    around = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    padded = np.pad(x, around, constant_values=0 if op == "avg_pool2d" else -np.inf)
    oh, ow = ((size - kernel) // stride + 1 for size in padded.shape[2:])
    dy = rng.standard_normal((*x.shape[:2], oh, ow), np.float32)
    dpadded = np.zeros_like(padded)
    taps = [
        (..., slice(r, r + stride * (oh - 1) + 1, stride), slice(s, s + stride * (ow - 1) + 1, stride))
        for r, s in product(range(kernel), repeat=2)
    ]
    stacked = np.stack([padded[tap] for tap in taps])
    weights: list[Any]
    if op == "avg_pool2d":
        y, weights = stacked.mean(axis=0), [1 / len(taps)] * len(taps)
    elif op == "max_pool2d":
        y, which = stacked.max(axis=0), stacked.argmax(axis=0)  # the first of equal ones
        weights = [which == i for i in range(len(taps))]
    else:
        y, weights = np.maximum(x, 0), [x > 0]
    for tap, weight in zip(taps, weights, strict=True):
        dpadded[tap] += dy * weight
    height, width = x.shape[2:]
    dx = dpadded[..., padding : padding + height, padding : padding + width]
    return {"forward": y, "dy": dy, "backward": dx}


def batch_norm_answers(x: np.ndarray, dy: np.ndarray, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the same of batch normalisation."""
    axes = (0, 2, 3)
    weight, bias = (np.asarray(options[name], np.float64)[:, None, None] for name in ("weight", "bias"))
    centred = x - x.mean(axes, keepdims=True)
    scale = 1 / np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5)
    normal, dnormal = centred * scale, dy * weight
    # The mean and the variance depend on x too: what they take away is a mean, and a multiple of `normal`.
    means = dnormal.mean(axes, keepdims=True), (dnormal * normal).mean(axes, keepdims=True)
    dx = scale * (dnormal - means[0] - normal * means[1])
    return {"forward": normal * weight + bias, "dy": dy, "backward": dx}


@pytest.mark.parametrize("candidate", [OURS, *TORCH])
@pytest.mark.parametrize("pass_name", PASSES)
@pytest.mark.parametrize("layer", LAYERS)
def test_layer(
    run: Any, backend: Backend, torch: TorchReference | None, layer: str, pass_name: str, candidate: str
) -> None:
    run(problem(layer, backend, torch), candidate, pass_name)
