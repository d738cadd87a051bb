"""ResNets for CIFAR: three stages of 16, 32 and 64 channels, and shortcuts without parameters."""

from __future__ import annotations

from typing import Any

from xpcnn import nn
from xpcnn.backend import Array, Key, backend_of, host_generator
from xpcnn.models._images import Images
from xpcnn.models.catalog import register_model
from xpcnn.models.resnet import conv_bn_relu_conv_bn

__all__ = ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"]

_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images


@nn.registered("ZeroChannels")
class ZeroChannels(nn.Layer):
    """Append channels of zeros: with a subsampling before it, the paper's shortcut A.

    Parameters
    ----------
    extra : int
        How many channels.
    """

    per_sample = True

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

    def backward(
        self, ctx: Any, dy: Array, grads: nn.Gradients | None = None, *, need_dx: bool = True
    ) -> Any:
        return dy[:, :ctx, :, :] if need_dx else None

    def extra_repr(self) -> str:
        return f"extra={self.extra}"


def _block(inputs: int, width: int, stride: int, options: dict[str, Any]) -> nn.Sequential:
    """Return a basic block whose shortcut takes every second pixel and appends zeros where shapes differ."""
    shortcut = None
    if stride != 1 or inputs != width:
        shortcut = nn.Sequential(nn.MaxPool2d(1, stride), ZeroChannels(width - inputs))
    body = conv_bn_relu_conv_bn(inputs, width, stride, options)
    return nn.Sequential({"": nn.Residual(body, shortcut), "relu": nn.ReLU()})


def _resnet(depth: int, classes: int, in_channels: int, seed: Any, dtype: Any) -> nn.Sequential:
    options: dict[str, Any] = {"seed": host_generator(seed), "dtype": dtype}
    blocks = (depth - 2) // 6
    stages: dict[str, nn.Layer] = {}
    inputs = 16
    for i, width in enumerate((16, 32, 64)):
        first = _block(inputs, width, 1 if i == 0 else 2, options)
        rest = (_block(width, width, 1, options) for _ in range(blocks - 1))
        stages[f"layer{i + 1}"] = nn.Sequential(first, *rest)
        inputs = width
    return nn.Sequential(
        {
            "": Images(f"resnet{depth}", in_channels, _MEAN, _STD, smallest=1, dtype=dtype),
            "conv1": nn.Conv2d(in_channels, 16, 3, padding=1, bias=False, **options),
            "bn1": nn.BatchNorm2d(16, dtype=dtype),
            "relu": nn.ReLU(),
            **stages,
        },
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(64, classes, **options),
    )


@register_model("resnet20")
def resnet20(
    classes: int = 10,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return the ResNet of 20 layers that was made for CIFAR, ending in logits.

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
    He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016, section 4.2: shortcuts of
    kind A, which have no parameters.

    Examples
    --------
    >>> sum(p.data.size for p in resnet20().parameters().values())
    269722
    """
    return _resnet(20, classes, in_channels, seed, dtype)


@register_model("resnet32")
def resnet32(
    classes: int = 10,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return the ResNet of 32 layers for CIFAR; see `resnet20`."""
    return _resnet(32, classes, in_channels, seed, dtype)


@register_model("resnet44")
def resnet44(
    classes: int = 10,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return the ResNet of 44 layers for CIFAR; see `resnet20`."""
    return _resnet(44, classes, in_channels, seed, dtype)


@register_model("resnet56")
def resnet56(
    classes: int = 10,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return the ResNet of 56 layers for CIFAR; see `resnet20`."""
    return _resnet(56, classes, in_channels, seed, dtype)


@register_model("resnet110")
def resnet110(
    classes: int = 10,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return the ResNet of 110 layers for CIFAR; see `resnet20`."""
    return _resnet(110, classes, in_channels, seed, dtype)
