"""VGG: nothing but 3×3 convolutions and poolings, with or without batch normalisation."""

from __future__ import annotations

from typing import Any

from xpcnn import nn
from xpcnn.backend import host_generator
from xpcnn.models._images import imagenet_images
from xpcnn.models.catalog import register_variant

__all__ = ["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]

# How many convolutions each of the five blocks has: the paper's columns A, B, D and E.
_CONVOLUTIONS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_WIDTH = 64


def _vgg(
    name: str,
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dropout: float = 0.5,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return VGG, ending in logits; names, shapes and order of the parameters are torchvision's.

    Five blocks of 3×3 convolutions with 64, 128, 256, 512 and 512 filters, each ending in a max-pooling, and
    three fully connected layers. The number is that of layers with weights. ``_bn`` stands for a batch
    normalisation before each ReLU of the blocks, which came after the paper.

    Parameters
    ----------
    classes, in_channels : int
    small_images : bool
        For images of about 32×32: the last max-pooling is left out, and what remains, 1×1 pixel of 28×28 and
        2×2 of 32×32, is averaged, so the classifier reads 512 numbers instead of 512·7·7. Anything from 16×16
        will do. Without it, 224×224 is the published size; anything from 32×32 will do.
    seed : int or NumPy generator
        What the initial weights are drawn from: He's, while the paper's had standard deviation 0.01, and the
        deeper networks began with layers of trained shallower ones.
    dropout : float
        The fraction of the classifier's two hidden layers that is dropped in training.
    dtype : str

    References
    ----------
    Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015.

    Examples
    --------
    >>> model = vgg11(classes=10, small_images=True)
    >>> list(model.parameters())[:3]
    ['features.0.weight', 'features.0.bias', 'features.3.weight']
    """
    options: dict[str, Any] = {"seed": host_generator(seed), "dtype": dtype}
    features: list[nn.Layer] = []
    inputs = in_channels
    for block, convolutions in enumerate(_CONVOLUTIONS[name.removesuffix("_bn")]):
        outputs = _WIDTH * min(1 << block, 8)
        for _ in range(convolutions):
            features.append(nn.Conv2d(inputs, outputs, 3, padding=1, **options))
            if name.endswith("_bn"):
                features.append(nn.BatchNorm2d(outputs, dtype=dtype))
            features.append(nn.ReLU())
            inputs = outputs
        features.append(nn.MaxPool2d(2))
    if small_images:
        features.pop()
    smallest, regions = (16, 1) if small_images else (32, 7)
    hidden = 64 * _WIDTH
    return nn.Sequential(
        {"": imagenet_images(name, in_channels, smallest, small_images, dtype)},
        features=nn.Sequential(*features),
        avgpool=nn.AdaptiveAvgPool2d(regions),
        flatten=nn.Flatten(),
        classifier=nn.Sequential(
            nn.Linear(inputs * regions * regions, hidden, **options),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden, **options),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes, **options),
        ),
    )


vgg11, vgg13, vgg16, vgg19 = (register_variant(name, _vgg) for name in _CONVOLUTIONS)
vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn = (register_variant(f"{name}_bn", _vgg) for name in _CONVOLUTIONS)
