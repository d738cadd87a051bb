"""Containers of layers by name: in a row, or side by side on the same input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from xpcnn.backend import Array, Key, backend_of, native
from xpcnn.backend.random import key_of_child
from xpcnn.errors import ArgumentError, ShapeError, XpcnnError
from xpcnn.nn.fusion import Row
from xpcnn.nn.layer import Layer, ReceptiveField
from xpcnn.nn.parameter import Gradients
from xpcnn.nn.receptive_field import Traced, TraceRow, union
from xpcnn.nn.tree import DESCRIPTIONS, join_paths, members
from xpcnn.ops.activation import add
from xpcnn.ops.op import in_words, require_array

__all__ = ["Concat", "Container", "Parallel", "Residual", "Sequential"]

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
        if path not in self._layers and path in self.children():  # in an attribute
            super().replace_child(path, layer)
        else:
            self[path] = layer

    def _add(self, name: Any, layer: Any) -> None:
        problem = None
        if not isinstance(name, str) or "." in name:
            problem = f"a child's name must be a text without dots, got {in_words(name)}"
        elif not isinstance(layer, Layer):
            problem = f"child {name!r} must be a Layer, got {in_words(layer)}"
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
            raise ArgumentError(f"{type(self).__name__}: for some layers, nn.Sequential(*list(model)[1:])")
        return list(layers.values())[which] if isinstance(which, int) else layers[which]

    def __setitem__(self, which: str | int, layer: Layer) -> None:
        self._add(list(self._layers)[which] if isinstance(which, int) else which, layer)

    def __len__(self) -> int:
        return len(self._layers)

    def _call(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a child's method; an error that leaves it names the child."""
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


class Parallel(Container):
    """Children that all get the same input. A subclass says how their outputs become one."""

    def _join(self, x: Array, outputs: list[Array]) -> tuple[Array, Any]:
        """Return y, and what `_split` needs."""
        raise NotImplementedError

    def _split(self, ctx: Any, dy: Array) -> list[Array]:
        """Return the gradient of each child's output."""
        raise NotImplementedError

    def _input(self, layer: Layer, x: Array) -> Array:
        return x

    def _key(self, key: Key | None, name: str) -> Key | None:
        return key_of_child(key, name)

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        results = [
            self._call(name, layer.forward, self._input(layer, x), train=train, key=self._key(key, name))
            for name, layer in self._layers.items()
        ]
        y, joined = self._join(x, [y for y, _ in results])
        return y, (joined, tuple(ctx for _, ctx in results))

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        if grads is not None:
            grads.bind(self)
        joined, contexts = ctx
        parts, dx = self._split(joined, dy), None
        for (name, layer), child_ctx, part in zip(self._layers.items(), contexts, parts, strict=True):
            more = self._call(name, layer.backward, child_ctx, part, grads, need_dx=need_dx)
            if more is not None:  # bytes have no gradient
                dx = more if dx is None else add(dx, more)
        return dx

    def __call__(self, x: Array) -> Array:
        outputs = [self._call(name, layer, self._input(layer, x)) for name, layer in self._layers.items()]
        return self._join(x, outputs)[0]

    def trace(self, x: Array, path: str = "", field: ReceptiveField | None = None) -> Traced:
        traced: list[Traced] = [
            self._call(name, layer.trace, self._input(layer, x), join_paths(path, name), field)
            for name, layer in self._layers.items()
        ]
        y, _ = self._join(x, [y for y, _, _ in traced])
        return y, union(*(seen for _, seen, _ in traced)), [row for _, _, rows in traced for row in rows]


class Residual(Parallel):
    """A body and a shortcut around it: ``y = body(x) + shortcut(x)``.

    Parameters
    ----------
    body : Layer
        Its parameters' paths get no segment of their own.
    shortcut : Layer, optional
        The identity if not given; a projection where the body changes the shape.
    shortcut_name : str
        The shortcut's segment in paths; torchvision's name by default.

    References
    ----------
    He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016.

    Examples
    --------
    >>> from xpcnn import nn
    >>> block = nn.Residual(nn.Sequential(conv1=nn.Conv2d(4, 4, 3, padding=1)), nn.Conv2d(4, 4, 1))
    >>> list(block.parameters())
    ['conv1.weight', 'conv1.bias', 'downsample.weight', 'downsample.bias']
    """

    batch_independent = True

    def __init__(
        self, body: Layer, shortcut: Layer | None = None, *, shortcut_name: str = "downsample"
    ) -> None:
        if not isinstance(shortcut_name, str) or not shortcut_name:
            raise ArgumentError(
                f"Residual: shortcut_name must be a text, and not empty as the body's name is, "
                f"got {in_words(shortcut_name)}"
            )
        super().__init__({"": body} if shortcut is None else {"": body, shortcut_name: shortcut})
        self.shortcut_name = None if shortcut is None else shortcut_name

    @classmethod
    def from_children(cls, children: Mapping[str, Layer]) -> Self:
        body, *shortcuts = children.values()
        named = [name for name in children if name]
        return cls(body, *shortcuts, shortcut_name=named[0]) if named else cls(body)

    def _key(self, key: Key | None, name: str) -> Key | None:
        return key_of_child(key, name) if name else key  # the body has no segment of its own

    def _join(self, x: Array, outputs: list[Array]) -> tuple[Array, None]:
        y, shortcut = (*outputs, x)[:2]
        if tuple(y.shape) != tuple(shortcut.shape):
            raise ShapeError(
                f"Residual: the body gives shape {tuple(y.shape)} but the shortcut {tuple(shortcut.shape)}; "
                f"give a projection as shortcut"
            )
        return add(native(y), native(shortcut)), None

    def _split(self, ctx: None, dy: Array) -> list[Array]:
        return [native(dy)] * len(self)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        dx = super().backward(ctx, dy, grads, need_dx=need_dx)
        return dx if dx is None or len(self) == 2 else add(dx, native(dy))

    def trace(self, x: Array, path: str = "", field: ReceptiveField | None = None) -> Traced:
        y, found, rows = super().trace(x, path, field)
        return y, found if len(self) == 2 else union(found, field), rows


class Concat(Parallel):
    """Branches side by side, their outputs joined along the channels (axis 1).

    Parameters
    ----------
    *branches : Layer
    **named : Layer
        As for `Sequential`.

    References
    ----------
    Szegedy et al., "Going deeper with convolutions", 2015.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn import nn
    >>> both = nn.Concat(nn.Identity(), nn.ReLU())
    >>> both(xpcnn.asarray([[-1.0, 2.0]]))
    array([[-1.,  2.,  0.,  2.]])
    """

    batch_independent = True

    def _join(self, x: Array, outputs: list[Array]) -> tuple[Array, tuple[int, ...]]:
        if not outputs:
            raise ArgumentError("Concat: it has no branches")
        shapes = [tuple(y.shape) for y in outputs]
        if len({(shape[0], *shape[2:]) for shape in shapes}) > 1:
            raise ShapeError(f"Concat: the branches' outputs differ beside their channels: {shapes}")
        return backend_of(*outputs).xp.concat(outputs, axis=1), tuple(shape[1] for shape in shapes)

    def _split(self, ctx: tuple[int, ...], dy: Array) -> list[Array]:
        dy = require_array("Concat", "dy", dy)
        if dy.ndim < 2 or dy.shape[1] != sum(ctx):
            raise ShapeError(f"Concat: dy has shape {tuple(dy.shape)} but the branches gave {ctx} channels")
        starts = [sum(ctx[:i]) for i in range(len(ctx))]
        return [dy[:, start : start + width, ...] for start, width in zip(starts, ctx, strict=True)]
