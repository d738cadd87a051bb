"""Neighbouring layers that run as one function of `xpcnn.ops.fused`: one table, looked up when a row is run.

The engine behind `Sequential`, which knows no layer type. Outputs, gradients, running statistics and contexts
are those of the layers one after the other. `xpcnn.reference` switches it off.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from xpcnn.backend import Array, Key
from xpcnn.backend.random import key_of_child
from xpcnn.backend.reference import in_reference
from xpcnn.errors import XpcnnError
from xpcnn.nn.activation import ReLU
from xpcnn.nn.conv import Conv2d
from xpcnn.nn.layer import Layer, OpLayer
from xpcnn.nn.norm import BatchNorm1d, BatchNorm2d
from xpcnn.nn.parameter import Gradients
from xpcnn.nn.pool import MaxPool2d
from xpcnn.ops import fused

if TYPE_CHECKING:
    from xpcnn.nn.containers import Container

__all__ = ["PATTERNS", "Pattern", "Row", "Run"]

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

    `forward(*layers, x, train)` gives y and a context for each layer; `inference(*layers, x)` gives y and
    whatever; `backward(*layers, contexts, dy, grads, need_dx)` gives dx.
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


_METHODS = frozenset({"forward", "backward", "op", "options"})
"""What a layer does; one that has its own, set on the object, does something else than its type."""


def _kind(layer: Layer) -> type[Layer] | None:
    """Return what the table knows a layer by: its exact type, as a subclass may do something else."""
    if type(layer) is Conv2d and layer.bias is None:
        return None  # a fused convolution needs a bias
    return type(layer) if _METHODS.isdisjoint(vars(layer)) else None


class Run(NamedTuple):
    """Layers `start` to `stop` of a row, and what runs them as one; None for one layer by itself."""

    start: int
    stop: int
    function: Callable[..., Any] | None


@lru_cache(maxsize=256)
def _runs(kinds: tuple[type[Layer] | None, ...], which: str, first: int, alone: bool) -> tuple[Run, ...]:
    """Return the runs of a row in their order: the longest pattern that fits, else one layer."""
    table: dict[Any, Any] = {} if alone else {p.layers: getattr(p, which) for p in PATTERNS}
    longest, start, stop = max(map(len, table), default=1), first, len(kinds)
    found = []
    while start < stop:
        for length in range(min(longest, stop - start), 0, -1):
            a, b = (stop - length, stop) if which == "backward" else (start, start + length)
            if (function := table.get(kinds[a:b])) is not None:
                break
        found.append(Run(a, b, function))
        start, stop = (start, a) if which == "backward" else (b, stop)
    return tuple(found)


class Row:
    """The layers of a container as they are now, one after the other, and how its runs are called."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._names, self._layers = tuple(container._layers), tuple(container._layers.values())

    def runs(self, which: Literal["forward", "inference", "backward"], first: int = 0) -> tuple[Run, ...]:
        """Return the runs from the `first` layer on; backward, they are in the order from the end."""
        return _runs(tuple(map(_kind, self._layers)), which, first, in_reference())

    def forward(self, run: Run, x: Array, contexts: list[Any], train: bool, key: Key | None) -> Any:
        """Return y, and append a context for each layer."""
        if run.function is not None:
            y, more = self._call(run, run.function, *self._layers[run.start : run.stop], x, train)
            contexts.extend(more)
        else:
            layer, layer_key = self._layers[run.start], key_of_child(key, self._names[run.start])
            y, ctx = self._call(run, layer.forward, x, train=train, key=layer_key)
            contexts.append(ctx)
        return y

    def inference(self, run: Run, x: Array) -> Any:
        """Return y alone."""
        if run.function is not None:
            return self._call(run, run.function, *self._layers[run.start : run.stop], x)[0]
        return self._call(run, self._layers[run.start], x)

    def backward(
        self, run: Run, dy: Array, contexts: list[Any], grads: Gradients | None, need_dx: bool
    ) -> Any:
        """Return dx. The contexts of this run, the last ones, are taken off: what they hold can go then."""
        own = contexts[run.start :]
        del contexts[run.start :]
        if run.function is not None:
            layers = self._layers[run.start : run.stop]
            return self._call(run, run.function, *layers, tuple(own), dy, grads, need_dx)
        backward = self._layers[run.start].backward
        return self._call(run, backward, own.pop(), dy, grads, need_dx=need_dx)

    def _call(self, run: Run, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except XpcnnError as error:
            self._note(run, error)
            raise

    def _note(self, run: Run, error: XpcnnError) -> None:
        """Add the path of the layer that an error comes from: its message begins with the layer's op."""
        op = str(error).partition(":")[0].removesuffix(".backward")
        layers = enumerate(self._layers[run.start : run.stop], run.start)
        named = (i for i, layer in layers if isinstance(layer, OpLayer) and layer.op.__name__ == op)
        self._container._note(self._names[next(named, run.start)], error)
