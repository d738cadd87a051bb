"""ResNets, for large images and for CIFAR: layers learn what to add to their input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from xpcnn import nn
from xpcnn.backend import Array, Key, backend_of, host_generator
from xpcnn.models._images import Images, imagenet_images
from xpcnn.models.catalog import register_variant
from xpcnn.nn import Gradients

__all__ = [
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
]

_WIDTH = 64

Options = dict[str, Any]


def _conv(inputs: int, outputs: int, kernel: int, stride: int, options: Options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False, **options)


def _bn(channels: int, options: Options) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, dtype=options["dtype"])


# -- blocks: what is added to the shortcut, from `inputs` channels -----------------------------


def _basic_block(inputs: int, width: int, stride: int, options: Options) -> nn.Sequential:
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
    "resnet18": (_basic_block, (2, 2, 2, 2)),
    "resnet34": (_basic_block, (3, 4, 6, 3)),
    "resnet50": (_bottleneck, (3, 4, 6, 3)),
    "resnet101": (_bottleneck, (3, 4, 23, 3)),
    "resnet152": (_bottleneck, (3, 8, 36, 3)),
}


# -- shortcuts where the block changes the shape -----------------------------------------------


def _projection(inputs: int, outputs: int, stride: int, options: Options) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs, 1, stride, options), _bn(outputs, options))


# -- networks ----------------------------------------------------------------------------------


def _stages_of(
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
    stages, channels = _stages_of(_WIDTH, *_BLOCKS[name], _projection, options)
    return nn.Sequential(
        {**stem, **stages},
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(channels, classes, **options),
    )


resnet18, resnet34, resnet50, resnet101, resnet152 = (register_variant(name, _resnet) for name in _BLOCKS)


# -- for CIFAR -----------------------------------------------------------------------------------

_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images


@nn.registered("ZeroChannels")
class ZeroChannels(nn.Layer):
    """Append channels of zeros: with a subsampling before it, the paper's shortcut A.

    Parameters
    ----------
    extra : int
        How many channels.
    """

    batch_independent = True

    def __init__(self, extra: int) -> None:
        self.extra = extra

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        backend = backend_of(x)
        xp = backend.xp
        n, channels, height, width = x.shape
        zeros = xp.zeros((n, height, width, self.extra), dtype=x.dtype, device=backend.device)
        # Joined as channels-last memory, which is what comes in and what the body gives.
        joined = xp.concat([xp.permute_dims(x, (0, 2, 3, 1)), zeros], axis=3)
        return xp.permute_dims(joined, (0, 3, 1, 2)), channels

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return dy[:, :ctx, :, :] if need_dx else None


def _subsampling(inputs: int, outputs: int, stride: int, options: Options) -> nn.Sequential:
    return nn.Sequential(nn.MaxPool2d(1, stride), ZeroChannels(outputs - inputs))


def _resnet_cifar(
    name: str,
    classes: int = 10,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return one of the ResNets that were made for CIFAR, ending in logits.

    Three stages of 16, 32 and 64 channels, and shortcuts without parameters (the paper's kind A). The number
    is that of layers with weights.

    Parameters
    ----------
    classes, in_channels : int
    small_images : bool
        Changes nothing: 32×32 is the published size; any other will do.
    seed : int or NumPy generator
        What the initial weights are drawn from.
    dtype : str

    References
    ----------
    He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016, section 4.2.

    Examples
    --------
    >>> sum(p.data.size for p in resnet20().parameters().values())
    269722
    """
    options: Options = {"seed": host_generator(seed), "dtype": dtype}
    blocks = (int(name.removeprefix("resnet")) - 2) // 6
    stages, channels = _stages_of(16, _basic_block, [blocks] * 3, _subsampling, options)
    return nn.Sequential(
        {
            "": Images(name, in_channels, _CIFAR_MEAN, _CIFAR_STD, smallest=1, dtype=dtype),
            "conv1": _conv(in_channels, 16, 3, 1, options),
            "bn1": _bn(16, options),
            "relu": nn.ReLU(),
            **stages,
        },
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(channels, classes, **options),
    )


resnet20, resnet32, resnet44, resnet56, resnet110 = (
    register_variant(f"resnet{layers}", _resnet_cifar) for layers in (20, 32, 44, 56, 110)
)
