"""Three containers instead of a graph engine: one after the other, beside a shortcut, and side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from xpcnn.backend import Array, Key, backend_of
from xpcnn.errors import ArgumentError, ShapeError, XpcnnError
from xpcnn.nn.activation import ReLU
from xpcnn.nn.conv import Conv2d
from xpcnn.nn.gradients import Gradients
from xpcnn.nn.layer import Layer, ReceptiveField, TraceRow

__all__ = ["Concat", "Container", "Residual", "Sequential"]


class Container(Layer):
    """A layer made of named children, reached as attributes, by name or by position."""

    def __init__(self, *layers: Layer | Mapping[str, Layer], **named: Layer) -> None:
        self._layers: dict[str, Layer] = {}
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            pairs: list[tuple[str, Any]] = [*layers[0].items(), *named.items()]
        else:
            pairs = [*((str(i), layer) for i, layer in enumerate(layers)), *named.items()]
        for name, layer in pairs:
            if name in self._layers:
                raise ArgumentError(f"{type(self).__name__}: two children have the name {name!r}")
            self._add(name, layer)

    def _add(self, name: str, layer: Any) -> None:
        if not isinstance(layer, Layer):
            raise ArgumentError(f"{type(self).__name__}: child {name!r} must be a Layer, got {layer!r}")
        if "." in name:
            raise ArgumentError(f"{type(self).__name__}: a child's name cannot contain a dot, got {name!r}")
        if hasattr(type(self), name):
            raise ArgumentError(
                f"{type(self).__name__}: the name {name!r} is taken by the layer's own attribute"
            )
        self._layers[name] = layer

    def children(self) -> dict[str, Layer]:
        return dict(self._layers)

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

    def __getitem__(self, which: str | int) -> Layer:
        layers = self._layers
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
            where = f"{type(self).__name__}.{name}" if name else type(self).__name__
            error.add_note(f"in {where} ({type(self._layers[name]).__name__})")
            raise


class Sequential(Container):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Layer
        Named ``"0"``, ``"1"``, … as in PyTorch.
    **named : Layer
        Named children; or one mapping of names to layers. A child named ``""`` adds no segment to the
        paths of its parameters.

    Examples
    --------
    >>> from xpcnn import nn
    >>> model = nn.Sequential(conv1=nn.Conv2d(1, 4, 3), relu1=nn.ReLU())
    >>> list(model.parameters())
    ['conv1.weight', 'conv1.bias']
    """

    per_sample = True

    def forward(
        self, x: Array, *, train: bool = False, key: Key | None = None
    ) -> tuple[Array, tuple[Any, ...]]:
        contexts: list[Any] = []
        for name, layer, with_relu in self._steps():
            if with_relu:
                x, both = self._call(name, cast(Conv2d, layer).forward_relu, x)
                contexts += both
            else:
                layer_key = _folded(key, name)
                x, ctx = self._call(name, layer.forward, x, train=train, key=layer_key)
                contexts.append(ctx)
        return x, tuple(contexts)

    def backward(
        self, ctx: tuple[Any, ...], dy: Array, grads: Gradients | None = None, *, need_dx: bool = True
    ) -> Any:
        if grads is not None:
            grads.bind(self)
        steps = list(zip(self._layers.items(), ctx, strict=True))
        # Where nobody asks for dx, no gradient need reach what comes before the first layer to be trained.
        first = 0 if need_dx else self._first_trained()
        for i, ((name, layer), layer_ctx) in reversed(list(enumerate(steps))[first:]):
            dy = self._call(name, layer.backward, layer_ctx, dy, grads, need_dx=need_dx or i > first)
        return dy if need_dx else None

    def _first_trained(self) -> int:
        for i, layer in enumerate(self._layers.values()):
            if layer.trainable(*layer.parameters().values()):
                return i
        return len(self._layers)

    def _steps(self) -> list[tuple[str, Layer, bool]]:
        """Return the layers to run, and whether each, a convolution, takes the ReLU behind it along."""
        steps: list[tuple[str, Layer, bool]] = []
        for name, layer in self._layers.items():
            before, conv, has_relu = steps[-1] if steps else ("", self, False)
            # Of exactly these types: a subclass may do something else.
            if type(layer) is ReLU and type(conv) is Conv2d and conv.bias is not None and not has_relu:
                steps[-1] = before, conv, True
            else:
                steps.append((name, layer, False))
        return steps

    def __call__(self, x: Array) -> Array:
        for name, layer, with_relu in self._steps():
            if with_relu:
                x = self._call(name, cast(Conv2d, layer).forward_relu, x)[0]
            else:
                x = self._call(name, layer, x)
        return x

    def trace(
        self, x: Array, path: str = "", field: ReceptiveField | None = None
    ) -> tuple[Array, ReceptiveField | None, list[TraceRow]]:
        rows: list[TraceRow] = []
        for name, layer in self._layers.items():
            x, field, more = self._call(name, layer.trace, x, _join(path, name), field)
            rows += more
        return x, field, rows


