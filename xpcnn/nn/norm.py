"""Normalisation layers: over the batch, with running statistics, or within one sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.errors import ShapeError
from xpcnn.nn.init import constant, floating, grouped
from xpcnn.nn.layer import OpLayer, Stateless
from xpcnn.nn.parameter import Buffer, Gradients, Parameter
from xpcnn.nn.receptive_field import ReceptiveField
from xpcnn.ops.op import flag, real, require_array, sizes, whole

__all__ = ["BatchNorm1d", "BatchNorm2d", "GroupNorm", "LayerNorm", "LocalResponseNorm"]


class _Norm(OpLayer):
    weight: Parameter | None
    bias: Parameter | None
    eps: float

    def _set(self, shape: tuple[int, ...], eps: float, affine: bool, dtype: Any) -> None:
        """Set weight and bias of that shape, or none, and `eps`."""
        name = type(self).__name__
        self.eps = real(f"{name}: eps", eps, 0)
        dtype, affine = floating(name, dtype), flag(f"{name}: affine", affine)
        self.weight = Parameter(constant(1.0, shape, dtype)) if affine else None
        self.bias = Parameter(constant(0.0, shape, dtype)) if affine else None

    @property
    def affine(self) -> bool:
        return self.weight is not None

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        dx, dweight, dbias = self.op.backward(ctx, dy)
        self.accumulate(grads, weight=dweight, bias=dbias)
        return dx if need_dx else None


class _BatchNorm(_Norm):
    """Per-channel normalisation with running statistics; see `xpcnn.ops.batch_norm`.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    eps : float
    momentum : float
        The weight of a new batch in the running statistics.
    affine : bool
        Whether there is a weight and a bias.
    dtype : str

    Notes
    -----
    The running statistics are the only state that a forward pass changes, and only with ``train=True``.
    """

    op = ops.batch_norm
    options = ("weight", "bias", "running_mean", "running_var", "momentum", "eps")
    batch_independent = "inference"

    ranks: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        dtype: Any = "float32",
    ) -> None:
        name = type(self).__name__
        shape = (whole(f"{name}: num_features", num_features, 1),)
        self._set(shape, eps, affine, dtype)
        self.momentum = real(f"{name}: momentum", momentum, 0, 1)
        self.running_mean = Buffer(constant(0.0, shape, dtype))
        self.running_var = Buffer(constant(1.0, shape, dtype))
        self.num_batches_tracked = Buffer(0, "int64")

    @property
    def num_features(self) -> int:
        return self.running_mean.shape[0]

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        y, ctx = self.op(self.checked(x), **self.arguments(), train=train)
        self.keep_statistics(ctx)
        return y, ctx

    def checked(self, x: Array) -> Array:
        """Return `x`, once it is an array with as many axes as this layer takes."""
        x = require_array(type(self).__name__, "x", x)
        if x.ndim not in self.ranks:
            raise ShapeError(
                f"{type(self).__name__}: x must have {' or '.join(map(str, self.ranks))} axes, "
                f"got shape {tuple(x.shape)}"
            )
        return x

    def keep_statistics(self, ctx: Any) -> None:
        """Take over the running statistics after a training pass."""
        if ctx.train:
            self.running_mean.data, self.running_var.data = ctx.running_mean, ctx.running_var
            self.num_batches_tracked.data = self.num_batches_tracked.data + 1


class BatchNorm1d(_BatchNorm):
    __doc__ = _BatchNorm.__doc__
    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = _BatchNorm.__doc__
    ranks = (4,)


class LayerNorm(_Norm):
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

    op = ops.layer_norm
    options = ("normalized_shape", "weight", "bias", "eps")
    batch_independent = True

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        affine: bool = True,
        *,
        dtype: Any = "float32",
    ) -> None:
        self.normalized_shape = sizes("LayerNorm", "normalized_shape", normalized_shape)
        self._set(self.normalized_shape, eps, affine, dtype)

    def receptive_field(self, before: ReceptiveField | None) -> ReceptiveField | None:
        return None  # the statistics are those of all pixels


class GroupNorm(_Norm):
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

    op = ops.group_norm
    options = ("num_groups", "weight", "bias", "eps")
    batch_independent = True

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        dtype: Any = "float32",
    ) -> None:
        self.num_groups, self.num_channels = grouped(
            "GroupNorm", "num_groups", num_groups, num_channels=num_channels
        )
        self._set((self.num_channels,), eps, affine, dtype)

    def receptive_field(self, before: ReceptiveField | None) -> ReceptiveField | None:
        return None  # the statistics are those of all pixels


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
    batch_independent = True

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.size = whole("LocalResponseNorm: size", size, 1)
        self.alpha = real("LocalResponseNorm: alpha", alpha, 0)
        self.beta = real("LocalResponseNorm: beta", beta)
        self.k = real("LocalResponseNorm: k", k, 0)
