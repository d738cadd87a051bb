"""Layers beside a shortcut, and side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from xpcnn.backend import Array, Key, backend_of, native
from xpcnn.backend.random import key_of_child
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.nn.containers import Container, join_paths
from xpcnn.nn.layer import Layer, ReceptiveField, TraceRow
from xpcnn.nn.records import Traced, union
from xpcnn.nn.value_and_grad import Gradients
from xpcnn.ops.activation import add
from xpcnn.ops.op import in_words, require_array

__all__ = ["Concat", "Residual"]


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

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        y, body_ctx = self._call("", self._layers[""].forward, x, train=train, key=key)
        if self.shortcut_name is None:
            return _sum(y, x), (body_ctx, None)
        name = self.shortcut_name
        shortcut_key = key_of_child(key, name)
        shortcut, shortcut_ctx = self._call(
            name, self._layers[name].forward, x, train=train, key=shortcut_key
        )
        return _sum(y, shortcut), (body_ctx, shortcut_ctx)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        if grads is not None:
            grads.bind(self)
        body_ctx, shortcut_ctx = ctx
        dy = native(dy)
        dx = self._call("", self._layers[""].backward, body_ctx, dy, grads, need_dx=need_dx)
        around = dy
        if self.shortcut_name is not None:
            name = self.shortcut_name
            around = self._call(name, self._layers[name].backward, shortcut_ctx, dy, grads, need_dx=need_dx)
        return add(dx, around) if dx is not None else None  # bytes have no gradient

    def __call__(self, x: Array) -> Array:
        y = self._call("", self._layers[""], x)
        if self.shortcut_name is None:
            return _sum(y, x)
        return _sum(y, self._call(self.shortcut_name, self._layers[self.shortcut_name], x))

    def trace(self, x: Array, path: str = "", field: ReceptiveField | None = None) -> Traced:
        y, body_field, rows = self._call("", self._layers[""].trace, x, path, field)
        shortcut, shortcut_field = x, field
        if self.shortcut_name is not None:
            name = self.shortcut_name
            shortcut, shortcut_field, more = self._call(
                name, self._layers[name].trace, x, join_paths(path, name), field
            )
            rows = rows + more
        return _sum(y, shortcut), union(body_field, shortcut_field), rows


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
            branch_key = key_of_child(key, name)
            y, ctx = self._call(name, layer.forward, x, train=train, key=branch_key)
            outputs.append(y)
            contexts.append(ctx)
        return _join_channels(outputs), (tuple(y.shape[1] for y in outputs), tuple(contexts))

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        if grads is not None:
            grads.bind(self)
        widths, contexts = ctx
        dy = require_array("Concat", "dy", dy)
        if dy.ndim < 2 or dy.shape[1] != sum(widths):
            raise ShapeError(
                f"Concat: dy has shape {tuple(dy.shape)} but the branches gave {widths} channels"
            )
        dx, start = None, 0
        for (name, layer), width, branch_ctx in zip(self._layers.items(), widths, contexts, strict=True):
            part = dy[:, start : start + width, ...]
            start += width
            branch_dx = self._call(name, layer.backward, branch_ctx, part, grads, need_dx=need_dx)
            if branch_dx is not None:  # bytes have no gradient
                dx = branch_dx if dx is None else add(dx, branch_dx)
        return dx

    def __call__(self, x: Array) -> Array:
        return _join_channels([self._call(name, layer, x) for name, layer in self._layers.items()])

    def trace(self, x: Array, path: str = "", field: ReceptiveField | None = None) -> Traced:
        rows: list[TraceRow] = []
        outputs, fields = [], []
        for name, layer in self._layers.items():
            y, branch_field, more = self._call(name, layer.trace, x, join_paths(path, name), field)
            outputs.append(y)
            fields.append(branch_field)
            rows += more
        return _join_channels(outputs), union(*fields), rows


def _sum(y: Array, shortcut: Array) -> Array:
    if tuple(y.shape) != tuple(shortcut.shape):
        raise ShapeError(
            f"Residual: the body gives shape {tuple(y.shape)} but the shortcut {tuple(shortcut.shape)}; "
            f"give a projection as shortcut"
        )
    return add(native(y), native(shortcut))


def _join_channels(outputs: list[Array]) -> Array:
    if not outputs:
        raise ArgumentError("Concat: it has no branches")
    shapes = [tuple(y.shape) for y in outputs]
    if len({(shape[0], *shape[2:]) for shape in shapes}) > 1:
        raise ShapeError(f"Concat: the branches' outputs differ beside their channels: {shapes}")
    return backend_of(*outputs).xp.concat(outputs, axis=1)
