"""The smallest network that deserves the name: one convolution, one pooling, one softmax."""

from __future__ import annotations

from typing import Any

from xpcnn import nn
from xpcnn.backend import host_generator
from xpcnn.errors import ShapeError
from xpcnn.models.catalog import register_model

__all__ = ["tiny_convnet"]


@register_model("tiny_convnet")
def tiny_convnet(
    input_shape: tuple[int, int, int] = (1, 28, 28),
    filters: int = 8,
    classes: int = 10,
    *,
    bias: bool = False,
    seed: Any = 0,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return conv 3×3 – max-pool 2 – linear, ending in logits; made for SGD one image at a time.

    Parameters
    ----------
    input_shape : (C, H, W)
        Of one image; inputs are scaled to [−0.5, 0.5].
    filters, classes : int
    bias : bool
        Whether the convolution has a bias.
    seed : int or NumPy generator
        What the initial weights are drawn from: standard deviation 1/9 for the filters, one over the number
        of inputs for the linear layer.
    dtype : str

    Raises
    ------
    ShapeError
        If the images are smaller than 4×4.

    References
    ----------
    Zhou, "CNNs, Part 1: An Introduction to Convolutional Neural Networks", 2019.

    Examples
    --------
    >>> list(tiny_convnet().parameters())
    ['conv1.weight', 'fc.weight', 'fc.bias']
    """
    channels, height, width = input_shape
    if min(height, width) < 4:
        raise ShapeError(f"tiny_convnet: images must be at least 4x4, got input_shape {tuple(input_shape)}")
    rng = host_generator(seed)
    features = filters * ((height - 2) // 2) * ((width - 2) // 2)
    return nn.Sequential(
        {"": nn.Preprocess(mean=0.5, std=1.0, dtype=dtype)},
        conv1=nn.Conv2d(channels, filters, 3, bias=bias, weight_init=1 / 9, seed=rng, dtype=dtype),
        pool1=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc=nn.Linear(features, classes, weight_init=1 / features, seed=rng, dtype=dtype),
    )
