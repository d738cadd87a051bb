"""The book's ``ch08/deep_convnet.py``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from xpcnn.scratch._network import Network
from xpcnn.scratch.layers import Affine, Dropout, Relu, SoftmaxWithLoss

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
    >>> from xpcnn.scratch import np
    >>> from xpcnn.scratch.deep_convnet import DeepConvNet
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
                convolution, shape = self._convolution(shape, conv_param)
                self.layers += [convolution, Relu()]
            pooling, shape = self._pooling(shape)
            self.layers.append(pooling)
        self.layers += [Affine(*self._draw(None, math.prod(shape), hidden_size)), Relu(), Dropout(0.5)]
        self.layers += [Affine(*self._draw(None, hidden_size, output_size)), Dropout(0.5)]
        self.last_layer = SoftmaxWithLoss()
