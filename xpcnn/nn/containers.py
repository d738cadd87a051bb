"""Containers: children by name, with the paths and errors that go with them, and layers in a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from xpcnn.backend import Array, Key
from xpcnn.errors import ArgumentError, XpcnnError
from xpcnn.nn.config import join_paths
from xpcnn.nn.fusion import Row
from xpcnn.nn.layer import Layer, ReceptiveField
from xpcnn.nn.parameter import Gradients
from xpcnn.nn.receptive_field import Traced, TraceRow
from xpcnn.nn.tree import DESCRIPTIONS, members
from xpcnn.ops.op import in_words

__all__ = ["Container", "Sequential", "join_paths"]


_NO_OTHERS = DESCRIPTIONS | {"_layers"}


class Container(Layer):
    """A layer made of named children, reached as attributes, by name or by position."""

    def __init__(self, *layers: Layer | Mapping[str, Layer], **named: Layer) -> None:
        self._layers: dict[str, Layer] = {}
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            pairs: list[tuple[str, Any]] = [*layers[0].items(), *named.items()]
        else:
            pairs = [*((str(i), layer) for i, layer in enumerate(layers)), *named.items()]
        for name, layer in pairs:
            if isinstance(name, str) and name in self._layers:
                raise ArgumentError(f"{type(self).__name__}: two children have the name {name!r}")
            self._add(name, layer)

    @classmethod
    def from_children(cls, children: Mapping[str, Layer]) -> Self:
        """Return one of named children; see `nn.from_config`."""
        return cls(children)

    def replace_child(self, path: str, layer: Layer) -> None:
        if path in self._layers or path not in self.children():
            self[path] = layer  # which refuses a name that no child can have
        else:
            super().replace_child(path, layer)

    def _add(self, name: Any, layer: Any) -> None:
        problem = None
        if not isinstance(name, str):
            problem = f"a child's name must be a text, got {in_words(name)}"
        elif not isinstance(layer, Layer):
            problem = f"child {name!r} must be a Layer, got {in_words(layer)}"
        elif layer is self:
            problem = f"it cannot be its own child {name!r}"
        elif "." in name:
            problem = f"a child's name cannot contain a dot, got {name!r}"
        elif hasattr(type(self), name) or name in vars(self):
            problem = f"the name {name!r} is taken by the layer's own attribute"
        if problem:
            raise ArgumentError(f"{type(self).__name__}: {problem}")
        self._layers[name] = layer

    def children(self) -> dict[str, Layer]:
        others = {name: value for name, value in vars(self).items() if name not in _NO_OTHERS}
        return {**self._layers, **members(self, others, Layer)} if others else dict(self._layers)

    def __getattr__(self, name: str) -> Layer:
        layers: dict[str, Layer] = self.__dict__.get("_layers", {})
        if name in layers:
            return layers[name]
        raise AttributeError(
            f"{type(self).__name__} has no attribute or child {name!r}; children: {', '.join(layers)}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_layers", {}):
            self._add(name, value)
        elif isinstance(value, Layer):
            raise ArgumentError(
                f"{type(self).__name__} has no child {name!r} to replace; a child is added by "
                f"model[{name!r}] = layer, children: {', '.join(self._layers)}"
            )
        else:
            super().__setattr__(name, value)

    def __getitem__(self, which: Any) -> Layer:
        layers = self._layers
        if isinstance(which, slice):
            raise ArgumentError(
                f"{type(self).__name__}: a child is given by its name or position, got {which}; make a model "
                f"of some layers by nn.Sequential(*list(model)[1:])"
            )
        if isinstance(which, int):
            which = list(layers)[which]
        return layers[which]

    def __setitem__(self, which: str | int, layer: Layer) -> None:
        self._add(list(self._layers)[which] if isinstance(which, int) else which, layer)

    def __len__(self) -> int:
        return len(self._layers)

    def _call(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a child's method; an error on its way out is told which child it came from."""
        try:
            return function(*args, **kwargs)
        except XpcnnError as error:
            self._note(name, error)
            raise

    def _note(self, name: str, error: XpcnnError) -> None:
        where = f"{type(self).__name__}.{name}" if name else type(self).__name__
        error.add_note(f"in {where} ({type(self._layers[name]).__name__})")


class Sequential(Container):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Layer
        Named ``"0"``, ``"1"``, … as in PyTorch.
    **named : Layer
        Named children; or one mapping of names to layers. A child named ``""`` adds no segment to paths.

    Examples
    --------
    >>> from xpcnn import nn
    >>> list(nn.Sequential(conv1=nn.Conv2d(1, 4, 3), relu1=nn.ReLU()).parameters())
    ['conv1.weight', 'conv1.bias']
    """

    batch_independent = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        row = Row(self)
        contexts: list[Any] = []
        for run in row.runs("forward"):
            x = row.forward(run, x, contexts, train, key)
        return x, tuple(contexts)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        if grads is not None:
            grads.bind(self)
        contexts = ctx if isinstance(ctx, list) else list(ctx)  # a list is emptied on the way
        if len(contexts) != len(self):
            raise ArgumentError(f"Sequential: ctx has {len(contexts)} parts for {len(self)} layers")
        # Where nobody asks for dx, no gradient need reach what comes before the first layer to be trained.
        trained = (i for i, layer in enumerate(self._layers.values()) if layer._takes_gradients())
        first = 0 if need_dx else next(trained, len(self))
        row = Row(self)
        for run in row.runs("backward", first):
            dy = row.backward(run, dy, contexts, grads, need_dx or run.start > first)
        return dy if need_dx else None

    def __call__(self, x: Array) -> Array:
        row = Row(self)
        for run in row.runs("inference"):
            x = row.inference(run, x)
        return x

    def trace(self, x: Array, path: str = "", field: ReceptiveField | None = None) -> Traced:
        rows: list[TraceRow] = []
        for name, layer in self._layers.items():
            x, field, more = self._call(name, layer.trace, x, join_paths(path, name), field)
            rows += more
        return x, field, rows
