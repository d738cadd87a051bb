"""ConvTranspose2d: its initial weights, what summary says of it, and its errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from xpcnn import nn, summary


@pytest.mark.parametrize(
    ("arguments", "fan_in"),
    [
        ((64, 32, 3), 64 * 9),
        ((64, 32, 4, 2), 64 * 4),  # of the 16 taps, 4 reach an output
        ((128, 256, 2, 2), 128),
        ((256, 256, 1, 3), 256),  # the outputs between are not reached at all
        ((64, 64, (4, 2), (2, 1), 0, 0, 4), 16 * 4),
    ],
    ids=str,
)
def test_initial_weights_keep_the_variance(arguments: tuple[Any, ...], fan_in: int) -> None:
    weight = nn.ConvTranspose2d(*arguments, dtype="float64", seed=0).weight.data
    assert float(np.std(weight)) == pytest.approx(math.sqrt(2 / fan_in), rel=0.03)


def test_summary() -> None:
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
