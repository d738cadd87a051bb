"""Activations, dropout, and the layer that does nothing."""

from __future__ import annotations

from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.nn.layer import Layer, Stateless
from xpcnn.nn.parameter import Gradients
from xpcnn.ops.op import real, require_array, whole

__all__ = ["GELU", "Dropout", "Identity", "LeakyReLU", "ReLU", "SiLU", "Sigmoid", "Softmax", "Tanh"]


class ReLU(Stateless):
    """``max(x, 0)``; see `xpcnn.ops.relu`."""

    op = ops.relu
    batch_independent = True


class LeakyReLU(Stateless):
    """``x`` where it is positive, else ``slope·x``; see `xpcnn.ops.leaky_relu`."""

    op = ops.leaky_relu
    options = ("slope",)
    batch_independent = True

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = real("LeakyReLU: slope", slope)


class Sigmoid(Stateless):
    """``1 / (1 + exp(−x))``; see `xpcnn.ops.sigmoid`."""

    op = ops.sigmoid
    batch_independent = True


class Tanh(Stateless):
    """The hyperbolic tangent; see `xpcnn.ops.tanh`."""

    op = ops.tanh
    batch_independent = True


class GELU(Stateless):
    """``x·Φ(x)``, the exact form; see `xpcnn.ops.gelu`."""

    op = ops.gelu
    batch_independent = True


class SiLU(Stateless):
    """``x·σ(x)``, also called swish; see `xpcnn.ops.silu`."""

    op = ops.silu
    batch_independent = True


class Softmax(Stateless):
    """Probabilities along an axis; see `xpcnn.ops.softmax`. Models end in logits: the loss has its own."""

    op = ops.softmax
    options = ("axis",)

    def __init__(self, axis: int = -1) -> None:
        self.axis = whole("Softmax: axis", axis)

    @property
    def batch_independent(self) -> bool:  # type: ignore[override]
        """False where the axis is that of the samples, or may be: of (N, C), axis −2 is."""
        return self.axis == -1 or self.axis > 0


class Dropout(Stateless):
    """Zero a part `p` of the activations while training; see `xpcnn.ops.dropout`.

    The mask is a function of the key forward is given; without one, a fresh key is drawn.
    """

    op = ops.dropout
    options = ("p",)
    batch_independent = True

    def __init__(self, p: float = 0.5) -> None:
        self.p = real("Dropout: p", p, 0, 1)

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        if not train or self.p == 0:
            return require_array("Dropout", "x", x), None
        return self.op(x, self.p, Key.fresh() if key is None else key)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        if ctx is None:
            return require_array("Dropout", "dy", dy) if need_dx else None
        return super().backward(ctx, dy, grads, need_dx=need_dx)


class Identity(Layer):
    """``y = x``."""

    batch_independent = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return require_array("Identity", "x", x), None

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return require_array("Identity", "dy", dy) if need_dx else None
