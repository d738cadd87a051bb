"""Layers without parameters: an op, and the options it is called with."""

from __future__ import annotations

from typing import Any, ClassVar

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.errors import ArgumentError
from xpcnn.nn.layer import Layer
from xpcnn.nn.value_and_grad import Gradients
from xpcnn.ops.op import Op, in_words, real, require_array, whole

__all__ = [
    "GELU",
    "Dropout",
    "Flatten",
    "Identity",
    "LeakyReLU",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Stateless",
    "Tanh",
]


class Stateless(Layer):
    """A layer that is an op: ``op(x, **options)``, and ``op.backward`` for its gradient.

    A subclass sets `op`, and where there are options, their names; its ``__init__`` sets an attribute for
    each. State ``per_sample = True`` where each sample's result depends on that sample alone.

    Attributes
    ----------
    op : op
        A function ``op(x, …) -> (y, ctx)`` with ``op.backward(ctx, dy) -> dx``; `xpcnn.ops.op.op` makes one.
    options : tuple of str
        The attributes that `op` takes as keywords of these names; ``repr`` shows them.

    Raises
    ------
    ArgumentError
        When a subclass is defined whose `op` has no ``backward``, or whose `options` are no names or those of
        attributes that every layer has. When `op` returns no pair (y, ctx), or its backward more than dx.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn import nn, ops
    >>> from xpcnn.ops.op import op
    >>> @op
    ... def swish(x, beta=1.0):
    ...     gate, _ = ops.sigmoid(beta * x)
    ...     return x * gate, (x, gate, beta)
    >>> @swish.def_backward
    ... def _(ctx, dy):
    ...     x, gate, beta = ctx
    ...     return dy * gate * (1 + beta * x * (1 - gate))
    >>> class Swish(nn.Stateless):
    ...     op = swish
    ...     options = ("beta",)
    ...     per_sample = True
    ...
    ...     def __init__(self, beta=1.0):
    ...         self.beta = beta
    >>> layer = Swish(beta=2.0)
    >>> layer
    Swish(beta=2.0)
    >>> layer(xpcnn.asarray([-1000.0, 0.0, 1000.0]))
    array([  -0.,    0., 1000.])
    """

    op: ClassVar[Op[..., tuple[Array, Any]]]
    options: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "op" in vars(cls):
            op = cls.op
            if not callable(op) or not callable(getattr(op, "backward", None)):
                raise ArgumentError(
                    f"{cls.__name__}: op must be a function (x, …) -> (y, ctx) with a .backward, such as "
                    f"xpcnn.ops.relu or one under @xpcnn.ops.op.op, got {in_words(op)}"
                )
            cls.op = staticmethod(op)  # type: ignore[assignment]  # else ``self.op`` is a method

        if "options" in vars(cls):
            _check_options(cls)

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        result = (
            self.op(x, **{name: getattr(self, name) for name in self.options}) if self.options else self.op(x)
        )
        if not isinstance(result, tuple) or len(result) != 2:  # an array would be taken for a pair of images
            raise ArgumentError(f"{type(self).__name__}: op must return (y, ctx), got {_kind(result)}")
        return result

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        if not need_dx:
            return None
        dx = self.op.backward(ctx, dy)
        if isinstance(dx, tuple):
            raise ArgumentError(
                f"{type(self).__name__}: op.backward must return dx alone, got {_kind(dx)}; "
                f"where there are other gradients, write an nn.Layer with parameters"
            )
        return dx

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.options)


def _check_options(cls: type[Stateless]) -> None:
    """Require names, and none that would give the op a method of the layer."""
    options = cls.options
    if not isinstance(options, tuple) or not all(isinstance(name, str) for name in options):
        raise ArgumentError(
            f'{cls.__name__}: options must be a tuple of names, such as ("slope",), got {in_words(options)}'
        )
    taken = [name for name in options if hasattr(Stateless, name)]
    if taken:
        raise ArgumentError(
            f"{cls.__name__}: options cannot have the name {taken[0]!r}, which every layer has; "
            f"rename the argument of the op"
        )


def _kind(result: Any) -> str:
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__


class ReLU(Stateless):
    """``max(x, 0)``; see `xpcnn.ops.relu`."""

    op = ops.relu
    per_sample = True


class LeakyReLU(Stateless):
    """``x`` where it is positive, else ``slope·x``; see `xpcnn.ops.leaky_relu`."""

    op = ops.leaky_relu
    options = ("slope",)
    per_sample = True

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = real("LeakyReLU: slope", slope)


class Sigmoid(Stateless):
    """``1 / (1 + exp(−x))``; see `xpcnn.ops.sigmoid`."""

    op = ops.sigmoid
    per_sample = True


class Tanh(Stateless):
    """The hyperbolic tangent; see `xpcnn.ops.tanh`."""

    op = ops.tanh
    per_sample = True


class GELU(Stateless):
    """``x·Φ(x)``, the exact form; see `xpcnn.ops.gelu`."""

    op = ops.gelu
    per_sample = True


class SiLU(Stateless):
    """``x·σ(x)``, also called swish; see `xpcnn.ops.silu`."""

    op = ops.silu
    per_sample = True


class Softmax(Stateless):
    """Probabilities along an axis; see `xpcnn.ops.softmax`. Models end in logits: the loss has its own."""

    op = ops.softmax
    options = ("axis",)

    def __init__(self, axis: int = -1) -> None:
        self.axis = whole("Softmax: axis", axis)

    @property
    def per_sample(self) -> bool:  # type: ignore[override]
        """False where the axis is that of the samples, or may be: of (N, C), axis −2 is."""
        return self.axis == -1 or self.axis > 0


class Flatten(Stateless):
    """(N, C, H, W) to (N, C·H·W); see `xpcnn.ops.flatten`."""

    op = ops.flatten
    per_sample = True


class Dropout(Stateless):
    """Zero a part `p` of the activations while training; see `xpcnn.ops.dropout`.

    The mask is a function of the key forward is given; without one, a fresh key is drawn.
    """

    op = ops.dropout
    options = ("p",)
    per_sample = True

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

    per_sample = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return require_array("Identity", "x", x), None

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return require_array("Identity", "dy", dy) if need_dx else None
