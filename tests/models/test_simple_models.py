"""simple_convnet and tiny_convnet, whose arguments are their own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.model_cases import count, images
from xpcnn import models

# -- simple_convnet -----------------------------------------------------------------------


def test_simple_convnet_as_published() -> None:
    model = models.simple_convnet()
    assert {path: parameter.shape for path, parameter in model.parameters().items()} == {
        "conv1.weight": (30, 1, 5, 5),
        "conv1.bias": (30,),
        "fc1.weight": (100, 30 * 12 * 12),
        "fc1.bias": (100,),
        "fc2.weight": (10, 100),
        "fc2.bias": (10,),
    }
    assert count(model) == 433_890
    assert list(model.children()) == ["", "conv1", "relu1", "pool1", "flatten", "fc1", "relu2", "fc2"]
    assert all(parameter.dtype == "float32" for parameter in model.parameters().values())
    assert model(images(2, 1, 28, 28, dtype="float32")).shape == (2, 10)
    weights, biases = model.fc1.weight.data, model.fc1.bias.data
    assert abs(weights.std() / 0.01 - 1) < 0.01
    assert not biases.any()
    assert (model[""].mean, model[""].std) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("options", "features"),
    [
        ({"padding": 2}, 30 * 14 * 14),
        ({"stride": 2}, 30 * 6 * 6),
        ({"stride": 2, "padding": 1}, 30 * 6 * 6),
        ({"filter_size": 3, "padding": 1, "filters": 16}, 16 * 14 * 14),
        ({"input_shape": (3, 32, 32)}, 30 * 14 * 14),
        ({"input_shape": (1, 28, 20)}, 30 * 12 * 8),
        ({"filter_size": 4}, 30 * 12 * 12),  # 25 rows: the last one is not pooled
    ],
)
def test_simple_convnet_variants(options: dict[str, Any], features: int) -> None:
    model = models.simple_convnet(**options)
    assert model.fc1.weight.shape == (100, features)
    shape = options.get("input_shape", (1, 28, 28))
    assert model(images(2, *shape, dtype="float32")).shape == (2, 10)


# -- tiny_convnet -------------------------------------------------------------------------


def test_tiny_convnet_as_published() -> None:
    model = models.tiny_convnet()
    shapes = {path: parameter.shape for path, parameter in model.parameters().items()}
    assert shapes == {"conv1.weight": (8, 1, 3, 3), "fc.weight": (10, 8 * 13 * 13), "fc.bias": (10,)}
    assert list(models.tiny_convnet(bias=True).parameters())[1] == "conv1.bias"
    assert (model[""].mean, model[""].std) == (0.5, 1.0)
    assert abs(model.fc.weight.data.std() * 1352 - 1) < 0.02


def test_the_smallest_images_of_tiny_convnet() -> None:
    assert models.tiny_convnet(input_shape=(1, 4, 4))(images(1, 1, 4, 4, dtype="float32")).shape == (1, 10)
