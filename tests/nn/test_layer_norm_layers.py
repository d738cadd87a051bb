"""LayerNorm, GroupNorm and LocalResponseNorm: initial values, what they show, and their errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.nn import draw, mentions
from xpcnn import errors, nn, summary


def test_initial_values_change_nothing(make: Any, dtype: str) -> None:
    with make.use():
        layers = [nn.LayerNorm((4, 2, 3), dtype=dtype), nn.GroupNorm(2, 4, dtype=dtype)]
    x = draw(2, 4, 2, 3, dtype=dtype)
    expected = [oracles.layer_norm(x, 3), oracles.group_norm(x, 2)]
    for layer, values in zip(layers, expected, strict=True):
        y = layer(make.array(x))
        make.check(y, values, dtype)
        for parameter in layer.parameters().values():
            make.check_kind(parameter.data, parameter.shape, dtype)


def test_training_is_inference(make: Any) -> None:
    """There are no running statistics, and a sample does not depend on its batch."""
    with make.use():
        layer = nn.GroupNorm(2, 4, dtype="float64")
    x = make.array(draw(3, 4, 2, 2))
    trained, _ = layer.forward(x, train=True)
    np.testing.assert_array_equal(make.to_numpy(trained), make.to_numpy(layer(x)))
    make.check(layer(x[1:2, ...]), make.to_numpy(trained)[1:2], "float64")
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_summary() -> None:
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


def test_shown() -> None:
    assert repr(nn.LayerNorm(4)) == "LayerNorm((4,))"
    assert repr(nn.LayerNorm((2, 3), 0.1, False)) == "LayerNorm((2, 3), eps=0.1, affine=False)"
    assert repr(nn.GroupNorm(2, 4)) == "GroupNorm(2, 4)"
    assert repr(nn.GroupNorm(2, 4, affine=False)) == "GroupNorm(2, 4, affine=False)"
    assert repr(nn.LocalResponseNorm(5)) == "LocalResponseNorm(5)"


@pytest.mark.parametrize("arguments", [(3, 4), (0, 4), (2, 0), (-1, 4)], ids=str)
def test_bad_groups(arguments: tuple[int, int]) -> None:
    parts = (f"num_groups={arguments[0]}", f"num_channels={arguments[1]}")
    with pytest.raises(errors.ArgumentError, match=mentions("GroupNorm", *parts)):
        nn.GroupNorm(*arguments)


def test_bad_shapes(make: Any) -> None:
    with pytest.raises(errors.ArgumentError, match=mentions("LayerNorm", "normalized_shape", "(3, 0)")):
        nn.LayerNorm((3, 0))
    with make.use():
        layer, groups = nn.LayerNorm(3, dtype="float64"), nn.GroupNorm(2, 4, dtype="float64")
    with pytest.raises(errors.ShapeError, match=mentions("layer_norm", "(2, 4)", "(3,)")):
        layer(make.array(draw(2, 4)))
    with pytest.raises(errors.ShapeError, match=mentions("group_norm", "(2, 6)", "(6,)", "(4,)")):
        groups(make.array(draw(2, 6)))
