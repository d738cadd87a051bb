"""The first child of a published network: prepares images, and says clearly when they do not fit it."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Array, Key, backend_of
from xpcnn.errors import ShapeError
from xpcnn.nn import Gradients, Preprocess, registered
from xpcnn.ops.op import require_array

__all__ = ["Images", "imagenet_images"]

# Of red, green and blue over ImageNet's training images, as torchvision's weights expect them.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PerChannel = float | tuple[float, ...]


@registered("Images")
class Images(Preprocess):
    """A `Preprocess` for images that have the channels and a size that the network can take.

    Parameters
    ----------
    model : str
        The network's name, for the message.
    channels : int
    mean, std : float or tuple of float
        As for `Preprocess`; of another number than `channels`, their averages.
    smallest : int
        Of the height and of the width, in pixels.
    largest : int, optional
        Without it any larger image will do.
    hint : str
        What else to do about images that are too small.
    pad_to : int, optional
        Smaller images get zeros on all sides, up to this height and width; larger ones are refused. The
        zeros come after the normalisation.
    dtype : str
        As for `Preprocess`.
    """

    batch_independent = True
    channels: int

    def __init__(
        self,
        model: str,
        channels: int,
        mean: PerChannel,
        std: PerChannel,
        smallest: int,
        largest: int | None = None,
        hint: str = "",
        pad_to: int | None = None,
        *,
        dtype: Any = "float32",
    ) -> None:
        self.model, self.channels, self.hint = model, channels, hint
        super().__init__(_for(channels, mean), _for(channels, std), dtype=dtype)
        self.smallest, self.largest = smallest, largest if pad_to is None else pad_to
        self.pad_to = pad_to

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        x, most = require_array(self.model, "x", x), self.largest
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ShapeError(
                f"{self.model}: x must have shape (N, {self.channels}, H, W), got {tuple(x.shape)}; "
                f"in_channels= says how many channels there are"
            )
        height, width = x.shape[2:]
        small = min(height, width) < self.smallest
        if small or (most is not None and max(height, width) > most):
            way_out = (self.hint or "enlarge or pad them") if small else "crop or shrink them"
            raise ShapeError(
                f"{self.model}: images of {height}x{width} are too {'small' if small else 'large'}, it takes "
                f"{self.smallest}x{self.smallest} {f'to {most}x{most}' if most else 'and more'}; {way_out}"
            )
        x, of_bytes = super().forward(x)
        if self.pad_to is None or (height, width) == (self.pad_to, self.pad_to):
            return x, (of_bytes, None)
        # Where the images lie; of an odd number of zeros, one more comes after them.
        top, left = (self.pad_to - height) // 2, (self.pad_to - width) // 2
        inside = ..., slice(top, top + height), slice(left, left + width)
        backend = backend_of(x)
        shape = (x.shape[0], self.pad_to, self.pad_to, self.channels)
        memory = backend.xp.zeros(shape, dtype=x.dtype, device=backend.device)
        y = backend.xp.permute_dims(memory, (0, 3, 1, 2))  # channels-last, as a convolution takes images
        y[inside] = x
        return y, (of_bytes, inside)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        of_bytes, inside = ctx
        dx = super().backward(of_bytes, dy, grads, need_dx=need_dx)
        return dx if dx is None or inside is None else dx[inside]


def imagenet_images(model: str, channels: int, smallest: int, small_images: bool, dtype: Any) -> Images:
    """Return what prepares images for a network that was made for ImageNet."""
    hint = "" if small_images else "pass small_images=True for images of about 28x28 to 32x32"
    return Images(model, channels, _IMAGENET_MEAN, _IMAGENET_STD, smallest, hint=hint, dtype=dtype)


def _for(channels: int, values: PerChannel) -> PerChannel:
    if isinstance(values, tuple) and len(values) not in (0, channels):
        return sum(values) / len(values)
    return values
