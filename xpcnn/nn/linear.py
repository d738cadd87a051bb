"""The fully connected layer, images as its features, and what layers with a weight share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from xpcnn import ops
from xpcnn.backend import Array
from xpcnn.nn.init import Initializer, constant, draw, floating
from xpcnn.nn.layer import OpLayer, Stateless
from xpcnn.nn.parameter import Parameter
from xpcnn.nn.receptive_field import ReceptiveField
from xpcnn.ops.op import flag, whole

if TYPE_CHECKING:
    from xpcnn.nn.value_and_grad import Gradients

__all__ = ["Flatten", "Linear", "Weighted"]


class Weighted(OpLayer):
    """An op of a weight and a bias, which its backward can leave out: the base of `Linear` and `Conv2d`."""

    weight: Parameter
    bias: Parameter | None

    options: ClassVar[tuple[str, ...]] = ("weight", "bias")

    def _draw(
        self,
        shape: tuple[int, ...],
        fans: tuple[int, int],
        outputs: int,
        bias: bool,
        weight_init: Initializer | str | float,
        seed: Any,
        dtype: Any,
    ) -> None:
        """Set the initial weight and bias; `fans` are the fan-in and the fan-out."""
        name = type(self).__name__
        dtype, bias = floating(name, dtype), flag(f"{name}: bias", bias)
        self.weight = Parameter(draw(weight_init, seed, shape, *fans), dtype)
        self.bias = Parameter(constant(0.0, (outputs,), dtype)) if bias else None

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        need_dweight = grads is not None and self.trainable(self.weight, self.bias)
        dx, dweight, dbias = self.op.backward(ctx, dy, need_dx=need_dx, need_dweight=need_dweight)
        self.accumulate(grads, weight=dweight, bias=dbias)
        return dx


class Flatten(Stateless):
    """(N, C, H, W) to (N, C·H·W); see `xpcnn.ops.flatten`."""

    op = ops.flatten
    batch_independent = True


class Linear(Weighted):
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

    op = ops.linear
    batch_independent = True

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
        shape = whole("Linear: out_features", out_features, 1), whole("Linear: in_features", in_features, 1)
        self._draw(shape, shape[::-1], shape[0], bias, weight_init, seed, dtype)

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def receptive_field(self, before: ReceptiveField | None) -> ReceptiveField | None:
        return None

    def macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        return math.prod(output_shape) * self.in_features
