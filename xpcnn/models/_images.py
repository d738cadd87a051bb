"""The first child of a published network: says clearly when images do not fit it."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Array, Key
from xpcnn.errors import ShapeError
from xpcnn.nn import Gradients, Layer

__all__ = ["Images"]


class Images(Layer):
    """Hands images on, once they have the channels and a size that the network can take.

    Parameters
    ----------
    model : str
        The network's name, for the message.
    channels : int
    smallest : int
        Of the height and of the width, in pixels.
    largest : int, optional
        Without it any larger image will do.
    hint : str
        What else to do about images that are too small.
    """

    def __init__(
        self, model: str, channels: int, smallest: int, largest: int | None = None, hint: str = ""
    ) -> None:
        self.model, self.channels, self.hint = model, channels, hint
        self.smallest, self.largest = smallest, largest

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ShapeError(
                f"{self.model}: x must have shape (N, {self.channels}, H, W), got {tuple(x.shape)}; "
                f"in_channels= says how many channels there are"
            )
        height, width = x.shape[2:]
        if min(height, width) < self.smallest:
            raise ShapeError(
                f"{self.model}: images of {height}x{width} are too small, it takes {self._range()}; "
                f"{self.hint or 'enlarge or pad them'}"
            )
        if self.largest is not None and max(height, width) > self.largest:
            raise ShapeError(
                f"{self.model}: images of {height}x{width} are too large, it takes {self._range()}; "
                f"crop or shrink them"
            )
        return x, None

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return dy if need_dx else None

    def _range(self) -> str:
        if self.largest is None:
            return f"{self.smallest}x{self.smallest} and more"
        return f"{self.smallest}x{self.smallest} to {self.largest}x{self.largest}"

    def extra_repr(self) -> str:
        return f"{self.channels} channels, {self._range()}"
