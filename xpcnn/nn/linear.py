"""The fully connected layer, and images as its features."""

from __future__ import annotations

import math
from typing import Any

from xpcnn import ops
from xpcnn.nn.init import Initializer
from xpcnn.nn.layer import Stateless, Weighted
from xpcnn.nn.receptive_field import ReceptiveField
from xpcnn.ops.op import whole

__all__ = ["Flatten", "Linear"]


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
