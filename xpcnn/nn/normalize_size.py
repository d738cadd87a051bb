"""Size normalisation as a model's first layer."""

from __future__ import annotations

from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.nn.gradients import Gradients
from xpcnn.nn.layer import Layer, ReceptiveField
from xpcnn.ops.checks import pair

__all__ = ["NormalizeSize"]


class NormalizeSize(Layer):
    """Stretches what each image shows to one size, in its middle; see `xpcnn.ops.normalize_size`.

    Parameters
    ----------
    size : int or pair of ints
        Height and width, in pixels, of the digit or whatever is drawn; not of the image, which keeps its own.

    Examples
    --------
    >>> import xpcnn
    >>> layer = xpcnn.nn.NormalizeSize((1, 2))
    >>> layer(xpcnn.asarray([[[[0.0, 0.0, 1.0, 0.0]]]]))
    array([[[[0., 1., 1., 0.]]]])
    """

    per_sample = True

    def __init__(self, size: int | tuple[int, int]) -> None:
        self.size = pair("NormalizeSize", "size", size, 1)

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.normalize_size(x, self.size)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return ops.normalize_size_backward(ctx, dy) if need_dx else None

    def field_of(self, field: ReceptiveField | None) -> ReceptiveField | None:
        return None  # any pixel may be the box's edge

    def macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        _, channels, height, width = input_shape
        return channels * height * width * (height + width)

    def extra_repr(self) -> str:
        return f"{self.size[0]}x{self.size[1]}"
