"""Normalisation layers without running statistics: within one sample, whatever the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.nn.init import constant
from xpcnn.nn.layer import Layer, ReceptiveField
from xpcnn.nn.options import floating, grouped
from xpcnn.nn.parameter import Parameter
from xpcnn.nn.stateless import Stateless
from xpcnn.nn.value_and_grad import Gradients
from xpcnn.ops.op import flag, real, sizes, whole

__all__ = ["GroupNorm", "LayerNorm", "LocalResponseNorm"]


class LayerNorm(Layer):
    """Normalise the last axes of each sample; see `xpcnn.ops.layer_norm`.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The sizes of the axes to normalise over.
    eps : float
    affine : bool
        Whether there is a weight and a bias, one number for each normalised entry.
    dtype : str

    Attributes
    ----------
    weight : Parameter (*normalized_shape), or None
        Starts at 1.
    bias : Parameter (*normalized_shape), or None
        Starts at 0.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.nn.LayerNorm(2, eps=0.0, dtype="float64")(xpcnn.asarray([[1.0, 3.0]]))
    array([[-1.,  1.]])
    """

    per_sample = True

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        affine: bool = True,
        *,
        dtype: Any = "float32",
    ) -> None:
        self.normalized_shape = sizes("LayerNorm", "normalized_shape", normalized_shape)
        self.eps = real("LayerNorm: eps", eps, 0)
        dtype, affine = floating("LayerNorm", dtype), flag("LayerNorm: affine", affine)
        self.weight = Parameter(constant(1.0, self.normalized_shape, dtype)) if affine else None
        self.bias = Parameter(constant(0.0, self.normalized_shape, dtype)) if affine else None

    @property
    def affine(self) -> bool:
        return self.weight is not None

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        weight, bias = _data(self.weight), _data(self.bias)
        return ops.layer_norm(x, self.normalized_shape, weight, bias, eps=self.eps)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        dx, dweight, dbias = ops.layer_norm.backward(ctx, dy)
        self.accumulate(grads, weight=dweight, bias=dbias)
        return dx if need_dx else None

    def field_of(self, field: ReceptiveField | None) -> ReceptiveField | None:
        return None  # the statistics are those of all pixels

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}" + (", affine=False" if self.weight is None else "")


class GroupNorm(Layer):
    """Normalise groups of neighbouring channels of each sample; see `xpcnn.ops.group_norm`.

    Parameters
    ----------
    num_groups : int
        Must divide `num_channels`.
    num_channels : int
        C.
    eps : float
    affine : bool
        Whether there is a weight and a bias, one number for each channel.
    dtype : str

    Attributes
    ----------
    weight : Parameter (num_channels,), or None
        Starts at 1.
    bias : Parameter (num_channels,), or None
        Starts at 0.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.nn.GroupNorm(2, 4, eps=0.0, dtype="float64")(xpcnn.asarray([[1.0, 3.0, 0.0, 20.0]]))
    array([[-1.,  1., -1.,  1.]])
    """

    per_sample = True

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        dtype: Any = "float32",
    ) -> None:
        num_groups, num_channels = grouped("GroupNorm", "num_groups", num_groups, num_channels=num_channels)
        self.num_groups, self.num_channels = num_groups, num_channels
        self.eps = real("GroupNorm: eps", eps, 0)
        dtype, affine = floating("GroupNorm", dtype), flag("GroupNorm: affine", affine)
        self.weight = Parameter(constant(1.0, (num_channels,), dtype)) if affine else None
        self.bias = Parameter(constant(0.0, (num_channels,), dtype)) if affine else None

    @property
    def affine(self) -> bool:
        return self.weight is not None

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.group_norm(x, self.num_groups, _data(self.weight), _data(self.bias), eps=self.eps)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        dx, dweight, dbias = ops.group_norm.backward(ctx, dy)
        self.accumulate(grads, weight=dweight, bias=dbias)
        return dx if need_dx else None

    def field_of(self, field: ReceptiveField | None) -> ReceptiveField | None:
        return None  # the statistics are those of all pixels

    def extra_repr(self) -> str:
        shown = f"{self.num_groups}, {self.num_channels}, eps={self.eps}"
        return shown + (", affine=False" if self.weight is None else "")


class LocalResponseNorm(Stateless):
    """Divide each value by a power of the energy in neighbouring channels.

    See `xpcnn.ops.local_response_norm`.

    Parameters
    ----------
    size : int
        How many channels a window spans.
    alpha, beta, k : float
        As in PyTorch: `alpha` is divided by `size`.

    Examples
    --------
    >>> import xpcnn
    >>> layer = xpcnn.nn.LocalResponseNorm(3, alpha=3.0, beta=1.0, k=0.0)
    >>> layer(xpcnn.asarray([[1.0, 2.0, 0.0]]))
    array([[0.2, 0.4, 0. ]])
    """

    op = ops.local_response_norm
    options = ("size", "alpha", "beta", "k")
    per_sample = True

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.size = whole("LocalResponseNorm: size", size, 1)
        self.alpha = real("LocalResponseNorm: alpha", alpha, 0)
        self.beta = real("LocalResponseNorm: beta", beta)
        self.k = real("LocalResponseNorm: k", k, 0)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def _data(parameter: Parameter | None) -> Array | None:
    return None if parameter is None else parameter.data
