"""The published networks as plain PyTorch modules, with torchvision's structure and names.

Written from the papers and from torchvision's published parameter lists, and importing nothing from xpcnn. A
`width` below 64 narrows every layer in proportion, for quick comparisons.
"""

from collections import OrderedDict

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from tests.support.model_cases import WIDTHS  # noqa: E402
from tests.support.torch_inception import GoogLeNet, LeNet5  # noqa: E402


class Residual(nn.Module):
    """A block of convolutions, (outputs, kernel, stride) each; the shortcuts for CIFAR have no weights."""

    def __init__(self, inputs, convolutions, cifar):
        super().__init__()
        channels, self.depth = inputs, len(convolutions)
        for i, (outputs, kernel, stride) in enumerate(convolutions, start=1):
            setattr(self, f"conv{i}", nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(outputs))
            channels = outputs
        self.extra, stride = channels - inputs, max(stride for *_, stride in convolutions)
        self.downsample = None
        if not cifar and (stride > 1 or self.extra):
            conv = nn.Conv2d(inputs, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y if i == 1 else F.relu(y)))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.extra:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.extra))
        return F.relu(y + x)


def basic(width, stride):
    return [(width, 3, stride), (width, 3, 1)]


def bottleneck(width, stride):
    return [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]


class ResNet(nn.Module):
    def __init__(self, block, blocks, classes, channels, small, width, cifar=False):
        super().__init__()
        self.small, self.stages = small, len(blocks)
        self.conv1 = nn.Conv2d(channels, width, *((3, 1, 1) if small else (7, 2, 3)), bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for number, count in enumerate(blocks):
            layers = []
            for i in range(count):
                convolutions = block(width * 2**number, 2 if number > 0 and i == 0 else 1)
                layers.append(Residual(inputs, convolutions, cifar))
                inputs = convolutions[-1][0]
            setattr(self, f"layer{number + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if not self.small:
            x = F.max_pool2d(x, 3, 2, 1)
        for number in range(1, self.stages + 1):
            x = getattr(self, f"layer{number}")(x)
        return self.fc(x.mean((2, 3)))


class AlexNet(nn.Module):
    def __init__(self, classes, channels, small, width, dropout, normalise):
        super().__init__()
        pad, self.pixels = (1, 4) if small else (0, 6)
        self.normalise = normalise
        layers = []
        stem = (1, 3, 1, 1) if small else (1, 11, 4, 2)
        for filters, *window in (stem, (3, 5, 1, 2), (6, 3, 1, 1), (4, 3, 1, 1), (4, 3, 1, 1)):
            layers += [nn.Conv2d(channels, filters * width, *window), nn.ReLU()]
            channels = filters * width
            if len(layers) in (2, 5, 12):
                layers.append(nn.MaxPool2d(3, 2, pad))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((self.pixels, self.pixels))
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(4 * width * self.pixels**2, 64 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(64 * width, 64 * width),
            nn.ReLU(),
            nn.Linear(64 * width, classes),
        )

    def forward(self, x):
        for i, layer in enumerate(self.features):
            x = layer(x)
            if self.normalise and i in (1, 4):
                x = x / (2 + 1e-4 * neighbours_squared(x, 2)) ** 0.75
        return self.classifier(torch.flatten(self.avgpool(x), 1))


def neighbours_squared(x, reach):
    """For each channel, the sum of the squares of those at most `reach` away, as the paper of 2012 has it."""
    channels = x.shape[1]
    squares = [x[:, max(0, i - reach) : i + reach + 1].square().sum(1) for i in range(channels)]
    return torch.stack(squares, 1)


# A number is a convolution's filters in units of the width; M is a pooling.
VGG_LAYERS = {
    11: (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"),
    13: (1, 1, "M", 2, 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"),
    16: (1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M"),
    19: (1, 1, "M", 2, 2, "M", 4, 4, 4, 4, "M", 8, 8, 8, 8, "M", 8, 8, 8, 8, "M"),
}


class VGG(nn.Module):
    def __init__(self, depth, bn, classes, channels, small, width, dropout):
        super().__init__()
        layers = []
        for entry in VGG_LAYERS[depth][: -1 if small else None]:
            if entry == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers.append(nn.Conv2d(channels, entry * width, 3, padding=1))
            layers += [nn.BatchNorm2d(entry * width), nn.ReLU()] if bn else [nn.ReLU()]
            channels = entry * width
        self.features = nn.Sequential(*layers)
        pixels = 1 if small else 7
        self.avgpool = nn.AdaptiveAvgPool2d((pixels, pixels))
        self.classifier = nn.Sequential(
            nn.Linear(channels * pixels * pixels, 64 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(64 * width, 64 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(64 * width, classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def simple_convnet(shape, filters, filter_size, stride, padding, hidden, classes):
    oh, ow = ((side + 2 * padding - filter_size) // stride + 1 for side in shape[1:])
    layers = OrderedDict(
        conv1=nn.Conv2d(shape[0], filters, filter_size, stride, padding),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(filters * (oh // 2) * (ow // 2), hidden),
        relu2=nn.ReLU(),
        fc2=nn.Linear(hidden, classes),
    )
    return nn.Sequential(layers)


def tiny_convnet(shape, filters, classes, bias):
    channels, height, width = shape
    layers = OrderedDict(
        conv1=nn.Conv2d(channels, filters, 3, bias=bias),
        pool1=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc=nn.Linear(filters * ((height - 2) // 2) * ((width - 2) // 2), classes),
    )
    return nn.Sequential(layers)


def deep_convnet(classes, channels, dropout, batch_norm, filters):
    layers = OrderedDict()
    for i in range(1, 7):
        outputs = filters[(i - 1) // 2]
        layers[f"conv{i}"] = nn.Conv2d(channels, outputs, 3, padding=2 if i == 4 else 1)
        if batch_norm:
            layers[f"norm{i}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{i}"] = nn.ReLU()
        if i % 2 == 0:
            layers[f"pool{i // 2}"] = nn.MaxPool2d(2)
        channels = outputs
    layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(16 * channels, 50), "relu7": nn.ReLU()}
    layers |= {"dropout1": nn.Dropout(dropout), "fc2": nn.Linear(50, classes)}
    return nn.Sequential(layers)


# Which is the twin of which published model.

RESNETS = {
    "resnet18": (basic, (2, 2, 2, 2)),
    "resnet34": (basic, (3, 4, 6, 3)),
    "resnet50": (bottleneck, (3, 4, 6, 3)),
    "resnet101": (bottleneck, (3, 4, 23, 3)),
    "resnet152": (bottleneck, (3, 8, 36, 3)),
}
CIFAR_RESNETS = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
VGGS = tuple(f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn"))
TWINS = ("deep_convnet", "lenet5", "alexnet", *VGGS, "googlenet", *RESNETS, *CIFAR_RESNETS)
"""Those that take any number of classes and channels, and have small_images."""


def twin(name, *, classes=1000, in_channels=3, small_images=False, narrow=False, dropout=0.5, **options):
    """The PyTorch module of a published model; narrowed as `model_cases.tiny` narrows, and without dropout of
    its own choosing."""
    size = (classes, in_channels, small_images)
    if name == "simple_convnet":
        kind = {"filters": 3, "filter_size": 3, "hidden": 5, "stride": 1, "padding": 0, **options}
        return simple_convnet(kind.pop("input_shape"), **kind, classes=classes)
    if name == "tiny_convnet":
        return tiny_convnet(options["input_shape"], 3, classes, options.get("bias", False))
    if name == "deep_convnet":
        filters = options.get("filters", (16, 32, 64))
        return deep_convnet(classes, in_channels, dropout, options.get("batch_norm", False), filters)
    if name == "lenet5":
        return LeNet5(options.get("variant", "tanh"), classes, in_channels)
    if name in CIFAR_RESNETS:
        return ResNet(basic, ((int(name[6:]) - 2) // 6,) * 3, classes, in_channels, True, 16, cifar=True)
    family = "vgg" if name in VGGS else "resnet" if name in RESNETS else name
    width = WIDTHS[family] if narrow else 64
    if name in RESNETS:
        return ResNet(*RESNETS[name], *size, width)
    if name in VGGS:
        return VGG(int(name[3:5]), name.endswith("_bn"), *size, width, dropout)
    if name == "alexnet":
        return AlexNet(*size, width, dropout, options.get("local_response_norm", False))
    return GoogLeNet(*size, width, options.get("aux", False), dropout, dropout)
