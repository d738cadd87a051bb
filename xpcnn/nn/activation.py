"""Layers without parameters that work element by element, and the softmax."""

from __future__ import annotations

from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.nn.gradients import Gradients
from xpcnn.nn.layer import Layer
from xpcnn.ops.checks import real, whole

__all__ = ["GELU", "LeakyReLU", "ReLU", "SiLU", "Sigmoid", "Softmax", "Tanh"]


class ReLU(Layer):
    """``max(x, 0)``; see `xpcnn.ops.relu`."""

    per_sample = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.relu(x)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return ops.relu.backward(ctx, dy) if need_dx else None


class LeakyReLU(Layer):
    """``x`` where it is positive, else ``slope·x``; see `xpcnn.ops.leaky_relu`."""

    per_sample = True

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = real("LeakyReLU: slope", slope)

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.leaky_relu(x, self.slope)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return ops.leaky_relu.backward(ctx, dy) if need_dx else None

    def extra_repr(self) -> str:
        return f"slope={self.slope}"


class Sigmoid(Layer):
    """``1 / (1 + exp(−x))``; see `xpcnn.ops.sigmoid`."""

    per_sample = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.sigmoid(x)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return ops.sigmoid.backward(ctx, dy) if need_dx else None


class Tanh(Layer):
    """The hyperbolic tangent; see `xpcnn.ops.tanh`."""

    per_sample = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.tanh(x)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return ops.tanh.backward(ctx, dy) if need_dx else None


class Softmax(Layer):
    """Probabilities along an axis; see `xpcnn.ops.softmax`. Models end in logits: the loss has its own."""

    per_sample = True

    def __init__(self, axis: int = -1) -> None:
        self.axis = whole("Softmax: axis", axis)

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.softmax(x, self.axis)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return ops.softmax.backward(ctx, dy) if need_dx else None

    def extra_repr(self) -> str:
        return f"axis={self.axis}"


class GELU(Layer):
    """``x·Φ(x)``, the exact form; see `xpcnn.ops.gelu`."""

    per_sample = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.gelu(x)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return ops.gelu.backward(ctx, dy) if need_dx else None


class SiLU(Layer):
    """``x·σ(x)``, also called swish; see `xpcnn.ops.silu`."""

    per_sample = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.silu(x)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return ops.silu.backward(ctx, dy) if need_dx else None
