"""simple_convnet and tiny_convnet, whose arguments are their own, and the same networks in PyTorch."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from tests.support.model_cases import count, images
from xpcnn import models, nn, ops
from xpcnn.errors import ShapeError, XpcnnError
from xpcnn.testing import assert_close

SMALL: dict[str, dict[str, Any]] = {
    "simple_convnet": {"input_shape": (2, 9, 8), "filters": 3, "filter_size": 3, "hidden": 5, "classes": 4},
    "tiny_convnet": {"input_shape": (2, 9, 8), "filters": 3, "classes": 4},
}

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


@pytest.mark.parametrize("scheme", ["he", "xavier", 0.5])
def test_simple_convnet_initial_weights(scheme: Any) -> None:
    weights = models.simple_convnet(weight_std=scheme, hidden=400).fc1.weight.data
    expected = {"he": math.sqrt(2 / 4320), "xavier": math.sqrt(2 / (4320 + 400)), 0.5: 0.5}[scheme]
    assert abs(weights.std() / expected - 1) < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": (1, 4, 4)}, "kernel 5x5 is larger than the padded input 4x4"),
        ({"input_shape": (1, 5, 5)}, r"input_shape \(1, 5, 5\) leaves 1x1 after the convolution, too little"),
        ({"input_shape": (1, 28, 5)}, "leaves 24x1"),
        ({"stride": 0}, "stride"),
        ({"padding": -1}, "padding"),
        ({"filters": 0}, "simple_convnet: filters must be an integer of at least 1, got 0"),
        ({"weight_std": "lecun"}, "unknown initialiser 'lecun'"),
    ],
)
def test_simple_convnet_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(XpcnnError, match=message):
        models.simple_convnet(**options)


# -- tiny_convnet -------------------------------------------------------------------------


def test_tiny_convnet_as_published() -> None:
    model = models.tiny_convnet()
    shapes = {path: parameter.shape for path, parameter in model.parameters().items()}
    assert shapes == {"conv1.weight": (8, 1, 3, 3), "fc.weight": (10, 8 * 13 * 13), "fc.bias": (10,)}
    assert list(models.tiny_convnet(bias=True).parameters())[1] == "conv1.bias"
    assert (model[""].mean, model[""].std) == (0.5, 1.0)
    assert abs(model.fc.weight.data.std() * 1352 - 1) < 0.02


def test_tiny_convnet_refuses_images_it_cannot_pool() -> None:
    assert models.tiny_convnet(input_shape=(1, 4, 4))(images(1, 1, 4, 4, dtype="float32")).shape == (1, 10)
    for shape in ((1, 3, 9), (1, 9, 3)):
        with pytest.raises(ShapeError, match="at least 4x4, got input_shape"):
            models.tiny_convnet(input_shape=shape)


# -- the same network in PyTorch ----------------------------------------------------------


def torch_twin(name: str, options: dict[str, Any]) -> Any:
    torch = pytest.importorskip("torch")
    channels, height, width = options["input_shape"]
    filters, classes = options["filters"], options["classes"]
    if name == "tiny_convnet":
        features = filters * ((height - 2) // 2) * ((width - 2) // 2)
        layers = {
            "conv1": torch.nn.Conv2d(channels, filters, 3, bias=False),
            "pool1": torch.nn.MaxPool2d(2),
            "flatten": torch.nn.Flatten(),
            "fc": torch.nn.Linear(features, classes),
        }
    else:
        size, stride, padding = options["filter_size"], options.get("stride", 1), options.get("padding", 0)
        oh, ow = ((side + 2 * padding - size) // stride + 1 for side in (height, width))
        layers = {
            "conv1": torch.nn.Conv2d(channels, filters, size, stride, padding),
            "relu1": torch.nn.ReLU(),
            "pool1": torch.nn.MaxPool2d(2),
            "flatten": torch.nn.Flatten(),
            "fc1": torch.nn.Linear(filters * (oh // 2) * (ow // 2), options["hidden"]),
            "relu2": torch.nn.ReLU(),
            "fc2": torch.nn.Linear(options["hidden"], classes),
        }
    return torch.nn.Sequential(OrderedDict(layers)).double()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("simple_convnet", {}),
        ("simple_convnet", {"stride": 2, "padding": 1}),
        ("simple_convnet", {"padding": 2, "filter_size": 5}),
        ("tiny_convnet", {}),
    ],
)
def test_pytorch_gives_the_same_logits_and_gradients(name: str, more: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    options = {**SMALL[name], **more}
    kind = {"weight_std": "he"} if name == "simple_convnet" else {}
    model = models.build(name, **options, **kind, dtype="float64")
    twin = torch_twin(name, options)
    # PyTorch takes our state by its names, and checks that none is missing or left over.
    twin.load_state_dict({path: torch.from_numpy(array) for path, array in model.state_dict().items()})
    x, labels = images(6, *options["input_shape"], seed=2), np.arange(6) % options["classes"]

    y, ctx = model.forward(x, train=True)
    loss, loss_ctx = ops.softmax_cross_entropy(y, labels)
    grads = nn.Gradients()
    dx = model.backward(ctx, ops.softmax_cross_entropy.backward(loss_ctx), grads)

    torch_x = torch.from_numpy(x).requires_grad_()
    torch_y = twin(torch_x)
    torch_loss = torch.nn.functional.cross_entropy(torch_y, torch.from_numpy(labels))
    torch_loss.backward()
    assert_close(y, torch_y.detach().numpy())
    assert_close(loss, np.asarray(torch_loss.item()))
    assert_close(dx, torch_x.grad.numpy())
    for path, parameter in twin.named_parameters():
        assert_close(grads[path], parameter.grad.numpy())
        assert np.abs(grads[path]).max() > 0
