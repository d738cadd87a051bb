"""DeepConvNet: six small convolutions, three poolings, and dropout; VGG in miniature."""

from __future__ import annotations

from typing import Any

from xpcnn import nn
from xpcnn.backend import host_generator
from xpcnn.errors import ArgumentError
from xpcnn.models._images import Images
from xpcnn.models.catalog import register_model

__all__ = ["deep_convnet"]


@register_model("deep_convnet")
def deep_convnet(
    classes: int = 10,
    in_channels: int = 1,
    small_images: bool = False,
    seed: Any = 0,
    *,
    filters: tuple[int, int, int] = (16, 32, 64),
    hidden: int = 50,
    dropout: float = 0.5,
    batch_norm: bool = False,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return the deep network of the from-scratch literature, ending in logits.

    Three times conv 3×3 – relu – conv 3×3 – relu – max-pool 2, with 16, 32 and 64 filters; then affine –
    relu – dropout – affine – dropout. Initial weights are He's, from the fan-in of each layer.

    Parameters
    ----------
    classes, in_channels : int
    small_images : bool
        Changes nothing: the network was made for 28×28 images, and takes up to 35×35.
    seed : int or NumPy generator
        What the initial weights are drawn from.
    filters : three ints
        Filters of each convolution before the first pooling, of each before the second, and before the third.
    hidden : int
        Outputs of the first fully connected layer.
    dropout : float
        The share of values dropped in training, of the hidden layer and of the logits.
    batch_norm : bool
        Whether each convolution is followed by a batch normalisation, which came after the book.
    dtype : str

    Raises
    ------
    ArgumentError
        For filters that are not three numbers.

    References
    ----------
    Saito, "Deep Learning from Scratch", 2016, chapter 8.

    Examples
    --------
    >>> model = deep_convnet()
    >>> sum(p.data.size for p in model.parameters().values())
    123552
    """
    if len(filters) != 3:
        raise ArgumentError(
            f"deep_convnet: filters must be three numbers, one before each pooling, got {filters}; "
            "say for example (16, 32, 64)"
        )
    options: dict[str, Any] = {"seed": host_generator(seed), "dtype": dtype}
    layers: dict[str, nn.Layer] = {
        "": Images("deep_convnet", in_channels, 0.0, 1.0, smallest=28, largest=35, dtype=dtype)
    }
    inputs = in_channels
    for number in range(1, 7):
        outputs = filters[(number - 1) // 2]
        padding = 2 if number == 4 else 1  # 14x14 becomes 16x16, which halves twice
        layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, 3, padding=padding, **options)
        if batch_norm:
            layers[f"norm{number}"] = nn.BatchNorm2d(outputs, dtype=dtype)
        layers[f"relu{number}"] = nn.ReLU()
        if number % 2 == 0:
            layers[f"pool{number // 2}"] = nn.MaxPool2d(2)
        inputs = outputs
    return nn.Sequential(
        layers,
        flatten=nn.Flatten(),
        fc1=nn.Linear(inputs * 4 * 4, hidden, **options),
        relu7=nn.ReLU(),
        dropout1=nn.Dropout(dropout),
        fc2=nn.Linear(hidden, classes, **options),
        dropout2=nn.Dropout(dropout),
    )