class Residual(Container):
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

    per_sample = True

    def __init__(
        self, body: Layer, shortcut: Layer | None = None, *, shortcut_name: str = "downsample"
    ) -> None:
        if shortcut_name == "":
            raise ArgumentError("Residual: shortcut_name cannot be empty: the body's name is")
        super().__init__({"": body} if shortcut is None else {"": body, shortcut_name: shortcut})
        self.shortcut_name = None if shortcut is None else shortcut_name

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        y, body_ctx = self._call("", self._layers[""].forward, x, train=train, key=key)
        if self.shortcut_name is None:
            return _sum(y, x), (body_ctx, None)
        name = self.shortcut_name
        shortcut_key = _folded(key, name)
        shortcut, shortcut_ctx = self._call(
            name, self._layers[name].forward, x, train=train, key=shortcut_key
        )
        return _sum(y, shortcut), (body_ctx, shortcut_ctx)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        if grads is not None:
            grads.bind(self)
        body_ctx, shortcut_ctx = ctx
        dx = self._call("", self._layers[""].backward, body_ctx, dy, grads, need_dx=need_dx)
        around = dy
        if self.shortcut_name is not None:
            name = self.shortcut_name
            around = self._call(name, self._layers[name].backward, shortcut_ctx, dy, grads, need_dx=need_dx)
        return dx + around if need_dx else None

    def __call__(self, x: Array) -> Array:
        y = self._call("", self._layers[""], x)
        if self.shortcut_name is None:
            return _sum(y, x)
        return _sum(y, self._call(self.shortcut_name, self._layers[self.shortcut_name], x))

    def trace(
        self, x: Array, path: str = "", field: ReceptiveField | None = None
    ) -> tuple[Array, ReceptiveField | None, list[TraceRow]]:
        y, body_field, rows = self._call("", self._layers[""].trace, x, path, field)
        shortcut, shortcut_field = x, field
        if self.shortcut_name is not None:
            name = self.shortcut_name
            shortcut, shortcut_field, more = self._call(
                name, self._layers[name].trace, x, _join(path, name), field
            )
            rows = rows + more
        return _sum(y, shortcut), _widest(body_field, shortcut_field), rows


class Concat(Container):
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

    per_sample = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        outputs, contexts = [], []
        for name, layer in self._layers.items():
            branch_key = _folded(key, name)
            y, ctx = self._call(name, layer.forward, x, train=train, key=branch_key)
            outputs.append(y)
            contexts.append(ctx)
        return _join_channels(outputs), (tuple(y.shape[1] for y in outputs), tuple(contexts))

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        if grads is not None:
            grads.bind(self)
        widths, contexts = ctx
        if dy.ndim < 2 or dy.shape[1] != sum(widths):
            raise ShapeError(
                f"Concat: dy has shape {tuple(dy.shape)} but the branches gave {widths} channels"
            )
        dx, start = None, 0
        for (name, layer), width, branch_ctx in zip(self._layers.items(), widths, contexts, strict=True):
            part = dy[:, start : start + width, ...]
            start += width
            branch_dx = self._call(name, layer.backward, branch_ctx, part, grads, need_dx=need_dx)
            if need_dx:
                dx = branch_dx if dx is None else dx + branch_dx
        return dx

    def __call__(self, x: Array) -> Array:
        return _join_channels([self._call(name, layer, x) for name, layer in self._layers.items()])

    def trace(
        self, x: Array, path: str = "", field: ReceptiveField | None = None
    ) -> tuple[Array, ReceptiveField | None, list[TraceRow]]:
        rows: list[TraceRow] = []
        outputs, fields = [], []
        for name, layer in self._layers.items():
            y, branch_field, more = self._call(name, layer.trace, x, _join(path, name), field)
            outputs.append(y)
            fields.append(branch_field)
            rows += more
        return _join_channels(outputs), _widest(*fields), rows


def _sum(y: Array, shortcut: Array) -> Array:
    if tuple(y.shape) != tuple(shortcut.shape):
        raise ShapeError(
            f"Residual: the body gives shape {tuple(y.shape)} but the shortcut {tuple(shortcut.shape)}; "
            f"give a projection as shortcut"
        )
    return y + shortcut


def _join_channels(outputs: list[Array]) -> Array:
    if not outputs:
        raise ArgumentError("Concat: it has no branches")
    shapes = [tuple(y.shape) for y in outputs]
    if len({(shape[0], *shape[2:]) for shape in shapes}) > 1:
        raise ShapeError(f"Concat: the branches' outputs differ beside their channels: {shapes}")
    return backend_of(*outputs).xp.concat(outputs, axis=1)


def _folded(key: Key | int | None, name: str) -> Key | None:
    return None if key is None else Key.of(key).fold(name)


def _join(path: str, name: str) -> str:
    return ".".join(part for part in (path, name) if part)


def _widest(*fields: ReceptiveField | None) -> ReceptiveField | None:
    """Return the field that holds all `fields`, which share a centre."""
    known = [field for field in fields if field is not None]
    if len(known) < len(fields):
        return None
    height, width = (max(field.size[axis] for field in known) for axis in (0, 1))
    return ReceptiveField((height, width), known[0].jump)
