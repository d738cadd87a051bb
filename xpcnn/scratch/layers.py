"""The book's layers (``common/layers.py``) over the core's ops.

As in the book, ``forward`` keeps what ``backward`` needs on the layer, and gradients are its attributes. `W`
and `b` are held as they were given, so an update in place, ``params["W1"] -= …``, is seen by the layer. Data
and parameters may be of different real dtypes: the floating one that holds them all is computed in.
"""

from __future__ import annotations

from typing import Any, ClassVar

from xpcnn import ops
from xpcnn.arguments import real
from xpcnn.backend import Array, backend_of, is_array
from xpcnn.scratch import functions
from xpcnn.scratch._arrays import Layer, as_floating, cast_like, promote, size_of
from xpcnn.scratch._batch_normalization import BatchNormalization
from xpcnn.scratch._namespace import random_of
from xpcnn.scratch.functions import *  # noqa: F403  (the book's scripts take these from layers, too)
from xpcnn.scratch.functions import as_batch
from xpcnn.scratch.util import col2im, im2col

__all__ = [
    "Affine",
    "BatchNormalization",
    "Convolution",
    "Dropout",
    "Pooling",
    "Relu",
    "Sigmoid",
    "SoftmaxWithLoss",
    "col2im",
    "im2col",
]
__all__ += functions.__all__


class _Elementwise(Layer):
    """An op of one array, whose context has its result."""

    op: ClassVar[Any]

    def forward(self, x: Array) -> Any:
        y, self._ctx = self.op(as_floating(x))
        return y

    def backward(self, dout: Array) -> Any:
        ctx = self._context()
        return self.op.backward(ctx, cast_like(dout, ctx.y))


class Relu(_Elementwise):
    """``max(x, 0)``. `backward` leaves `dout` as it is; the book's writes zeros into it.

    Attributes
    ----------
    mask : array of bool, the shape of x
        Where the input was not above 0; None before `forward`.

    Examples
    --------
    >>> from xpcnn.scratch.layers import Relu, np
    >>> layer = Relu()
    >>> layer.forward(np.array([-1.0, 2.0])), layer.backward(np.array([5.0, 6.0]))
    (array([0., 2.]), array([0., 6.]))
    """

    op = staticmethod(ops.relu)

    @property
    def mask(self) -> Array | None:
        return None if self._ctx is None else self._ctx.y <= 0


class Sigmoid(_Elementwise):
    """``1 / (1 + exp(−x))``.

    Attributes
    ----------
    out : array, the shape of x
    """

    op = staticmethod(ops.sigmoid)

    @property
    def out(self) -> Array | None:
        return None if self._ctx is None else self._ctx.y


class Dropout(Layer):
    """The book's dropout: a value is dropped while training, and all are scaled down at other times.

    The core's (`xpcnn.ops.dropout`) is "inverted": it scales up while training and does nothing afterwards.
    Networks that were trained with one are not to be used with the other.

    Parameters
    ----------
    dropout_ratio : float
        The fraction of values that are dropped. Masks are drawn by the global generator of the library of x:
        ``np.random.seed`` repeats them.

    Attributes
    ----------
    mask : array of bool, the shape of x
        Where values were kept.

    References
    ----------
    Hinton et al., "Improving neural networks by preventing co-adaptation of feature detectors", 2012.

    Examples
    --------
    >>> from xpcnn.scratch.layers import Dropout, np
    >>> Dropout(0.25).forward(np.array([4.0, 8.0]), train_flg=False)
    array([3., 6.])
    """

    def __init__(self, dropout_ratio: float = 0.5) -> None:
        self.dropout_ratio = real("Dropout: dropout_ratio", dropout_ratio, 0, 1)
        self.hold = False
        """While true, `forward` takes the mask of the time before: for numerical differentiation."""

    def forward(self, x: Array, train_flg: bool = True) -> Array:
        x = as_floating(x)
        if not train_flg:
            return x * (1.0 - self.dropout_ratio)
        if not self.hold or self.mask is None:
            self._ctx = random_of(backend_of(x)).rand(*x.shape) > self.dropout_ratio
        return x * cast_like(self._ctx, x)

    def backward(self, dout: Array) -> Array:
        return dout * cast_like(self._context(), dout)

    @property
    def mask(self) -> Any:
        return self._ctx


class _Weighted(Layer):
    """A layer of weights and a bias, which are held as they were given."""

    dW: Array | None = None
    db: Array | None = None

    def __init__(self, W: Array, b: Any) -> None:
        self.W, self.b = W, b

    def _promote(self, x: Array, axis: int) -> list[Array]:
        """Return x, W and b in one dtype; a bias of one number is that of every entry along W's `axis`."""
        x, W, b = promote(type(self).__name__, x=x, W=self.W, b=self.b)
        return [x, W, backend_of(b).xp.broadcast_to(b, (W.shape[axis],)) if size_of(b) == 1 else b]

    def _keep(self, dW: Array, db: Array) -> None:
        """Keep gradients in the dtypes of `W` and `b`; that of a number as it is."""
        self.dW, self.db = cast_like(dW, self.W), cast_like(db, self.b) if is_array(self.b) else db


