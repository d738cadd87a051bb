"""Batch normalisation layers."""

from __future__ import annotations

from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.errors import ShapeError
from xpcnn.nn.init import constant
from xpcnn.nn.layer import Layer
from xpcnn.nn.options import floating
from xpcnn.nn.parameter import Buffer, Parameter
from xpcnn.nn.value_and_grad import Gradients
from xpcnn.ops.op import flag, real, require_array, whole

__all__ = ["BatchNorm1d", "BatchNorm2d"]


class _BatchNorm(Layer):
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

    per_sample = True
    batch_statistics = True

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
        num_features = whole(f"{name}: num_features", num_features, 1)
        self.eps = real(f"{name}: eps", eps, 0)
        self.momentum = real(f"{name}: momentum", momentum, 0, 1)
        dtype, affine = floating(name, dtype), flag(f"{name}: affine", affine)
        self.weight = Parameter(constant(1.0, (num_features,), dtype)) if affine else None
        self.bias = Parameter(constant(0.0, (num_features,), dtype)) if affine else None
        self.running_mean = Buffer(constant(0.0, (num_features,), dtype))
        self.running_var = Buffer(constant(1.0, (num_features,), dtype))
        self.num_batches_tracked = Buffer(0, "int64")

    @property
    def num_features(self) -> int:
        return self.running_mean.shape[0]

    @property
    def affine(self) -> bool:
        return self.weight is not None

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        y, ctx = ops.batch_norm(self.checked(x), **self.arguments(), train=train)
        self.keep_statistics(ctx)
        return y, ctx

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        dx, dweight, dbias = ops.batch_norm.backward(ctx, dy)
        self.accumulate(grads, weight=dweight, bias=dbias)
        return dx if need_dx else None

    def checked(self, x: Array) -> Array:
        """Return `x`, once it is an array with as many axes as this layer takes."""
        x = require_array(type(self).__name__, "x", x)
        if x.ndim not in self.ranks:
            raise ShapeError(
                f"{type(self).__name__}: x must have {' or '.join(map(str, self.ranks))} axes, "
                f"got shape {tuple(x.shape)}"
            )
        return x

    def arguments(self) -> dict[str, Any]:
        """Return what `xpcnn.ops.batch_norm` takes beside x and `train`."""
        return {
            "weight": None if self.weight is None else self.weight.data,
            "bias": None if self.bias is None else self.bias.data,
            "running_mean": self.running_mean.data,
            "running_var": self.running_var.data,
            "momentum": self.momentum,
            "eps": self.eps,
        }

    def keep_statistics(self, ctx: Any) -> None:
        """Take over the running statistics after a training pass."""
        if ctx.train:
            self.running_mean.data, self.running_var.data = ctx.running_mean, ctx.running_var
            self.num_batches_tracked.data = self.num_batches_tracked.data + 1

    def extra_repr(self) -> str:
        return f"{self.running_mean.shape[0]}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(_BatchNorm):
    __doc__ = _BatchNorm.__doc__
    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = _BatchNorm.__doc__
    ranks = (4,)
