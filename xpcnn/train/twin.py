"""A model's twin in half precision, which computes for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from xpcnn.backend import Array, Key, backend_of, is_floating
from xpcnn.nn import Gradients, Layer, Parameter, Preprocess
from xpcnn.nn.parameter import Buffer

__all__ = ["HalfTwin", "cast", "map_arrays"]


class HalfTwin:
    """A copy of a model whose parameters are those of the model, rounded to half precision.

    What must not be rounded is not copied, but shared: a layer that owns floating buffers, such as batch-norm
    with its running statistics, is the model's own and computes in float32 between two casts. So are layers
    without any parameters, whose attributes may change: a dropout's `p`.

    Parameters
    ----------
    model : Layer
    dtype : str
        "float16" or "bfloat16".
    """

    def __init__(self, model: Layer, dtype: str) -> None:
        self._model, self._dtype = model, dtype
        self._layers: list[Layer] = []
        self._build()

    def layer(self) -> Layer:
        """Return the twin with the model's present weights, all rounded anew."""
        layers = list(_walk(self._model))
        if [id(layer) for layer in layers] != [id(layer) for layer in self._layers]:  # some were replaced
            self._build()
        for own, master in self._masters.items():
            backend = backend_of(master.data)
            own.data = backend.xp.astype(master.data, backend.dtype(self._dtype))
            own.trainable = master.trainable
        return self._twin

    def master_of(self, parameter: Parameter) -> Parameter:
        """Return the model's parameter behind one of the twin's."""
        return self._masters.get(parameter, parameter)

    def _build(self) -> None:
        self._layers = list(_walk(self._model))
        # What deepcopy finds here, it takes for the copy of what has that id.
        memo: dict[int, Any] = {}
        twins: dict[Parameter, Parameter] = {}
        for layer in self._layers:
            if _owns_statistics(layer):
                memo[id(layer)] = _InFloat32(layer)
            elif isinstance(layer, Preprocess):
                memo[id(layer)] = _Rounded(layer, self._dtype)
            elif not layer.parameters() and not layer.buffers():
                memo[id(layer)] = layer
        for layer in _walk(self._model, inside=lambda layer: id(layer) not in memo):
            for master in layer.own_states().values():
                if isinstance(master, Parameter) and id(layer) not in memo and master not in twins:
                    twins[master] = memo[id(master)] = copy.copy(master)
        self._twin = copy.deepcopy(self._model, memo)
        self._masters = {own: master for master, own in twins.items()}


class _InFloat32(Layer):
    """A layer that computes in float32, between casts from and to half precision."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        y, ctx = self.layer.forward(cast(x, backend_of(x).xp.float32), train=train, key=key)
        return cast(y, x.dtype), ctx

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        dx = self.layer.backward(ctx, cast(dy, backend_of(dy).xp.float32), grads, need_dx=need_dx)
        return cast(dx, dy.dtype) if need_dx else None


class _Rounded(Layer):
    """A layer without parameters whose results are rounded to half precision."""

    def __init__(self, layer: Layer, dtype: str) -> None:
        self.layer, self.dtype = layer, dtype

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        y, ctx = self.layer.forward(x, train=train, key=key)
        return cast(y, backend_of(y).dtype(self.dtype)), ctx

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return self.layer.backward(ctx, dy, grads, need_dx=need_dx)


def _walk(layer: Layer, inside: Callable[[Layer], bool] = lambda layer: True) -> Iterator[Layer]:
    """Yield a layer and all that are in it, but not what is in those that `inside` is false for."""
    yield layer
    if inside(layer):
        for child in layer.children().values():
            yield from _walk(child, inside)


def _owns_statistics(layer: Layer) -> bool:
    return any(
        isinstance(state, Buffer) and is_floating(state.dtype) for state in layer.own_states().values()
    )


def map_arrays(function: Callable[[Array], Array], value: Any) -> Any:
    """Return what a model or a loss gave, an array or a tuple of them, with each array changed."""
    if not isinstance(value, tuple):
        return function(value)
    changed = [map_arrays(function, item) for item in value]
    return type(value)(*changed) if hasattr(value, "_fields") else tuple(changed)


def cast(value: Any, dtype: Any) -> Any:
    """Return an array, or a tuple of them, in another dtype."""
    return map_arrays(lambda array: backend_of(array).xp.astype(array, dtype, copy=False), value)
