"""The book's ``ch08/deep_convnet.py``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from xpcnn.errors import ShapeError
from xpcnn.ops import ConvGeometry
from xpcnn.scratch._namespace import np
from xpcnn.scratch._network import Network
from xpcnn.scratch.layers import Affine, Convolution, Dropout, Pooling, Relu, SoftmaxWithLoss

__all__ = ["DeepConvNet"]


def _conv(filter_num: int, pad: int = 1) -> dict[str, int]:
    return {"filter_num": filter_num, "filter_size": 3, "pad": pad, "stride": 1}


class DeepConvNet(Network):
    """Three times conv – relu – conv – relu – pool, then affine – relu – dropout – affine – dropout.

    The core's is `xpcnn.models.deep_convnet`. Initial weights are He's, from the number of inputs that each
    layer has; the book writes these numbers down for its default filters.

    Parameters
    ----------
    input_dim : (C, H, W)
    conv_param_1 … conv_param_6 : dict
        ``filter_num``, ``filter_size``, ``pad`` and ``stride`` of each convolution.
    hidden_size, output_size : int

    Raises
    ------
    ShapeError
        If the images are too small to be pooled three times.

    Examples
    --------
    >>> from xpcnn.scratch.deep_convnet import DeepConvNet, np
    >>> network = DeepConvNet()
    >>> network.predict(np.zeros((2, 1, 28, 28))).shape
    (2, 10)
    >>> sum(value.size for value in network.params.values())
    123552
    """

    layers: list[Any]

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (1, 28, 28),
        conv_param_1: Mapping[str, int] = _conv(16),  # the book's defaults; only read
        conv_param_2: Mapping[str, int] = _conv(16),
        conv_param_3: Mapping[str, int] = _conv(32),
        conv_param_4: Mapping[str, int] = _conv(32, pad=2),
        conv_param_5: Mapping[str, int] = _conv(64),
        conv_param_6: Mapping[str, int] = _conv(64),
        hidden_size: int = 50,
        output_size: int = 10,
    ) -> None:
        self.params, self.layers = {}, []
        shape = tuple(input_dim)
        pairs = [(conv_param_1, conv_param_2), (conv_param_3, conv_param_4), (conv_param_5, conv_param_6)]
        for pair in pairs:
            for conv_param in pair:
                shape = self._add_convolution(shape, conv_param)
                self.layers.append(Relu())
            shape = (shape[0], shape[1] // 2, shape[2] // 2)
            if min(shape) < 1:
                raise ShapeError(
                    f"DeepConvNet: images of {tuple(input_dim)} are too small to be pooled three times"
                )
            self.layers.append(Pooling(pool_h=2, pool_w=2, stride=2))
        self._add_affine(math.prod(shape), hidden_size)
        self.layers += [Relu(), Dropout(0.5)]
        self._add_affine(hidden_size, output_size)
        self.layers.append(Dropout(0.5))
        self.last_layer = SoftmaxWithLoss()

    def _add_convolution(
        self, input_shape: tuple[int, ...], conv_param: Mapping[str, int]
    ) -> tuple[int, ...]:
        """Add a convolution with its parameters, and return the (C, H, W) that it makes of `input_shape`."""
        size = conv_param["filter_size"]
        filter_shape = (conv_param["filter_num"], input_shape[0], size, size)
        stride, pad = conv_param["stride"], conv_param["pad"]
        geometry = ConvGeometry.of((1, *input_shape), filter_shape, stride, pad, op="DeepConvNet")
        W, b = self._draw(math.prod(filter_shape[1:]), filter_shape, outputs=filter_shape[0])
        self.layers.append(Convolution(W, b, stride, pad))
        return geometry.output_shape[1:]

    def _add_affine(self, inputs: int, outputs: int) -> None:
        self.layers.append(Affine(*self._draw(inputs, (inputs, outputs), outputs)))

    def _draw(self, inputs: int, shape: tuple[int, ...], outputs: int) -> tuple[Any, Any]:
        """Draw the next layer's parameters: He's initial values for `inputs` inputs, and zeros."""
        number = len(self.params) // 2 + 1
        self.params[f"W{number}"] = math.sqrt(2.0 / inputs) * np.random.randn(*shape)
        self.params[f"b{number}"] = np.zeros(outputs)
        return self.params[f"W{number}"], self.params[f"b{number}"]