class Affine(_Weighted):
    """``x · W + b``, of vectors or of images laid out flat.

    Parameters
    ----------
    W : array (inputs, outputs)
        The transpose of the core's.
    b : array (outputs,), or a number

    Attributes
    ----------
    x : array (N, inputs)
    original_x_shape : tuple of int
    dW, db : array
        Of the shape and dtype of `W` and `b`.

    Examples
    --------
    >>> from xpcnn.scratch.layers import Affine, np
    >>> layer = Affine(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.5, 0.5]))
    >>> layer.forward(np.array([[1.0, 1.0]]))
    array([[4.5, 6.5]])
    >>> layer.backward(np.array([[1.0, 0.0]])), layer.db
    (array([[1., 3.]]), array([1., 0.]))
    """

    original_x_shape: tuple[int, ...] | None = None

    def forward(self, x: Array) -> Array:
        x, W, b = self._promote(x, axis=1)
        self.original_x_shape = tuple(x.shape)
        self.x = ops.flatten(x)[0]
        y, self._ctx = ops.linear(self.x, backend_of(W).xp.matrix_transpose(W), b)
        return y

    def backward(self, dout: Array) -> Array:
        ctx = self._context()
        xp = backend_of(ctx.x).xp
        dx, dweight, db = ops.linear.backward(ctx, cast_like(dout, ctx.x))
        self._keep(xp.matrix_transpose(dweight), db)
        return xp.reshape(dx, self.original_x_shape)


class SoftmaxWithLoss(Layer):
    """The cross-entropy of the softmax of logits, meaned over the batch.

    Computed from the logits, so it is exact where the book's is cut off by its 1e-7. `backward` multiplies by
    `dout`, which the book's leaves out.

    Attributes
    ----------
    loss : number or 0-d array
    y : array (N, classes)
        The softmax.
    t : array
        As it was given.

    Examples
    --------
    >>> from xpcnn.scratch.layers import SoftmaxWithLoss, np
    >>> layer = SoftmaxWithLoss()
    >>> round(float(layer.forward(np.array([[0.0, 0.0]]), np.array([1]))), 6)
    0.693147
    >>> layer.backward()
    array([[ 0.5, -0.5]])
    """

    loss: Any = None
    t: Array | None = None
    _shape: tuple[int, ...] = ()

    @property
    def y(self) -> Array | None:
        if self._ctx is None:
            return None
        xp = backend_of(self._ctx.log_probabilities).xp
        y = xp.exp(self._ctx.log_probabilities)
        return xp.reshape(xp.astype(y, self._ctx.dtype, copy=False), self._shape)

    def forward(self, x: Array, t: Array) -> Any:
        """Return the loss of logits (N, classes) or (classes,), with labels (N,), (N, 1) or one-hot."""
        x = as_floating(x)
        self._shape, self.t = tuple(x.shape), t
        loss, self._ctx = ops.softmax_cross_entropy(*as_batch(x, t))
        self.loss = loss[()]
        return self.loss

    def backward(self, dout: Any = 1) -> Array:
        dx = ops.softmax_cross_entropy.backward(self._context(), dout)
        return backend_of(dx).xp.reshape(dx, self._shape)


class Convolution(_Weighted):
    """A convolution with filters `W`, of zero-padded images.

    Parameters
    ----------
    W : array (FN, C, FH, FW)
    b : array (FN,), or a number
    stride, pad : int

    Attributes
    ----------
    x : array (N, C, H, W)
        The input. The columns are not kept: they are FH·FW times as large, and ``im2col`` gives them again.
    dW, db : array
        Of the shape and dtype of `W` and `b`.

    Examples
    --------
    >>> from xpcnn.scratch.layers import Convolution, np
    >>> layer = Convolution(np.ones((1, 1, 2, 2)), np.zeros(1), stride=1, pad=0)
    >>> layer.forward(np.arange(9.0).reshape(1, 1, 3, 3))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """

    def __init__(self, W: Array, b: Any, stride: int = 1, pad: int = 0) -> None:
        super().__init__(W, b)
        self.stride, self.pad = stride, pad

    def forward(self, x: Array) -> Array:
        self.x, W, b = self._promote(x, axis=0)
        y, self._ctx = ops.conv2d(self.x, W, b, stride=self.stride, padding=self.pad)
        return y

    def backward(self, dout: Array, need_dx: bool = True) -> Any:
        """Return dx, or None if nobody needs it: a network's first layer spares that work."""
        ctx = self._context()
        dx, dW, db = ops.conv2d.backward(ctx, cast_like(dout, ctx.x), need_dx=need_dx)
        self._keep(dW, db)
        return dx


class Pooling(Layer):
    """The maximum of each window. Padding counts as −inf; the book's `forward` forgets it in the output size.

    Parameters
    ----------
    pool_h, pool_w : int
    stride, pad : int
        The stride is 1 unless said otherwise, as in the book; its scripts always say it.

    Attributes
    ----------
    x : array (N, C, H, W)

    Examples
    --------
    >>> from xpcnn.scratch.layers import Pooling, np
    >>> Pooling(2, 2, stride=2).forward(np.arange(16.0).reshape(1, 1, 4, 4))
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    """

    def __init__(self, pool_h: int, pool_w: int, stride: int = 1, pad: int = 0) -> None:
        self.pool_h, self.pool_w = pool_h, pool_w
        self.stride, self.pad = stride, pad

    def forward(self, x: Array) -> Array:
        self.x = as_floating(x)
        y, self._ctx = ops.max_pool2d(self.x, (self.pool_h, self.pool_w), self.stride, self.pad)
        return y

    def backward(self, dout: Array) -> Any:
        ctx = self._context()
        return ops.max_pool2d.backward(ctx, cast_like(dout, ctx.x))
