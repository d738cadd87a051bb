"""ResNets for CIFAR: three stages of 16, 32 and 64 channels, and shortcuts without parameters."""

from __future__ import annotations

from typing import Any

from xpcnn import nn
from xpcnn.backend import Array, Key, backend_of, host_generator
from xpcnn.models._images import Images
from xpcnn.models.catalog import register_variant
from xpcnn.models.resnet import basic_block, stages_of

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

    def backward(
        self, ctx: Any, dy: Array, grads: nn.Gradients | None = None, *, need_dx: bool = True
    ) -> Any:
        return dy[:, :ctx, :, :] if need_dx else None


def _subsampling(inputs: int, outputs: int, stride: int, options: dict[str, Any]) -> nn.Sequential:
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
    options: dict[str, Any] = {"seed": host_generator(seed), "dtype": dtype}
    blocks = (int(name.removeprefix("resnet")) - 2) // 6
    stages, channels = stages_of(16, basic_block, [blocks] * 3, _subsampling, options)
    return nn.Sequential(
        {
            "": Images(name, in_channels, _MEAN, _STD, smallest=1, dtype=dtype),
            "conv1": nn.Conv2d(in_channels, 16, 3, padding=1, bias=False, **options),
            "bn1": nn.BatchNorm2d(16, dtype=dtype),
            "relu": nn.ReLU(),
            **stages,
        },
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(channels, classes, **options),
    )


resnet20 = register_variant("resnet20", _resnet_cifar)
resnet32 = register_variant("resnet32", _resnet_cifar)
resnet44 = register_variant("resnet44", _resnet_cifar)
resnet56 = register_variant("resnet56", _resnet_cifar)
resnet110 = register_variant("resnet110", _resnet_cifar)
