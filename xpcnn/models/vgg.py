"""VGG: nothing but 3×3 convolutions and poolings, with or without batch normalisation."""

from __future__ import annotations

from typing import Any

from xpcnn import nn
from xpcnn.backend import host_generator
from xpcnn.models._images import IMAGENET_MEAN, IMAGENET_STD, SMALL_IMAGES_HINT, Images
from xpcnn.models.catalog import register_model

__all__ = ["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]

# How many convolutions each of the five blocks has: the paper's columns A, B, D and E.
_BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def _vgg(
    depth: int,
    batch_norm: bool,
    classes: int,
    in_channels: int,
    small_images: bool,
    seed: Any,
    dropout: float,
    dtype: Any,
    width: int = 64,
) -> nn.Sequential:
    options: dict[str, Any] = {"seed": host_generator(seed), "dtype": dtype}
    features: list[nn.Layer] = []
    inputs = in_channels
    for block, convolutions in enumerate(_BLOCKS[depth]):
        outputs = width * min(1 << block, 8)
        for _ in range(convolutions):
            features.append(nn.Conv2d(inputs, outputs, 3, padding=1, **options))
            if batch_norm:
                features.append(nn.BatchNorm2d(outputs, dtype=dtype))
            features.append(nn.ReLU())
            inputs = outputs
        features.append(nn.MaxPool2d(2))
    name = f"vgg{depth}_bn" if batch_norm else f"vgg{depth}"
    if small_images:
        features.pop()
        images = Images(name, in_channels, IMAGENET_MEAN, IMAGENET_STD, smallest=16, dtype=dtype)
        regions = 1
    else:
        images = Images(
            name, in_channels, IMAGENET_MEAN, IMAGENET_STD, smallest=32, hint=SMALL_IMAGES_HINT, dtype=dtype
        )
        regions = 7
    hidden = 64 * width
    return nn.Sequential(
        {"": images},
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


@register_model("vgg11")
def vgg11(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dropout: float = 0.5,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return VGG with 11 weight layers, ending in logits; names, shapes and order are torchvision's.

    Five blocks of 3×3 convolutions with 64, 128, 256, 512 and 512 filters, each ending in a max-pooling, and
    three fully connected layers.

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
        The share of the classifier's two hidden layers that is dropped in training.
    dtype : str

    References
    ----------
    Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015. The
    variants ``_bn``, with batch normalisation before each ReLU of the blocks, came after the paper.

    Examples
    --------
    >>> model = vgg11(classes=10, small_images=True)
    >>> list(model.parameters())[:3]
    ['features.0.weight', 'features.0.bias', 'features.3.weight']
    """
    return _vgg(11, False, classes, in_channels, small_images, seed, dropout, dtype)


@register_model("vgg11_bn")
def vgg11_bn(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dropout: float = 0.5,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return VGG with 11 weight layers and batch normalisation; see `vgg11`."""
    return _vgg(11, True, classes, in_channels, small_images, seed, dropout, dtype)


@register_model("vgg13")
def vgg13(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dropout: float = 0.5,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return VGG with 13 weight layers; see `vgg11`."""
    return _vgg(13, False, classes, in_channels, small_images, seed, dropout, dtype)


@register_model("vgg13_bn")
def vgg13_bn(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dropout: float = 0.5,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return VGG with 13 weight layers and batch normalisation; see `vgg11`."""
    return _vgg(13, True, classes, in_channels, small_images, seed, dropout, dtype)


@register_model("vgg16")
def vgg16(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dropout: float = 0.5,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return VGG with 16 weight layers; see `vgg11`."""
    return _vgg(16, False, classes, in_channels, small_images, seed, dropout, dtype)


@register_model("vgg16_bn")
def vgg16_bn(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dropout: float = 0.5,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return VGG with 16 weight layers and batch normalisation; see `vgg11`."""
    return _vgg(16, True, classes, in_channels, small_images, seed, dropout, dtype)


@register_model("vgg19")
def vgg19(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dropout: float = 0.5,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return VGG with 19 weight layers; see `vgg11`."""
    return _vgg(19, False, classes, in_channels, small_images, seed, dropout, dtype)


@register_model("vgg19_bn")
def vgg19_bn(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dropout: float = 0.5,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return VGG with 19 weight layers and batch normalisation; see `vgg11`."""
    return _vgg(19, True, classes, in_channels, small_images, seed, dropout, dtype)
