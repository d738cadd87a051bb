"""One call of every op that has a backward: for what all of them promise alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xpcnn import ops
from xpcnn.ops import fused

IMAGES, ROWS, CHANNELS = (2, 4, 6, 5), (3, 4), (4,)
LABELS = np.array([0, 3, 2])


class OpCase(NamedTuple):
    """An op, the shapes of its floating arrays, and its options; all arrays may hold positive numbers."""

    op: Any
    shapes: list[tuple[int, ...]]
    options: dict[str, Any] = {}  # noqa: RUF012  (never written to)

    def __call__(self, *arrays: Any) -> tuple[Any, Any]:
        y, ctx = self.op(*arrays, **self.options)
        return y, ctx

    def draw(self, array: Callable[[Any], Any]) -> list[Any]:
        """Its arrays, of numbers in [0.5, 1.5)."""
        rngs = (np.random.default_rng([seed, *shape]) for seed, shape in enumerate(self.shapes))
        return [array(0.5 + rng.random(shape)) for rng, shape in zip(rngs, self.shapes, strict=True)]

    def backward(self, ctx: Any, y: Any) -> Any:
        """Its gradients; a loss takes a number in the place of dy."""
        return self.op.backward(ctx, y if y.ndim else 1.0)


_NORM = [IMAGES, CHANNELS, CHANNELS, CHANNELS, CHANNELS]
OPS = {
    "adaptive_avg_pool2d": OpCase(ops.adaptive_avg_pool2d, [IMAGES], {"output_size": (2, 3)}),
    "avg_pool2d": OpCase(ops.avg_pool2d, [IMAGES], {"kernel_size": 3, "stride": 2, "padding": 1}),
    "batch_norm": OpCase(ops.batch_norm, _NORM, {"train": True}),
    "batch_norm_relu": OpCase(fused.batch_norm_relu, _NORM, {"train": True}),
    "conv2d": OpCase(ops.conv2d, [IMAGES, (3, 4, 3, 3), (3,)], {"padding": 1}),
    "conv_transpose2d": OpCase(ops.conv_transpose2d, [IMAGES, (4, 3, 3, 3), (3,)], {"stride": 2}),
    "dropout": OpCase(ops.dropout, [ROWS], {"p": 0.5, "key": 3}),
    "flatten": OpCase(ops.flatten, [IMAGES]),
    "gelu": OpCase(ops.gelu, [ROWS]),
    "group_norm": OpCase(lambda x, w, b: ops.group_norm(x, 2, w, b), [IMAGES, CHANNELS, CHANNELS]),
    "layer_norm": OpCase(lambda x, w, b: ops.layer_norm(x, 4, w, b), [ROWS, CHANNELS, CHANNELS]),
    "leaky_relu": OpCase(ops.leaky_relu, [ROWS], {"slope": 0.1}),
    "linear": OpCase(ops.linear, [ROWS, (2, 4), (2,)]),
    "local_response_norm": OpCase(ops.local_response_norm, [IMAGES], {"size": 3}),
    "log_softmax": OpCase(ops.log_softmax, [ROWS]),
    "max_pool2d": OpCase(ops.max_pool2d, [IMAGES], {"kernel_size": 3, "stride": 2, "padding": 1}),
    "mean_squared_error": OpCase(ops.mean_squared_error, [ROWS, ROWS]),
    "relu": OpCase(ops.relu, [ROWS]),
    "sigmoid": OpCase(ops.sigmoid, [ROWS]),
    "silu": OpCase(ops.silu, [ROWS]),
    "softmax": OpCase(ops.softmax, [ROWS]),
    "softmax_cross_entropy": OpCase(ops.softmax_cross_entropy, [ROWS, ROWS], {"label_smoothing": 0.1}),
    "tanh": OpCase(ops.tanh, [ROWS]),
}
for _name in ("group_norm", "layer_norm"):
    OPS[_name].op.backward = getattr(ops, _name).backward


def names() -> set[str]:
    """Every op there is."""
    return {n for module in (ops, fused) for n in module.__all__ if hasattr(getattr(module, n), "backward")}
