"""The book's layers without parameters: Relu, Sigmoid, Dropout."""

from __future__ import annotations

from typing import Any, ClassVar

from xpcnn import ops
from xpcnn.backend import Array, backend_of
from xpcnn.errors import ArgumentError
from xpcnn.scratch._arrays import Layer, as_floating, cast_like
from xpcnn.scratch._namespace import random_of

__all__ = ["Dropout", "Relu", "Sigmoid"]


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
        if not 0 <= dropout_ratio <= 1:
            raise ArgumentError(f"Dropout: dropout_ratio must be from 0 to 1, got {dropout_ratio!r}")
        self.dropout_ratio = dropout_ratio
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
