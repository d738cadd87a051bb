"""The book's batch normalisation (``common/layers.py``), per channel on images."""

from __future__ import annotations

import math
from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, backend_of
from xpcnn.ops.op import upcast
from xpcnn.scratch._arrays import Layer, cast_like, promote, size_of

__all__ = ["BatchNormalization"]

_EPS = 10e-7  # the book's spelling of 1e-6


class BatchNormalization(Layer):
    """Normalise each feature to mean 0 and variance 1 over the batch, then scale and shift it.

    Images (N, C, H, W) are normalised per channel when `gamma` has C entries. The book gives each of the
    C·H·W elements statistics of its own; a `gamma` of C·H·W entries still means that.

    As in the book and unlike the core, `momentum` is the weight of the *old* running statistics, these begin
    at 0 with the biased variance, and a batch of one sample is accepted (every value becomes `beta`).

    Parameters
    ----------
    gamma, beta : array (D,)
        D features of vectors, C channels of images, or all C·H·W elements of images.
    momentum : float
    running_mean, running_var : array (D,), optional
        Used when ``train_flg=False``.

    Attributes
    ----------
    dgamma, dbeta : array
        Of the shape and dtype of `gamma` and `beta`.
    running_mean, running_var : array (D,)
    input_shape : tuple of int
    batch_size : int

    References
    ----------
    Ioffe and Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
    shift", 2015.

    Examples
    --------
    >>> from xpcnn.scratch.layers import BatchNormalization, np
    >>> layer = BatchNormalization(np.ones(1), np.zeros(1))
    >>> layer.forward(np.array([[1.0], [3.0]])).round(3)
    array([[-1.],
           [ 1.]])
    >>> layer.running_mean
    array([0.2])
    """

    input_shape: tuple[int, ...] | None = None
    batch_size: int | None = None
    dgamma: Array | None = None
    dbeta: Array | None = None
    _dtype: Any = None

    def __init__(
        self,
        gamma: Array,
        beta: Array,
        momentum: float = 0.9,
        running_mean: Array | None = None,
        running_var: Array | None = None,
    ) -> None:
        self.gamma, self.beta = gamma, beta
        self.momentum = momentum
        self.running_mean, self.running_var = running_mean, running_var

    def forward(self, x: Array, train_flg: bool = True) -> Array:
        x, gamma, beta = promote("BatchNormalization", x=x, gamma=self.gamma, beta=self.beta)
        self.input_shape, self.batch_size = tuple(x.shape), x.shape[0]
        self._dtype, backend = x.dtype, backend_of(x)
        # Half precision is upcast as a whole: running variances would not fit it.
        wide, gamma, beta = (upcast(backend, array) for array in (x, gamma, beta))
        if size_of(gamma) == math.prod(x.shape[1:]):
            wide = ops.flatten(wide)[0]
        zeros = backend.xp.zeros(wide.shape[1], dtype=wide.dtype, device=backend.device)
        if self.running_mean is None or self.running_var is None:
            self.running_mean, self.running_var = zeros, zeros + 0.0
        running = self.running_mean, self.running_var
        if not train_flg:
            mean, var = (cast_like(array, wide) for array in running)
            y, self._ctx = ops.batch_norm(wide, gamma, beta, mean, var, eps=_EPS)
        else:
            if size_of(wide) == wide.shape[1]:
                # One value is its own mean. The core refuses such a batch; its formulas hold all the same.
                mean, var = backend.xp.reshape(wide, (-1,)), zeros
                y, ctx = ops.batch_norm(wide, gamma, beta, mean, var, eps=_EPS)
                self._ctx = ctx._replace(train=True)
            else:
                # With momentum 1 the "running" statistics are those of this batch, the variance unbiased.
                y, self._ctx = ops.batch_norm(
                    wide, gamma, beta, zeros, zeros, train=True, momentum=1.0, eps=_EPS
                )
                mean = self._ctx.running_mean
                var = self._ctx.running_var * (1 - wide.shape[1] / size_of(wide))
            self.running_mean, self.running_var = (
                self.momentum * old + (1 - self.momentum) * cast_like(new, old)
                for old, new in zip(running, (mean, var), strict=True)
            )
        return backend.xp.astype(backend.xp.reshape(y, self.input_shape), self._dtype, copy=False)

    def backward(self, dout: Array) -> Array:
        ctx = self._context()
        xp = backend_of(dout).xp
        wide = cast_like(xp.reshape(dout, tuple(ctx.x.shape)), ctx.x)
        dx, dgamma, dbeta = ops.batch_norm.backward(ctx, wide)
        self.dgamma, self.dbeta = cast_like(dgamma, self.gamma), cast_like(dbeta, self.beta)
        return xp.astype(xp.reshape(dx, self.input_shape), self._dtype, copy=False)
