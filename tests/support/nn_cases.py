"""Every layer, in the configurations worth testing, beside its PyTorch equivalent where there is one."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from xpcnn import nn


class Case(NamedTuple):
    """A layer, an input shape, PyTorch's equivalent, and whether to train."""

    layer: Callable[[], nn.Layer]
    shape: tuple[int, ...]
    torch: Callable[[Any], Any] | None = None  # of the module torch.nn, which may not be installed
    train: bool = False


def both(code, *shape, train=False):
    """A layer that is written alike for xpcnn.nn and torch.nn."""
    return Case(lambda: eval(code, vars(nn).copy()), shape, lambda t: eval(code, vars(t).copy()), train)


def small_net():
    """A model with each kind of container, and names of every depth."""
    return nn.Sequential(
        conv1=nn.Conv2d(1, 2, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(2),
        relu1=nn.ReLU(),
        block=nn.Residual(
            nn.Sequential(conv2=nn.Conv2d(2, 4, 3, padding=1), tanh=nn.Tanh()), nn.Conv2d(2, 4, 1)
        ),
        mix=nn.Concat(nn.Conv2d(4, 1, 1), wide=nn.Sequential(nn.Conv2d(4, 2, 3, padding=1), nn.ReLU())),
        pool=nn.MaxPool2d(2),
        drop=nn.Dropout(0.5),
        flatten=nn.Flatten(),
        fc=nn.Linear(12, 3),
    )


SMALL_NET_SHAPE = (2, 1, 4, 4)


def torch_residual(t):
    class Block(t.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = t.Conv2d(2, 3, 3, padding=1)
            self.tanh = t.Tanh()
            self.downsample = t.Conv2d(2, 3, 1)

        def forward(self, x):
            return self.tanh(self.conv1(x)) + self.downsample(x)

    return Block()


def torch_scaled_pool(t):
    class Subsampling(t.Module):
        def __init__(self):
            super().__init__()
            start = t.BatchNorm2d(3)  # for its two parameters, which the test overwrites
            self.weight, self.bias = start.weight, start.bias
            self.pool = t.AvgPool2d((2, 3), (2, 1))

        def forward(self, x):
            return self.pool(x) * self.weight[:, None, None] + self.bias[:, None, None]

    return Subsampling()


CASES = {
    "conv": both("Conv2d(2, 3, 3)", 2, 2, 4, 5),
    "conv strided, padded, dilated": both(
        "Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))", 1, 2, 5, 4
    ),
    "conv in groups": both("Conv2d(4, 6, 3, stride=2, padding=1, groups=2)", 1, 4, 5, 5),
    "conv by channel": both("Conv2d(3, 3, 2, groups=3, bias=False)", 2, 3, 3, 3),
    "conv same": both("Conv2d(1, 2, 3, padding='same', dilation=2)", 1, 1, 5, 5),
    "conv same, even kernel": Case(lambda: nn.Conv2d(1, 2, (4, 2), padding="same"), (1, 1, 5, 4)),
    "conv valid": both("Conv2d(1, 2, 3, padding='valid')", 1, 1, 4, 4),
    "conv transposed": both("ConvTranspose2d(2, 3, 2, stride=2)", 2, 2, 2, 3),
    "conv transposed, padded, dilated": both(
        "ConvTranspose2d(2, 3, (3, 2), (2, 1), (1, 0), (1, 0), dilation=(1, 2))", 1, 2, 3, 3
    ),
    "conv transposed in groups": both(
        "ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False)", 1, 4, 2, 3
    ),
    "linear": both("Linear(4, 3)", 2, 4),
    "linear without bias": both("Linear(4, 3, bias=False)", 2, 4),
    "linear over a sequence": both("Linear(4, 3)", 2, 3, 4),
    "max pool": both("MaxPool2d(2)", 1, 2, 5, 4),
    "max pool padded": both("MaxPool2d(3, 2, 1, ceil_mode=True)", 1, 2, 6, 5),
    "avg pool": both("AvgPool2d((2, 3), 1)", 1, 2, 4, 4),
    "avg pool without padding's zeros": both(
        "AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)", 1, 2, 6, 5
    ),
    "adaptive avg pool": both("AdaptiveAvgPool2d((2, 3))", 1, 2, 5, 4),
    "scaled avg pool": Case(lambda: nn.ScaledAvgPool2d(3, (2, 3), (2, 1)), (2, 3, 5, 4), torch_scaled_pool),
    "ensemble": Case(lambda: nn.Ensemble(nn.Linear(4, 3), nn.Linear(4, 3)), (5, 4)),
    "ensemble, geometric": Case(
        lambda: nn.Ensemble(nn.Linear(4, 3), nn.Linear(4, 3, bias=False), vote="geometric"), (5, 4)
    ),
    "scaled avg pool by halves": Case(lambda: nn.ScaledAvgPool2d(2, 2), (1, 2, 4, 4)),
    "batch norm 1d, training": both("BatchNorm1d(3)", 4, 3, train=True),
    "batch norm 1d": both("BatchNorm1d(3)", 4, 3),
    "batch norm 1d of sequences": both("BatchNorm1d(3)", 2, 3, 4, train=True),
    "batch norm 2d, training": both("BatchNorm2d(2, eps=0.1, momentum=0.3)", 3, 2, 2, 3, train=True),
    "batch norm 2d": both("BatchNorm2d(2)", 2, 2, 2, 3),
    "batch norm without weights": both("BatchNorm2d(2, affine=False)", 2, 2, 2, 3, train=True),
    "layer norm": both("LayerNorm(4)", 3, 4),
    "layer norm of images": both("LayerNorm((2, 3, 2), eps=0.1)", 2, 2, 3, 2),
    "layer norm without weights": Case(
        lambda: nn.LayerNorm([3, 2], affine=False),
        (2, 2, 3, 2),
        lambda t: t.LayerNorm([3, 2], elementwise_affine=False),
    ),
    "group norm": both("GroupNorm(2, 4)", 2, 4, 2, 2),
    "group norm of features": both("GroupNorm(3, 6, eps=0.1)", 2, 6),
    "group norm without weights": both("GroupNorm(1, 3, affine=False)", 2, 3, 2, 2),
    "local response norm": both("LocalResponseNorm(3, 0.5, 0.75, 2.0)", 2, 5, 2, 2),
    "local response norm, even": both("LocalResponseNorm(4, alpha=0.5)", 1, 5, 2, 2),
    "dropout": both("Dropout(0.5)", 2, 3, 4),
    "dropout, training": Case(lambda: nn.Dropout(0.4), (2, 3, 4), None, True),
    "relu": both("ReLU()", 2, 3, 2),
    "leaky relu": both("LeakyReLU(0.2)", 2, 3, 2),
    "sigmoid": both("Sigmoid()", 2, 3, 2),
    "tanh": both("Tanh()", 2, 3, 2),
    "gelu": both("GELU()", 2, 3, 2),
    "silu": both("SiLU()", 2, 3, 2),
    "softmax": Case(nn.Softmax, (2, 5), lambda t: t.Softmax(-1)),
    "softmax over channels": both("Softmax(1)", 1, 3, 2, 2),
    "flatten": both("Flatten()", 2, 3, 2, 2),
    "identity": both("Identity()", 2, 3),
    "sequential": Case(
        lambda: nn.Sequential(fc1=nn.Linear(3, 4), tanh=nn.Tanh(), fc2=nn.Linear(4, 2)),
        (2, 3),
        lambda t: t.Sequential(OrderedDict(fc1=t.Linear(3, 4), tanh=t.Tanh(), fc2=t.Linear(4, 2))),
    ),
    "sequential by position": both(
        "Sequential(Conv2d(1, 2, 2, bias=False), BatchNorm2d(2), ReLU())", 2, 1, 3, 3, train=True
    ),
    "sequential of nothing": both("Sequential()", 2, 3),
    "residual": Case(lambda: nn.Residual(nn.Sequential(nn.Linear(3, 3), nn.Tanh())), (2, 3)),
    "residual with a projection": Case(
        lambda: nn.Residual(
            nn.Sequential(conv1=nn.Conv2d(2, 3, 3, padding=1), tanh=nn.Tanh()), nn.Conv2d(2, 3, 1)
        ),
        (1, 2, 3, 3),
        torch_residual,
    ),
    "concat": Case(
        lambda: nn.Concat(nn.Conv2d(2, 1, 1), nn.Identity(), wide=nn.Conv2d(2, 2, 3, padding=1)), (2, 2, 3, 2)
    ),
    "nested": Case(small_net, SMALL_NET_SHAPE, None, True),
}
