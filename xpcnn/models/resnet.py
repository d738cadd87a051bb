"""ResNets for large images: layers learn what to add to their input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xpcnn import nn
from xpcnn.backend import host_generator
from xpcnn.models._images import IMAGENET_MEAN, IMAGENET_STD, Images
from xpcnn.models.catalog import register_model

__all__ = ["conv_bn_relu_conv_bn", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]

Block = Callable[[int, int, int, dict[str, Any]], nn.Sequential]


def conv_bn_relu_conv_bn(inputs: int, width: int, stride: int, options: dict[str, Any]) -> nn.Sequential:
    """Return what a basic block adds to its shortcut: two 3×3 convolutions, `width` channels."""
    return nn.Sequential(
        conv1=_conv(inputs, width, 3, stride, options),
        bn1=_bn(width, options),
        relu=nn.ReLU(),
        conv2=_conv(width, width, 3, 1, options),
        bn2=_bn(width, options),
    )


def _basic_block(inputs: int, width: int, stride: int, options: dict[str, Any]) -> nn.Sequential:
    """Return relu(body + shortcut), from `inputs` to `width` channels."""
    body = conv_bn_relu_conv_bn(inputs, width, stride, options)
    return _around(body, inputs, width, stride, options)


def _bottleneck(inputs: int, width: int, stride: int, options: dict[str, Any]) -> nn.Sequential:
    """Return the block that does its 3×3 convolution on `width` channels, between two 1×1 convolutions.

    It ends in 4·`width` channels. The stride is the 3×3 convolution's, as in PyTorch; the paper had it in the
    first 1×1.
    """
    body = nn.Sequential(
        conv1=_conv(inputs, width, 1, 1, options),
        bn1=_bn(width, options),
        relu1=nn.ReLU(),
        conv2=_conv(width, width, 3, stride, options),
        bn2=_bn(width, options),
        relu2=nn.ReLU(),
        conv3=_conv(width, 4 * width, 1, 1, options),
        bn3=_bn(4 * width, options),
    )
    return _around(body, inputs, 4 * width, stride, options)


def _around(
    body: nn.Sequential, inputs: int, outputs: int, stride: int, options: dict[str, Any]
) -> nn.Sequential:
    """Return relu(body + shortcut); the shortcut is a projection where the shapes differ."""
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride, options), _bn(outputs, options))
    return nn.Sequential({"": nn.Residual(body, shortcut), "relu": nn.ReLU()})


def _conv(inputs: int, outputs: int, kernel: int, stride: int, options: dict[str, Any]) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False, **options)


def _bn(channels: int, options: dict[str, Any]) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, dtype=options["dtype"])


def _stage(
    block: Block, inputs: int, width: int, blocks: int, stride: int, options: dict[str, Any], expansion: int
) -> nn.Sequential:
    """Return `blocks` blocks in a row, of which the first has the stride."""
    rest = (block(width * expansion, width, 1, options) for _ in range(blocks - 1))
    return nn.Sequential(block(inputs, width, stride, options), *rest)


def _resnet(
    name: str,
    block: Block,
    blocks: tuple[int, int, int, int],
    classes: int,
    in_channels: int,
    small_images: bool,
    seed: Any,
    dtype: Any,
    width: int = 64,
) -> nn.Sequential:
    options: dict[str, Any] = {"seed": host_generator(seed), "dtype": dtype}
    expansion = 4 if block is _bottleneck else 1
    if small_images:
        stem: dict[str, nn.Layer] = {
            "conv1": _conv(in_channels, width, 3, 1, options),
            "bn1": _bn(width, options),
            "relu": nn.ReLU(),
        }
    else:
        stem = {
            "conv1": _conv(in_channels, width, 7, 2, options),
            "bn1": _bn(width, options),
            "relu": nn.ReLU(),
            "maxpool": nn.MaxPool2d(3, 2, 1),
        }
    stages: dict[str, nn.Layer] = {}
    inputs = width
    for i, count in enumerate(blocks):
        stages[f"layer{i + 1}"] = _stage(
            block, inputs, width << i, count, 1 if i == 0 else 2, options, expansion
        )
        inputs = (width << i) * expansion
    images = Images(name, in_channels, IMAGENET_MEAN, IMAGENET_STD, smallest=1, dtype=dtype)
    return nn.Sequential(
        {"": images, **stem, **stages},
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(inputs, classes, **options),
    )


@register_model("resnet18")
def resnet18(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return ResNet-18, ending in logits; parameters have torchvision's names, shapes and order.

    Parameters
    ----------
    classes, in_channels : int
    small_images : bool
        For images of about 32×32: the first convolution is 3×3 with stride 1, and the max-pooling after it is
        left out. Without it, 224×224 is the published size; any other will do.
    seed : int or NumPy generator
        What the initial weights are drawn from.
    dtype : str

    References
    ----------
    He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016.

    Examples
    --------
    >>> model = resnet18(small_images=True)
    >>> list(model.parameters())[:4]
    ['conv1.weight', 'bn1.weight', 'bn1.bias', 'layer1.0.conv1.weight']
    """
    return _resnet("resnet18", _basic_block, (2, 2, 2, 2), classes, in_channels, small_images, seed, dtype)


@register_model("resnet34")
def resnet34(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return ResNet-34; see `resnet18`."""
    return _resnet("resnet34", _basic_block, (3, 4, 6, 3), classes, in_channels, small_images, seed, dtype)


@register_model("resnet50")
def resnet50(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return ResNet-50, built of bottlenecks; see `resnet18`."""
    return _resnet("resnet50", _bottleneck, (3, 4, 6, 3), classes, in_channels, small_images, seed, dtype)


@register_model("resnet101")
def resnet101(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return ResNet-101, built of bottlenecks; see `resnet18`."""
    return _resnet("resnet101", _bottleneck, (3, 4, 23, 3), classes, in_channels, small_images, seed, dtype)


@register_model("resnet152")
def resnet152(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return ResNet-152, built of bottlenecks; see `resnet18`."""
    return _resnet("resnet152", _bottleneck, (3, 8, 36, 3), classes, in_channels, small_images, seed, dtype)
