"""ResNets for large images: layers learn what to add to their input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from xpcnn import nn
from xpcnn.backend import host_generator
from xpcnn.models._images import imagenet_images
from xpcnn.models.catalog import register_variant

__all__ = ["basic_block", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "stages_of"]

_WIDTH = 64

Options = dict[str, Any]


def _conv(inputs: int, outputs: int, kernel: int, stride: int, options: Options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False, **options)


def _bn(channels: int, options: Options) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, dtype=options["dtype"])


# -- blocks: what is added to the shortcut, from `inputs` channels -----------------------------


def basic_block(inputs: int, width: int, stride: int, options: Options) -> nn.Sequential:
    """Return two 3×3 convolutions, ending in `width` channels."""
    return nn.Sequential(
        conv1=_conv(inputs, width, 3, stride, options),
        bn1=_bn(width, options),
        relu=nn.ReLU(),
        conv2=_conv(width, width, 3, 1, options),
        bn2=_bn(width, options),
    )


def _bottleneck(inputs: int, width: int, stride: int, options: Options) -> nn.Sequential:
    """Return a 3×3 convolution on `width` channels between two 1×1 convolutions, ending in 4·`width`.

    The stride is the 3×3 convolution's, as in PyTorch; the paper had it in the first 1×1.
    """
    return nn.Sequential(
        conv1=_conv(inputs, width, 1, 1, options),
        bn1=_bn(width, options),
        relu1=nn.ReLU(),
        conv2=_conv(width, width, 3, stride, options),
        bn2=_bn(width, options),
        relu2=nn.ReLU(),
        conv3=_conv(width, 4 * width, 1, 1, options),
        bn3=_bn(4 * width, options),
    )


_BLOCKS = {
    "resnet18": (basic_block, (2, 2, 2, 2)),
    "resnet34": (basic_block, (3, 4, 6, 3)),
    "resnet50": (_bottleneck, (3, 4, 6, 3)),
    "resnet101": (_bottleneck, (3, 4, 23, 3)),
    "resnet152": (_bottleneck, (3, 8, 36, 3)),
}


# -- shortcuts where the block changes the shape -----------------------------------------------


def _projection(inputs: int, outputs: int, stride: int, options: Options) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs, 1, stride, options), _bn(outputs, options))


# -- networks ----------------------------------------------------------------------------------


def stages_of(
    width: int,
    block: Callable[[int, int, int, Options], nn.Sequential],
    counts: Sequence[int],
    shortcut: Callable[[int, int, int, Options], nn.Sequential],
    options: Options,
) -> tuple[dict[str, nn.Layer], int]:
    """Return a stage of blocks for each count, and the channels of the last one.

    Each stage but the first begins with a stride of 2, and has twice the width of the one before it.
    """
    stages: dict[str, nn.Layer] = {}
    inputs = width
    for number, count in enumerate(counts):
        stage = []
        for i in range(count):
            stride = 2 if number and not i else 1
            body = block(inputs, width << number, stride, options)
            outputs = (width << number) * (4 if block is _bottleneck else 1)
            fits = stride == 1 and inputs == outputs
            around = nn.Residual(body, None if fits else shortcut(inputs, outputs, stride, options))
            stage.append(nn.Sequential({"": around, "relu": nn.ReLU()}))
            inputs = outputs
        stages[f"layer{number + 1}"] = nn.Sequential(*stage)
    return stages, inputs


def _resnet(
    name: str,
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return a ResNet, ending in logits; parameters have torchvision's names, shapes and order.

    The number is that of layers with weights. ResNet-18 and 34 are made of pairs of 3×3 convolutions, the
    deeper ones of bottlenecks.

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
    options: Options = {"seed": host_generator(seed), "dtype": dtype}
    kernel, stride = (3, 1) if small_images else (7, 2)
    stem: dict[str, nn.Layer] = {
        "": imagenet_images(name, in_channels, 1, small_images, dtype),
        "conv1": _conv(in_channels, _WIDTH, kernel, stride, options),
        "bn1": _bn(_WIDTH, options),
        "relu": nn.ReLU(),
    }
    if not small_images:
        stem["maxpool"] = nn.MaxPool2d(3, 2, 1)
    stages, channels = stages_of(_WIDTH, *_BLOCKS[name], _projection, options)
    return nn.Sequential(
        {**stem, **stages},
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(channels, classes, **options),
    )


resnet18 = register_variant("resnet18", _resnet)
resnet34 = register_variant("resnet34", _resnet)
resnet50 = register_variant("resnet50", _resnet)
resnet101 = register_variant("resnet101", _resnet)
resnet152 = register_variant("resnet152", _resnet)
