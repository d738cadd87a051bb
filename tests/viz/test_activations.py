"""What `activations` finds equals what the layers give when they are called one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn import nn
from xpcnn.errors import ShapeError
from xpcnn.viz import activations
from xpcnn.viz.activations import evenly_spaced, leaf_layers


def network() -> nn.Sequential:
    """All containers, nested, one relu in two places."""
    relu = nn.ReLU()
    body = nn.Sequential(conv=nn.Conv2d(3, 5, 3, padding=1, seed=1), bn=nn.BatchNorm2d(5), relu=relu)
    return nn.Sequential(
        conv1=nn.Conv2d(1, 3, 3, seed=0),
        block=nn.Residual(body, nn.Conv2d(3, 5, 1, seed=2), shortcut_name="down"),
        relu=relu,
        join=nn.Concat(a=nn.Conv2d(5, 2, 1, seed=3), b=nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Identity())),
        drop=nn.Dropout(0.5),
        flatten=nn.Flatten(),
        fc=nn.Linear(7 * 4 * 4, 4, seed=4),
    )


def by_hand(model: Any, x: Any) -> list[tuple[str, nn.Layer, Any]]:
    """Each leaf's path, itself and its output, in the order of the calls."""
    block, join = model["block"], model["join"]
    body, down, pool = block[0], block["down"], join["b"]
    y1 = model["conv1"](x)
    y2 = body["conv"](y1)
    y3 = body["bn"](y2)
    y4 = model["relu"](y3)
    y5 = down(y1)
    y6 = model["relu"](y4 + y5)
    y7 = join["a"](y6)
    y8 = pool[0](y6)
    y9 = join(y6)
    y10 = model["flatten"](y9)
    return [
        ("conv1", model["conv1"], y1),
        ("block.conv", body["conv"], y2),
        ("block.bn", body["bn"], y3),
        ("block.relu", model["relu"], y4),
        ("block.down", down, y5),
        ("relu", model["relu"], y6),
        ("join.a", join["a"], y7),
        ("join.b.0", pool[0], y8),
        ("join.b.1", pool[1], y8),
        ("drop", model["drop"], y9),
        ("flatten", model["flatten"], y10),
        ("fc", model["fc"], model["fc"](y10)),
    ]


def test_activations_are_the_layers_outputs(make: Any) -> None:
    model = network().to(backend=make.backend)
    x = make.array(np.random.default_rng(0).standard_normal((2, 1, 6, 6)), "float32")
    state, inside = model.state_dict(), dict(leaf_layers(model))
    found, expected = activations(model, x), by_hand(model, x)
    assert [path for path, _, _ in found] == [path for path, _, _ in expected]
    for (_, layer, output), (_, same, value) in zip(found, expected, strict=True):
        assert layer is same
        make.check(output, make.to_numpy(value), "float32", rtol=0)
    np.testing.assert_array_equal(make.to_numpy(found[-1].output), make.to_numpy(model(x)))
    assert dict(leaf_layers(model)) == inside  # the model is as it was
    np.testing.assert_equal(
        make.snapshot(list(model.state_dict().values())), make.snapshot([*state.values()])
    )


def test_a_layer_alone() -> None:
    layer = nn.ReLU()
    ((path, same, output),) = activations(layer, np.array([[-1.0, 2.0]], np.float32))
    assert (path, same) == ("", layer)
    assert output.tolist() == [[0.0, 2.0]]


def test_an_error_tells_where() -> None:
    with pytest.raises(ShapeError) as caught:
        activations(network(), np.zeros((1, 2, 6, 6), np.float32))
    assert caught.value.__notes__ == ["in Sequential.conv1 (Conv2d)"]


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [9]), (2, [0, 9]), (10, list(range(10))), (99, [*range(10)])]
)
def test_evenly(most: int, expected: list[int]) -> None:
    assert evenly_spaced(list(range(10)), most) == expected
