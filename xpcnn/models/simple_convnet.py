"""SimpleConvNet: the first convolutional network of the from-scratch literature."""

from __future__ import annotations

from typing import Any

from xpcnn import nn
from xpcnn.backend import host_generator
from xpcnn.errors import ShapeError
from xpcnn.models.catalog import register_model
from xpcnn.ops import ConvGeometry

__all__ = ["simple_convnet"]


@register_model("simple_convnet")
def simple_convnet(
    input_shape: tuple[int, int, int] = (1, 28, 28),
    filters: int = 30,
    filter_size: int = 5,
    padding: int = 0,
    stride: int = 1,
    hidden: int = 100,
    classes: int = 10,
    weight_std: float | str = 0.01,
    *,
    seed: Any = 0,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return conv – relu – pool – affine – relu – affine, ending in logits.

    Parameters
    ----------
    input_shape : (C, H, W)
        Of one image; inputs are scaled to [0, 1].
    filters, filter_size, padding, stride : int
        Of the convolution; the pooling after it is 2×2.
    hidden, classes : int
        Outputs of the two fully connected layers.
    weight_std : float, "he" or "xavier"
        The standard deviation of the initial weights.
    seed : int or NumPy generator
        What they are drawn from.
    dtype : str

    Raises
    ------
    ShapeError
        If the images are too small to be pooled.

    References
    ----------
    Saito, "Deep Learning from Scratch", 2016, chapter 7.

    Examples
    --------
    >>> import xpcnn
    >>> model = simple_convnet()
    >>> sum(p.data.size for p in model.parameters().values())
    433890
    """
    channels, height, width = input_shape
    geometry = ConvGeometry.of(
        (1, channels, height, width),
        (filters, channels, filter_size, filter_size),
        stride,
        padding,
        op="simple_convnet",
    )
    oh, ow = geometry.output_size
    if min(oh, ow) < 2:
        raise ShapeError(
            f"simple_convnet: input_shape {tuple(input_shape)} leaves {oh}x{ow} after the convolution, "
            f"too little for the 2x2 pooling; use larger images, a smaller filter or more padding"
        )
    options: dict[str, Any] = {"weight_init": weight_std, "seed": host_generator(seed), "dtype": dtype}
    return nn.Sequential(
        {"": nn.Preprocess(mean=0.0, std=1.0, dtype=dtype)},
        conv1=nn.Conv2d(channels, filters, filter_size, stride, padding, **options),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(filters * (oh // 2) * (ow // 2), hidden, **options),
        relu2=nn.ReLU(),
        fc2=nn.Linear(hidden, classes, **options),
    )
