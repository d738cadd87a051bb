"""Layers that compute nothing."""

from __future__ import annotations

from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.nn.gradients import Gradients
from xpcnn.nn.layer import Layer
from xpcnn.ops.checks import require_array

__all__ = ["Flatten", "Identity"]


class Flatten(Layer):
    """(N, C, H, W) to (N, C·H·W); see `xpcnn.ops.flatten`."""

    per_sample = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.flatten(x)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return ops.flatten.backward(ctx, dy) if need_dx else None


class Identity(Layer):
    """``y = x``."""

    per_sample = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return require_array("Identity", "x", x), None

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return require_array("Identity", "dy", dy) if need_dx else None
