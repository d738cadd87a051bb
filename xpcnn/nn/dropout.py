"""Dropout, and nothing else."""

from __future__ import annotations

from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.nn.gradients import Gradients
from xpcnn.nn.layer import Layer
from xpcnn.ops.checks import real, require_array

__all__ = ["Dropout"]


class Dropout(Layer):
    """Zero a part `p` of the activations while training; see `xpcnn.ops.dropout`.

    The mask is a function of the key forward is given; without one, a fresh key is drawn.
    """

    per_sample = True

    def __init__(self, p: float = 0.5) -> None:
        self.p = real("Dropout: p", p, 0, 1)

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        if not train or self.p == 0:
            return require_array("Dropout", "x", x), None
        return ops.dropout(x, self.p, Key.fresh() if key is None else key)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        if not need_dx:
            return None
        return require_array("Dropout", "dy", dy) if ctx is None else ops.dropout.backward(ctx, dy)

    def extra_repr(self) -> str:
        return f"p={self.p}"
