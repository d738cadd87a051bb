"""The book's ``ch07/simple_convnet.py``."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

from xpcnn.scratch._network import Network
from xpcnn.scratch.layers import Affine, Relu, SoftmaxWithLoss

__all__ = ["SimpleConvNet"]


class SimpleConvNet(Network):
    """conv – relu – pool – affine – relu – affine – softmax; the core's is `xpcnn.models.simple_convnet`.

    Parameters
    ----------
    input_dim : (C, H, W)
    conv_param : dict
        ``filter_num``, ``filter_size``, ``pad`` and ``stride``.
    hidden_size, output_size : int
    weight_init_std : float
        The standard deviation of the initial weights, which ``np.random.randn`` draws: after the same
        ``np.random.seed`` they are the book's.

    Raises
    ------
    ShapeError
        If the images are too small to be pooled.

    Examples
    --------
    >>> from xpcnn.scratch import np
    >>> from xpcnn.scratch.simple_convnet import SimpleConvNet
    >>> network = SimpleConvNet()
    >>> network.predict(np.zeros((2, 1, 28, 28))).shape
    (2, 10)
    >>> {key: value.shape for key, value in network.params.items() if key[0] == "W"}
    {'W1': (30, 1, 5, 5), 'W2': (4320, 100), 'W3': (100, 10)}
    """

    layers: OrderedDict[str, object]

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (1, 28, 28),
        conv_param: Mapping[str, int] = {"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1},
        hidden_size: int = 100,
        output_size: int = 10,
        weight_init_std: float = 0.01,
    ) -> None:
        self.params = {}
        convolution, shape = self._convolution(input_dim, conv_param, weight_init_std)
        pooling, shape = self._pooling(shape)
        self.layers = OrderedDict(
            Conv1=convolution,
            Relu1=Relu(),
            Pool1=pooling,
            Affine1=Affine(*self._draw(weight_init_std, math.prod(shape), hidden_size)),
            Relu2=Relu(),
            Affine2=Affine(*self._draw(weight_init_std, hidden_size, output_size)),
        )
        self.last_layer = SoftmaxWithLoss()
