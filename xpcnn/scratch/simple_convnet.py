"""The book's ``ch07/simple_convnet.py``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from xpcnn.errors import ShapeError
from xpcnn.ops import ConvGeometry
from xpcnn.scratch._namespace import np
from xpcnn.scratch._network import Network
from xpcnn.scratch.layers import Affine, Convolution, Pooling, Relu, SoftmaxWithLoss

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
    >>> from xpcnn.scratch.simple_convnet import SimpleConvNet, np
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
        filters, size = conv_param["filter_num"], conv_param["filter_size"]
        stride, pad = conv_param["stride"], conv_param["pad"]
        filter_shape = (filters, input_dim[0], size, size)
        geometry = ConvGeometry.of((1, *input_dim), filter_shape, stride, pad, op="SimpleConvNet")
        oh, ow = geometry.output_size
        if min(oh, ow) < 2:
            raise ShapeError(
                f"SimpleConvNet: input_dim {tuple(input_dim)} leaves {oh}x{ow} after the convolution, "
                f"too little for the 2x2 pooling"
            )

        self.params = {
            "W1": weight_init_std * np.random.randn(*filter_shape),
            "b1": np.zeros(filters),
            "W2": weight_init_std * np.random.randn(filters * (oh // 2) * (ow // 2), hidden_size),
            "b2": np.zeros(hidden_size),
            "W3": weight_init_std * np.random.randn(hidden_size, output_size),
            "b3": np.zeros(output_size),
        }
        params = self.params
        self.layers = OrderedDict(
            Conv1=Convolution(params["W1"], params["b1"], stride, pad),
            Relu1=Relu(),
            Pool1=Pooling(pool_h=2, pool_w=2, stride=2),
            Affine1=Affine(params["W2"], params["b2"]),
            Relu2=Relu(),
            Affine2=Affine(params["W3"], params["b3"]),
        )
        self.last_layer = SoftmaxWithLoss()
