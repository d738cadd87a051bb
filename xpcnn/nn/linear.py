"""The fully connected layer."""

from __future__ import annotations

import math
from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.nn.init import Initializer, constant, draw
from xpcnn.nn.layer import Layer, ReceptiveField
from xpcnn.nn.options import floating
from xpcnn.nn.parameter import Parameter
from xpcnn.nn.value_and_grad import Gradients
from xpcnn.ops.op import flag, whole

__all__ = ["Linear"]


class Linear(Layer):
    """``y = x @ weight.T + bias`` over the last axis; see `xpcnn.ops.linear`.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
        Whether to add one number to each output; it starts at 0.
    weight_init : "he", "xavier", float or Initializer
    seed : int or NumPy generator, optional
        What the initial weights are drawn from; fresh entropy if not given.
    dtype : str

    Attributes
    ----------
    weight : Parameter (out_features, in_features)
    bias : Parameter (out_features,), or None

    Examples
    --------
    >>> import xpcnn
    >>> layer = xpcnn.nn.Linear(3, 2, dtype="float64")
    >>> layer(xpcnn.asarray([[1.0, 2.0, 3.0]])).shape
    (1, 2)
    """

    per_sample = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight_init: Initializer | str | float = "he",
        seed: Any = None,
        dtype: Any = "float32",
    ) -> None:
        in_features = whole("Linear: in_features", in_features, 1)
        out_features = whole("Linear: out_features", out_features, 1)
        dtype, bias = floating("Linear", dtype), flag("Linear: bias", bias)
        shape = (out_features, in_features)
        self.weight = Parameter(draw(weight_init, seed, shape, in_features, out_features), dtype)
        self.bias = Parameter(constant(0.0, (out_features,), dtype)) if bias else None

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.linear(x, **self.arguments())

    def arguments(self) -> dict[str, Any]:
        """Return what `xpcnn.ops.linear` takes beside x."""
        return {"weight": self.weight.data, "bias": None if self.bias is None else self.bias.data}

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        need_dweight = grads is not None and self.trainable(self.weight, self.bias)
        dx, dweight, dbias = ops.linear.backward(ctx, dy, need_dx=need_dx, need_dweight=need_dweight)
        self.accumulate(grads, weight=dweight, bias=dbias)
        return dx

    def field_of(self, field: ReceptiveField | None) -> ReceptiveField | None:
        return None

    def macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        return math.prod(output_shape) * self.weight.shape[1]

    def extra_repr(self) -> str:
        features, inputs = self.weight.shape
        return f"{inputs}, {features}" + ("" if self.bias is not None else ", bias=False")
