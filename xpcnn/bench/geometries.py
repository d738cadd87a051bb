"""What is measured, by name: the one table of shapes that the command line and pytest share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from xpcnn.ops import ConvGeometry

__all__ = ["BATCHES", "CONVOLUTIONS", "LAYERS", "NETWORKS", "SIZES", "LayerCase", "NetworkCase", "described"]


def _conv(
    shape: tuple[int, int, int, int],
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> ConvGeometry:
    weight = (outputs, shape[1] // groups, kernel, kernel)
    return ConvGeometry.of(shape, weight, stride, padding, dilation, groups)


CONVOLUTIONS: Mapping[str, ConvGeometry] = {
    # One image: sizes that the loops finish at once.
    "tiny": _conv((1, 1, 28, 28), 8, 3),
    "simple-1": _conv((1, 1, 28, 28), 30, 5),
    # The articles' networks, a batch of MNIST.
    "simple": _conv((100, 1, 28, 28), 30, 5),
    "deep": _conv((100, 16, 28, 28), 16, 3, padding=1),
    # VGG and ResNet.
    "stem": _conv((8, 3, 224, 224), 64, 7, stride=2, padding=3),
    "56x56": _conv((32, 64, 56, 56), 64, 3, padding=1),
    "28x28": _conv((32, 128, 28, 28), 128, 3, padding=1),
    "14x14": _conv((32, 256, 14, 14), 256, 3, padding=1),
    "stride-2": _conv((32, 128, 28, 28), 256, 3, stride=2, padding=1),
    "1x1": _conv((32, 256, 56, 56), 64, 1),
    # What the others do not have.
    "large-kernel": _conv((8, 32, 56, 56), 32, 11, padding=5),
    "depthwise": _conv((32, 64, 56, 56), 64, 3, padding=1, groups=64),
    "dilated": _conv((8, 64, 56, 56), 64, 3, padding=2, dilation=2),
}

BATCHES: Mapping[str, ConvGeometry] = {
    f"batch-{n}": _conv((n, 32, 28, 28), 32, 3, padding=1) for n in (1, 2, 4, 8, 16, 32, 64)
}
"""One convolution for more and more images."""

SIZES: Mapping[str, ConvGeometry] = {
    f"size-{size}": _conv((4, 32, size, size), 32, 3, padding=1) for size in (7, 14, 28, 56, 112)
}
"""One convolution of larger and larger images."""


class LayerCase(NamedTuple):
    """A layer on one shape: the op by its name, and its arguments."""

    op: str
    shape: tuple[int, int, int, int]
    options: Mapping[str, Any]


LAYERS: Mapping[str, LayerCase] = {
    "max-pool-2": LayerCase("max_pool2d", (100, 30, 24, 24), {"kernel_size": 2}),
    "max-pool-3": LayerCase("max_pool2d", (8, 64, 112, 112), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "avg-pool-2": LayerCase("avg_pool2d", (100, 30, 24, 24), {"kernel_size": 2}),
    "batch-norm": LayerCase("batch_norm", (32, 64, 56, 56), {}),
    "relu": LayerCase("relu", (32, 64, 56, 56), {}),
}


class NetworkCase(NamedTuple):
    """A published model with its arguments, and the images of a step (N, C, H, W)."""

    model: str
    options: Mapping[str, Any]
    shape: tuple[int, int, int, int]


NETWORKS: Mapping[str, NetworkCase] = {
    "simple_convnet": NetworkCase("simple_convnet", {}, (100, 1, 28, 28)),
    "deep_convnet": NetworkCase("deep_convnet", {}, (100, 1, 28, 28)),
    "resnet18-cifar": NetworkCase("resnet18", {"classes": 10, "small_images": True}, (32, 3, 32, 32)),
}


def described(geometry: ConvGeometry) -> str:
    """Return a geometry in words.

    Examples
    --------
    >>> described(CONVOLUTIONS["stem"])
    '8x3x224x224 to 64, kernel 7x7, stride 2, padding 3'
    >>> described(CONVOLUTIONS["depthwise"])
    '32x64x56x56 to 64, kernel 3x3, padding 1, groups 64'
    """
    said = [f"{'x'.join(map(str, geometry.input_shape))} to {geometry.k}"]
    said.append(f"kernel {'x'.join(map(str, geometry.kernel))}")
    extras = {"stride": (geometry.stride, 1), "padding": (geometry.padding, 0)}
    extras |= {"dilation": (geometry.dilation, 1)}
    for name, (values, usual) in extras.items():
        if set(values) != {usual}:
            said.append(f"{name} {values[0] if len(set(values)) == 1 else values}")
    if geometry.groups > 1:
        said.append(f"groups {geometry.groups}")
    return ", ".join(said)
