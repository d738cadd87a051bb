"""What a network is made of, in words that PyTorch's side of the benchmark builds the same from."""

from __future__ import annotations

from typing import Any

from xpcnn import nn
from xpcnn.backend.torch_peer import Spec
from xpcnn.errors import ArgumentError

__all__ = ["spec_of"]


def spec_of(layer: nn.Layer) -> Spec:
    """Return a layer as PyTorch's name for its kind and what PyTorch's constructor takes.

    Raises
    ------
    ArgumentError
        For a kind of layer that no benchmark has needed so far.

    Examples
    --------
    >>> spec_of(nn.Linear(2, 3))
    ('Linear', {'in_features': 2, 'out_features': 3, 'bias': True})
    """
    kind = type(layer).__name__
    options: dict[str, Any]
    match layer:
        case nn.Sequential():
            options = {"layers": [spec_of(child) for child in layer.children().values()]}
        case nn.Residual():
            body, *shortcut = layer.children().values()
            options = {"body": spec_of(body), "shortcut": spec_of(shortcut[0]) if shortcut else None}
        case nn.Conv2d():
            outputs, channels, *kernel = layer.weight.data.shape
            options = {
                "in_channels": channels * layer.groups,
                "out_channels": outputs,
                "kernel_size": tuple(kernel),
                "stride": layer.stride,
                "padding": layer.padding,
                "dilation": layer.dilation,
                "groups": layer.groups,
                "bias": layer.bias is not None,
            }
        case nn.Linear():
            outputs, inputs = layer.weight.data.shape
            options = {"in_features": inputs, "out_features": outputs, "bias": layer.bias is not None}
        case nn.BatchNorm2d():
            (features,) = layer.running_mean.data.shape
            options = {"num_features": features, "eps": layer.eps, "momentum": layer.momentum}
        case nn.MaxPool2d():
            options = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
        case nn.AdaptiveAvgPool2d():
            options = {"output_size": layer.output_size}
        case nn.Dropout():
            options = {"p": layer.p}
        case nn.ReLU() | nn.Flatten() | nn.Identity():
            options = {}
        case nn.Preprocess():
            return "Identity", {}  # floating images pass as they are
        case _:
            raise ArgumentError(f"xpcnn bench: PyTorch's side cannot build a layer of the kind {kind}")
    return kind, options
