"""Containers whose children all get the same input: a body and its shortcut, layers side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from xpcnn.backend import Array, Key, backend_of, native
from xpcnn.backend.random import key_of_child
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.nn.containers import Container, join_paths
from xpcnn.nn.layer import Layer, ReceptiveField, TraceRow
from xpcnn.nn.parameter import Gradients
from xpcnn.nn.receptive_field import Traced, union
from xpcnn.ops.activation import add
from xpcnn.ops.op import in_words, require_array

__all__ = ["Concat", "Parallel", "Residual"]


class Parallel(Container):
    """Children that all get the same input. A subclass says how their outputs become one."""

    def _join(self, x: Array, outputs: list[Array]) -> tuple[Array, Any]:
        """Return y, and what `_split` needs."""
        raise NotImplementedError

    def _split(self, ctx: Any, dy: Array) -> list[Array]:
        """Return each child's gradient."""
        raise NotImplementedError

    def _input(self, layer: Layer, x: Array) -> Array:
        return x

    def _key(self, key: Key | None, name: str) -> Key | None:
        return key_of_child(key, name)

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        outputs, contexts = [], []
        for name, layer in self._layers.items():
            child_key, child_x = self._key(key, name), self._input(layer, x)
            y, ctx = self._call(name, layer.forward, child_x, train=train, key=child_key)
            outputs.append(y)
            contexts.append(ctx)
        y, joined = self._join(x, outputs)
        return y, (joined, tuple(contexts))

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
        rows: list[TraceRow] = []
        outputs, fields = [], []
        for name, layer in self._layers.items():
            child_x, child_path = self._input(layer, x), join_paths(path, name)
            y, child_field, more = self._call(name, layer.trace, child_x, child_path, field)
            outputs.append(y)
            fields.append(child_field)
            rows += more
        return self._join(x, outputs)[0], union(*fields), rows


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
