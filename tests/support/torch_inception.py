"""GoogLeNet and LeNet-5 as plain PyTorch modules; see `torch_models`."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402


class BasicConv2d(nn.Module):
    def __init__(self, inputs, filters, **options):
        super().__init__()
        self.conv = nn.Conv2d(inputs, filters, bias=False, **options)
        self.bn = nn.BatchNorm2d(filters, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    def __init__(self, inputs, one, red3, three, red5, five, pool):
        super().__init__()
        self.branch1 = BasicConv2d(inputs, one, kernel_size=1)
        self.branch2 = nn.Sequential(
            BasicConv2d(inputs, red3, kernel_size=1), BasicConv2d(red3, three, kernel_size=3, padding=1)
        )
        self.branch3 = nn.Sequential(
            BasicConv2d(inputs, red5, kernel_size=1), BasicConv2d(red5, five, kernel_size=3, padding=1)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), BasicConv2d(inputs, pool, kernel_size=1)
        )

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class InceptionAux(nn.Module):
    def __init__(self, inputs, classes, width, dropout):
        super().__init__()
        self.conv = BasicConv2d(inputs, 2 * width, kernel_size=1)
        self.fc1 = nn.Linear(32 * width, 16 * width)
        self.fc2 = nn.Linear(16 * width, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        x = torch.flatten(self.conv(F.adaptive_avg_pool2d(x, (4, 4))), 1)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


# Inputs, then the filters of each branch: the paper's table 1.
INCEPTION = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


def pool(x, kernel=3):
    return F.max_pool2d(x, kernel, 2, ceil_mode=True)


class GoogLeNet(nn.Module):
    """In training, with `aux`: the logits, then those of aux1 and aux2."""

    def __init__(self, classes, channels, small, width, aux, dropout=0.2, aux_dropout=0.7):
        super().__init__()

        stem = {"kernel_size": 3, "padding": 1} if small else {"kernel_size": 7, "stride": 2, "padding": 3}
        self.conv1 = BasicConv2d(channels, width, **stem)
        self.conv2 = BasicConv2d(width, width, kernel_size=1)
        self.conv3 = BasicConv2d(width, 3 * width, kernel_size=3, padding=1)
        for name, numbers in INCEPTION.items():
            setattr(self, f"inception{name}", Inception(*(number * width // 64 for number in numbers)))
        self.small = small
        self.aux = aux
        if aux:
            self.aux1 = InceptionAux(512 * width // 64, classes, width, aux_dropout)
            self.aux2 = InceptionAux(528 * width // 64, classes, width, aux_dropout)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024 * width // 64, classes)

    def forward(self, x):
        x = self.conv1(x)
        x = self.conv3(self.conv2(x if self.small else pool(x)))
        x = self.inception3b(self.inception3a(x if self.small else pool(x)))
        x4a = self.inception4a(pool(x))
        x4d = self.inception4d(self.inception4c(self.inception4b(x4a)))
        x = self.inception5b(self.inception5a(pool(self.inception4e(x4d), 2)))
        logits = self.fc(self.dropout(x.mean((2, 3))))
        if self.training and self.aux:
            return logits, self.aux1(x4a), self.aux2(x4d)
        return logits


class Subsampling(nn.Module):
    def __init__(self, maps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(maps))
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, x):
        total = x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]
        return total * (self.weight / 4)[:, None, None] + self.bias[:, None, None]


# Table I of the paper: a row for each map of S2, an X where a filter of C3 sees it.
TABLE = """
X...XXX..XXXX.XX
XX...XXX..XXXX.X
XXX...XXX..X.XXX
.XXX..XXXX..X.XX
..XXX..XXXX.XX.X
...XXX..XXXX.XXX
"""


class LeNet5(nn.Module):
    def __init__(self, variant, classes, channels):
        super().__init__()
        self.variant = variant
        modern = variant == "modern"
        self.c1 = nn.Conv2d(channels, 6, 5)
        self.s2 = nn.MaxPool2d(2) if modern else Subsampling(6)
        self.c3 = nn.Conv2d(6, 16, 5)
        if not modern:
            rows = [[mark == "X" for mark in row] for row in TABLE.split()]
            self.c3.register_buffer("connections", torch.tensor(rows).T[:, :, None, None])
        self.s4 = nn.MaxPool2d(2) if modern else Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, classes)

    def squash(self, x):
        if self.variant == "modern":
            return F.relu(x)
        return torch.sigmoid(x) if self.variant == "sigmoid" else 1.7159 * torch.tanh(2 / 3 * x)

    def forward(self, x):
        height, width = x.shape[2:]
        top, left = (32 - height) // 2, (32 - width) // 2
        x = F.pad(x, (left, 32 - width - left, top, 32 - height - top))
        x = self.squash(self.s2(self.squash(self.c1(x))))
        weight = self.c3.weight
        if self.variant != "modern":
            weight = weight * self.c3.connections
        x = self.squash(F.conv2d(x, weight, self.c3.bias))
        x = self.squash(self.c5(self.squash(self.s4(x))))
        return self.output(self.squash(self.f6(torch.flatten(x, 1))))
