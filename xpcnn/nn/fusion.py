"""Neighbouring layers that run as one function of `xpcnn.ops.fused`: one table, looked up when a row is run.

The engine behind `Sequential`, which knows no layer type. Outputs, gradients, running statistics and contexts
are those of the layers one after the other. `xpcnn.reference` switches it off.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from xpcnn.backend import Array, Key
from xpcnn.backend.reference import in_reference
from xpcnn.errors import XpcnnError
from xpcnn.nn.container import Container, folded
from xpcnn.nn.conv import Conv2d
from xpcnn.nn.gradients import Gradients
from xpcnn.nn.layer import Layer
from xpcnn.nn.norm import BatchNorm1d, BatchNorm2d
from xpcnn.nn.pool import MaxPool2d
from xpcnn.nn.stateless import ReLU, Stateless
from xpcnn.ops import fused

__all__ = ["PATTERNS", "Pattern", "Run", "runs"]

Norm = BatchNorm1d | BatchNorm2d


def _conv_relu(conv: Conv2d, _relu: ReLU, x: Array, train: bool = False) -> tuple[Array, Any]:
    return fused.conv2d_relu(x, **conv.arguments())


def _conv_relu_max_pool(conv: Conv2d, _relu: ReLU, pool: MaxPool2d, x: Array) -> tuple[Array, Any]:
    y = fused.conv2d_relu_max_pool2d(
        x,
        kernel_size=pool.kernel_size,
        pool_stride=pool.stride,
        pool_padding=pool.padding,
        ceil_mode=pool.ceil_mode,
        **conv.arguments(),
    )
    return y, None


def _norm_relu(norm: Norm, _relu: ReLU, x: Array, train: bool = False) -> tuple[Array, Any]:
    y, contexts = fused.batch_norm_relu(norm.checked(x), **norm.arguments(), train=train)
    norm.keep_statistics(contexts[0])
    return y, contexts


def _norm_relu_gradient(
    norm: Norm, _relu: ReLU, contexts: Any, dy: Array, grads: Gradients | None, need_dx: bool
) -> Array | None:
    dx, dweight, dbias = fused.batch_norm_relu.backward(contexts, dy)
    norm.accumulate(grads, weight=dweight, bias=dbias)
    return dx if need_dx else None


def _relu_max_pool_gradient(
    _relu: ReLU, _pool: MaxPool2d, contexts: Any, dy: Array, _grads: Gradients | None, need_dx: bool
) -> Array | None:
    return fused.relu_max_pool2d_gradient(contexts, dy) if need_dx else None


class Pattern(NamedTuple):
    """Layers one after the other, and the functions that run them as one; without one, they run one by one.

    `forward` takes the layers, x and `train`, and returns y and a context for each layer. `inference` takes
    the layers and x, and returns y and whatever. `backward` takes the layers, their contexts, dy, the store
    of gradients and `need_dx`, and returns dx.
    """

    layers: tuple[type[Layer], ...]
    forward: Callable[..., tuple[Array, Any]] | None = None
    inference: Callable[..., tuple[Array, Any]] | None = None
    backward: Callable[..., Array | None] | None = None


PATTERNS = (
    Pattern((Conv2d, ReLU), forward=_conv_relu, inference=_conv_relu),
    Pattern((Conv2d, ReLU, MaxPool2d), inference=_conv_relu_max_pool),
    Pattern((BatchNorm1d, ReLU), forward=_norm_relu, inference=_norm_relu, backward=_norm_relu_gradient),
    Pattern((BatchNorm2d, ReLU), forward=_norm_relu, inference=_norm_relu, backward=_norm_relu_gradient),
    Pattern((ReLU, MaxPool2d), backward=_relu_max_pool_gradient),
)


def _kind(layer: Layer) -> type[Layer] | None:
    """Return what the table knows a layer by: its exact type, as a subclass may do something else."""
    if type(layer) is Conv2d and layer.bias is None:
        return None  # a fused convolution needs a bias
    return type(layer)


class Run(NamedTuple):
    """A layer of a row, or neighbours that a function of the table runs as one."""

    row: Container
    start: int
    children: list[tuple[str, Layer]]
    function: Callable[..., Any] | None

    def forward(self, x: Array, train: bool, key: Key | None) -> tuple[Array, tuple[Any, ...]]:
        """Return y, and a context for each layer."""
        if self.function is not None:
            return self._fused(self.function, x, train)
        [(name, layer)] = self.children
        y, ctx = self.row._call(name, layer.forward, x, train=train, key=folded(key, name))
        return y, (ctx,)

    def inference(self, x: Array) -> Array:
        """Return y alone."""
        if self.function is not None:
            return self._fused(self.function, x)[0]
        [(name, layer)] = self.children
        return self.row._call(name, layer, x)

    def backward(self, contexts: list[Any], dy: Array, grads: Gradients | None, need_dx: bool) -> Any:
        """Return dx. The list ends with the contexts of these layers, which are taken from it."""
        if self.function is not None:
            own = tuple(contexts[self.start :])
            del contexts[self.start :]
            return self._fused(self.function, own, dy, grads, need_dx)
        [(name, layer)] = self.children
        return self.row._call(name, layer.backward, contexts.pop(), dy, grads, need_dx=need_dx)

    def _fused(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*(layer for _, layer in self.children), *args)
        except XpcnnError as error:
            # Each message begins with the op, or the layer, that it comes from.
            named = {layer.op.__name__: name for name, layer in self.children if isinstance(layer, Stateless)}
            op = str(error).partition(":")[0].removesuffix(".backward")
            self.row._note(named.get(op, self.children[0][0]), error)
            raise


def runs(row: Container, which: Literal["forward", "inference", "backward"], first: int = 0) -> list[Run]:
    """Return what is to be run of a row of layers from the `first` on, in order; backward, from the end."""
    children = list(row._layers.items())
    kinds = tuple([_kind(layer) for _, layer in children])
    parts = _partition(kinds, which, first, in_reference())
    return [Run(row, start, children[start:stop], function) for start, stop, function in parts]


@lru_cache(maxsize=256)
def _partition(
    kinds: tuple[type[Layer] | None, ...], which: str, first: int, alone: bool
) -> list[tuple[int, int, Callable[..., Any] | None]]:
    """Return (start, stop, function) of each run: the longest pattern that fits, else one layer."""
    table: dict[Any, Any] = {} if alone else {p.layers: getattr(p, which) for p in PATTERNS}
    longest, start, stop = max(map(len, table), default=1), first, len(kinds)
    parts = []
    while start < stop:
        for length in range(min(longest, stop - start), 0, -1):
            a, b = (stop - length, stop) if which == "backward" else (start, start + length)
            if (function := table.get(kinds[a:b])) is not None:
                break
        parts.append((a, b, function))
        start, stop = (start, a) if which == "backward" else (b, stop)
    return parts
