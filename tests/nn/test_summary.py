"""summary: a model worked out by hand, and receptive fields measured by their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn import nn, summary


def model() -> nn.Layer:
    return nn.Sequential(
        conv1=nn.Conv2d(3, 8, 3, padding=1),
        pool1=nn.MaxPool2d(2),
        block=nn.Residual(
            nn.Sequential(conv2=nn.Conv2d(8, 8, 3, padding=1, bias=False), bn=nn.BatchNorm2d(8)),
            nn.Conv2d(8, 8, 1, bias=False),
        ),
        mix=nn.Concat(nn.Conv2d(8, 2, 1), wide=nn.Conv2d(8, 4, 5, padding=2, groups=2)),
        conv3=nn.Conv2d(6, 6, 3, padding=1),
        gap=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(6, 10),
    )


ROWS = [
    # For conv1: 8·(3·9) + 8 parameters; 8·16·16 outputs of 3·9 products each; 3 pixels wide.
    ("conv1", "Conv2d", (8, 16, 16), 224, 8 * 16 * 16 * 27, (3, 3)),
    ("pool1", "MaxPool2d", (8, 8, 8), 0, 0, (4, 4)),
    # From here on neighbours are 2 pixels apart: 4 + 2·2.
    ("block.conv2", "Conv2d", (8, 8, 8), 576, 8 * 8 * 8 * 72, (8, 8)),
    ("block.bn", "BatchNorm2d", (8, 8, 8), 16, 0, (8, 8)),
    ("block.downsample", "Conv2d", (8, 8, 8), 64, 8 * 8 * 8 * 8, (4, 4)),
    # The sum sees what its wider side sees.
    ("mix.0", "Conv2d", (2, 8, 8), 18, 2 * 8 * 8 * 8, (8, 8)),
    # In 2 groups an output sums over 4 of the 8 channels; 8 + 4·2.
    ("mix.wide", "Conv2d", (4, 8, 8), 404, 4 * 8 * 8 * 100, (16, 16)),
    # Behind the wider branch: 16 + 2·2.
    ("conv3", "Conv2d", (6, 8, 8), 330, 6 * 8 * 8 * 54, (20, 20)),
    ("gap", "AdaptiveAvgPool2d", (6, 1, 1), 0, 0, None),
    ("flatten", "Flatten", (6,), 0, 0, None),
    ("fc", "Linear", (10,), 70, 60, None),
]


def test_by_hand(make: Any) -> None:
    with make.use():
        network = model()
    result = summary(network, (3, 16, 16))
    assert list(result.rows) == ROWS
    assert result.parameters == result.trainable_parameters == 224 + 576 + 16 + 64 + 18 + 404 + 330 + 70
    assert result.macs == sum(row[4] for row in ROWS)


def test_printed() -> None:
    lines = str(summary(model(), (3, 16, 16))).splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "shape", "parameters", "MACs", "sees"]
    assert lines[2].split() == ["conv1", "Conv2d", "(8,", "16,", "16)", "224", "55,296", "3x3"]
    assert lines[10].split() == ["gap", "AdaptiveAvgPool2d", "(6,", "1,", "1)", "0", "0", "all"]
    assert lines[-1] == "1,702 parameters (1,702 trainable), 143,676 MACs for each input"
    assert lines[-1].split()[-5].replace(",", "") == str(sum(row[4] for row in ROWS))
    assert str(summary(nn.Linear(2, 3), (2,))).splitlines()[2].startswith("(model)")


def test_frozen_and_shared_parameters() -> None:
    layer = nn.Linear(3, 3)
    network = nn.Sequential(layer, nn.ReLU(), layer)
    layer.bias.trainable = False
    result = summary(network, (3,))
    assert (result.parameters, result.trainable_parameters, result.macs) == (12, 9, 18)
    assert [row.parameters for row in result.rows] == [12, 0, 0]  # counted where they come first


def ones(layer: nn.Layer) -> nn.Layer:
    layer.load_state_dict({path: np.ones(p.shape) for path, p in layer.parameters().items()})
    return layer


def conv(kernel: Any, **kwargs: Any) -> nn.Layer:
    return nn.Conv2d(1, 1, kernel, bias=False, dtype="float64", **kwargs)


MEASURED = {
    "plain": nn.Sequential(conv(3), conv(3)),
    "strided": nn.Sequential(conv((3, 2), stride=(2, 1)), conv(3), conv((1, 5))),
    "dilated": nn.Sequential(conv(3, dilation=(2, 3)), conv(2)),
    "pooled": nn.Sequential(conv(3), nn.AvgPool2d((2, 3)), conv(3), nn.AvgPool2d(3, 2, 1), conv(3)),
    "residual": nn.Sequential(nn.Residual(nn.Sequential(conv(5, padding=2), conv(3, padding=1))), conv(3)),
    "crossed": nn.Sequential(
        nn.Residual(conv((1, 7), padding=(0, 3)), conv((5, 1), padding=(2, 0))), nn.AvgPool2d(2), conv(3)
    ),
    "strided shortcut": nn.Sequential(
        nn.Residual(nn.Sequential(conv(3, stride=2, padding=1), conv(3, padding=1)), conv(1, stride=2)),
        conv(3),
    ),
}


@pytest.mark.parametrize("network", MEASURED.values(), ids=MEASURED.keys())
def test_fields_are_those_that_gradients_reach(network: nn.Layer) -> None:
    """With positive weights, an output in the middle has a gradient at every pixel that it sees."""
    size = 48
    y, ctx = ones(network).forward(np.ones((1, 1, size, size)))
    dy = np.zeros(y.shape)
    dy[0, 0, y.shape[2] // 2, y.shape[3] // 2] = 1.0
    rows, columns = np.nonzero(network.backward(ctx, dy)[0, 0])
    reached = (int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)
    assert summary(network, (1, size, size)).rows[-1].receptive_field == reached


def test_normalisation_layers() -> None:
    """Statistics over all pixels let every output see all of them; LRN looks at other channels only."""
    model = nn.Sequential(
        conv=nn.Conv2d(1, 4, 3),
        lrn=nn.LocalResponseNorm(3),
        norm=nn.GroupNorm(2, 4),
        layer=nn.LayerNorm((4, 4, 4)),
    )
    rows = {row.path: row for row in summary(model, (1, 6, 6)).rows}
    assert rows["lrn"][3:] == (0, 0, (3, 3))
    assert rows["norm"][3:] == (8, 0, None)
    assert rows["layer"][3:] == (128, 0, None)


def test_transposed_convolutions() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1),
        same=nn.ConvTranspose2d(4, 4, 3, padding=2, dilation=2, groups=2),
        up=nn.ConvTranspose2d(4, 6, 2, stride=2),
        last=nn.Conv2d(6, 1, 1),
    )
    rows = {row.path: row for row in summary(model, (2, 16, 16)).rows}
    assert rows["same"].output_shape == (4, 8, 8)
    assert rows["same"].parameters == 4 * 2 * 9 + 4
    assert rows["same"].macs == 4 * 64 * 2 * 9
    assert rows["same"].receptive_field == (3 + 2 * 2 * 2, 3 + 2 * 2 * 2)
    assert rows["up"].output_shape == (6, 16, 16)
    assert rows["up"].macs == 4 * 64 * 6 * 4
    assert rows["up"].receptive_field is rows["last"].receptive_field is None
