"""Every layer, in the configurations worth testing, beside its PyTorch equivalent where there is one."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from xpcnn import nn

# Functions of the module torch.nn, which may not be installed.
TorchFactory = Callable[[Any], Any]


class Case(NamedTuple):
    """A layer, an input shape, PyTorch's equivalent, and whether to train."""

    layer: Callable[[], nn.Layer]
    shape: tuple[int, ...]
    torch: TorchFactory | None = None
    train: bool = False


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
    "conv": Case(lambda: nn.Conv2d(2, 3, 3), (2, 2, 4, 5), lambda t: t.Conv2d(2, 3, 3)),
    "conv strided, padded, dilated": Case(
        lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        (1, 2, 5, 4),
        lambda t: t.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    ),
    "conv in groups": Case(
        lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        (1, 4, 5, 5),
        lambda t: t.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
    ),
    "conv by channel": Case(
        lambda: nn.Conv2d(3, 3, 2, groups=3, bias=False),
        (2, 3, 3, 3),
        lambda t: t.Conv2d(3, 3, 2, groups=3, bias=False),
    ),
    "conv same": Case(
        lambda: nn.Conv2d(1, 2, 3, padding="same", dilation=2),
        (1, 1, 5, 5),
        lambda t: t.Conv2d(1, 2, 3, padding="same", dilation=2),
    ),
    "conv same, even kernel": Case(lambda: nn.Conv2d(1, 2, (4, 2), padding="same"), (1, 1, 5, 4)),
    "conv valid": Case(lambda: nn.Conv2d(1, 2, 3, padding="valid"), (1, 1, 4, 4)),
    "conv transposed": Case(
        lambda: nn.ConvTranspose2d(2, 3, 2, stride=2),
        (2, 2, 2, 3),
        lambda t: t.ConvTranspose2d(2, 3, 2, stride=2),
    ),
    "conv transposed, padded, dilated": Case(
        lambda: nn.ConvTranspose2d(2, 3, (3, 2), (2, 1), (1, 0), (1, 0), dilation=(1, 2)),
        (1, 2, 3, 3),
        lambda t: t.ConvTranspose2d(2, 3, (3, 2), (2, 1), (1, 0), (1, 0), dilation=(1, 2)),
    ),
    "conv transposed in groups": Case(
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False),
        (1, 4, 2, 3),
        lambda t: t.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False),
    ),
    "linear": Case(lambda: nn.Linear(4, 3), (2, 4), lambda t: t.Linear(4, 3)),
    "linear without bias": Case(
        lambda: nn.Linear(4, 3, bias=False), (2, 4), lambda t: t.Linear(4, 3, bias=False)
    ),
    "linear over a sequence": Case(lambda: nn.Linear(4, 3), (2, 3, 4), lambda t: t.Linear(4, 3)),
    "max pool": Case(lambda: nn.MaxPool2d(2), (1, 2, 5, 4), lambda t: t.MaxPool2d(2)),
    "max pool padded": Case(
        lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        (1, 2, 6, 5),
        lambda t: t.MaxPool2d(3, 2, 1, ceil_mode=True),
    ),
    "avg pool": Case(lambda: nn.AvgPool2d((2, 3), 1), (1, 2, 4, 4), lambda t: t.AvgPool2d((2, 3), 1)),
    "avg pool without padding's zeros": Case(
        lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        (1, 2, 6, 5),
        lambda t: t.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    ),
    "adaptive avg pool": Case(
        lambda: nn.AdaptiveAvgPool2d((2, 3)), (1, 2, 5, 4), lambda t: t.AdaptiveAvgPool2d((2, 3))
    ),
    "scaled avg pool": Case(lambda: nn.ScaledAvgPool2d(3, (2, 3), (2, 1)), (2, 3, 5, 4), torch_scaled_pool),
    "scaled avg pool by halves": Case(lambda: nn.ScaledAvgPool2d(2, 2), (1, 2, 4, 4)),
    "batch norm 1d, training": Case(lambda: nn.BatchNorm1d(3), (4, 3), lambda t: t.BatchNorm1d(3), True),
    "batch norm 1d": Case(lambda: nn.BatchNorm1d(3), (4, 3), lambda t: t.BatchNorm1d(3)),
    "batch norm 1d of sequences": Case(
        lambda: nn.BatchNorm1d(3), (2, 3, 4), lambda t: t.BatchNorm1d(3), True
    ),
    "batch norm 2d, training": Case(
        lambda: nn.BatchNorm2d(2, eps=0.1, momentum=0.3),
        (3, 2, 2, 3),
        lambda t: t.BatchNorm2d(2, eps=0.1, momentum=0.3),
        True,
    ),
    "batch norm 2d": Case(lambda: nn.BatchNorm2d(2), (2, 2, 2, 3), lambda t: t.BatchNorm2d(2)),
    "batch norm without weights": Case(
        lambda: nn.BatchNorm2d(2, affine=False), (2, 2, 2, 3), lambda t: t.BatchNorm2d(2, affine=False), True
    ),
    "layer norm": Case(lambda: nn.LayerNorm(4), (3, 4), lambda t: t.LayerNorm(4)),
    "layer norm of images": Case(
        lambda: nn.LayerNorm((2, 3, 2), eps=0.1), (2, 2, 3, 2), lambda t: t.LayerNorm((2, 3, 2), eps=0.1)
    ),
    "layer norm without weights": Case(
        lambda: nn.LayerNorm([3, 2], affine=False),
        (2, 2, 3, 2),
        lambda t: t.LayerNorm([3, 2], elementwise_affine=False),
    ),
    "group norm": Case(lambda: nn.GroupNorm(2, 4), (2, 4, 2, 2), lambda t: t.GroupNorm(2, 4)),
    "group norm of features": Case(
        lambda: nn.GroupNorm(3, 6, eps=0.1), (2, 6), lambda t: t.GroupNorm(3, 6, eps=0.1)
    ),
    "group norm without weights": Case(
        lambda: nn.GroupNorm(1, 3, affine=False), (2, 3, 2, 2), lambda t: t.GroupNorm(1, 3, affine=False)
    ),
    "local response norm": Case(
        lambda: nn.LocalResponseNorm(3, 0.5, 0.75, 2.0),
        (2, 5, 2, 2),
        lambda t: t.LocalResponseNorm(3, 0.5, 0.75, 2.0),
    ),
    "local response norm, even": Case(
        lambda: nn.LocalResponseNorm(4, alpha=0.5), (1, 5, 2, 2), lambda t: t.LocalResponseNorm(4, alpha=0.5)
    ),
    "dropout": Case(lambda: nn.Dropout(0.5), (2, 3, 4), lambda t: t.Dropout(0.5)),
    "dropout, training": Case(lambda: nn.Dropout(0.4), (2, 3, 4), None, True),
    "relu": Case(nn.ReLU, (2, 3, 2), lambda t: t.ReLU()),
    "leaky relu": Case(lambda: nn.LeakyReLU(0.2), (2, 3, 2), lambda t: t.LeakyReLU(0.2)),
    "sigmoid": Case(nn.Sigmoid, (2, 3, 2), lambda t: t.Sigmoid()),
    "tanh": Case(nn.Tanh, (2, 3, 2), lambda t: t.Tanh()),
    "gelu": Case(nn.GELU, (2, 3, 2), lambda t: t.GELU()),
    "silu": Case(nn.SiLU, (2, 3, 2), lambda t: t.SiLU()),
    "softmax": Case(nn.Softmax, (2, 5), lambda t: t.Softmax(-1)),
    "softmax over channels": Case(lambda: nn.Softmax(1), (1, 3, 2, 2), lambda t: t.Softmax(1)),
    "flatten": Case(nn.Flatten, (2, 3, 2, 2), lambda t: t.Flatten()),
    "identity": Case(nn.Identity, (2, 3), lambda t: t.Identity()),
    "sequential": Case(
        lambda: nn.Sequential(fc1=nn.Linear(3, 4), tanh=nn.Tanh(), fc2=nn.Linear(4, 2)),
        (2, 3),
        lambda t: t.Sequential(OrderedDict(fc1=t.Linear(3, 4), tanh=t.Tanh(), fc2=t.Linear(4, 2))),
    ),
    "sequential by position": Case(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.BatchNorm2d(2), nn.ReLU()),
        (2, 1, 3, 3),
        lambda t: t.Sequential(t.Conv2d(1, 2, 2, bias=False), t.BatchNorm2d(2), t.ReLU()),
        True,
    ),
    "sequential of nothing": Case(nn.Sequential, (2, 3), lambda t: t.Sequential()),
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
