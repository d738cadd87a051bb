"""SimpleConvNet and DeepConvNet: the core's models, finite differences, the book's conventions."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.scratch import draw, writable
from xpcnn import models
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.scratch import np as scratch_np
from xpcnn.scratch.deep_convnet import DeepConvNet
from xpcnn.scratch.simple_convnet import SimpleConvNet

TINY = {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1}
DEEP = [{"filter_num": n, "filter_size": 3, "pad": 1, "stride": 1} for n in (2, 1, 1, 2, 2, 1)]


def simple(**options: Any) -> SimpleConvNet:
    return SimpleConvNet((1, 8, 8), TINY, hidden_size=5, weight_init_std=0.3, **options)


def deep(**options: Any) -> DeepConvNet:
    return DeepConvNet((1, 8, 8), *DEEP, hidden_size=4, **options)


every_network = pytest.mark.parametrize("new", [simple, deep], ids=["SimpleConvNet", "DeepConvNet"])


def float64_on(make: Any, new: Any) -> Any:
    """A network of float64 parameters that may be changed; biases are drawn: at 0, relu has a kink."""
    network = new()
    for key, value in network.params.items():
        value = 0.2 * draw(*value.shape) if key.startswith("b") else value
        network.params[key] = writable(make, value)
    return network


PATHS = {
    "SimpleConvNet": ["conv1", "fc1", "fc2"],
    "DeepConvNet": ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc1", "fc2"],
}


def core_state(network: Any) -> dict[str, Any]:
    """The parameters under the core's names: affine weights transposed, all else unchanged."""
    state = {}
    for i, path in enumerate(PATHS[type(network).__name__], start=1):
        W = network.params[f"W{i}"]
        state[f"{path}.weight"] = W.T if W.ndim == 2 else W
        state[f"{path}.bias"] = network.params[f"b{i}"]
    return state


def test_logits_of_the_cores_simple_convnet(make: Any) -> None:
    network = SimpleConvNet()
    model = models.simple_convnet(dtype="float64")
    model.load_state_dict(core_state(network))
    x = draw(3, 1, 28, 28)
    network.params = {key: make.array(value) for key, value in network.params.items()}
    make.check(network.predict(make.array(x)), model(x), "float64")


def test_logits_of_the_cores_deep_convnet(make: Any) -> None:
    """In use, where the two kinds of dropout differ: the book's halves, so its weights are twice as large."""
    network = DeepConvNet()
    model = models.deep_convnet(dtype="float64")
    state = core_state(network)
    state["fc2.weight"] = state["fc2.weight"] * 0.25  # one halving before this layer, one after it
    state["fc2.bias"] = state["fc2.bias"] * 0.5
    model.load_state_dict(state)
    x = draw(2, 1, 28, 28)
    network.params = {key: make.array(value) for key, value in network.params.items()}
    make.check(network.predict(make.array(x)), model(x), "float64")


@every_network
def test_gradients_by_finite_differences(make: Any, new: Any) -> None:
    """With the same dropout masks: both draw theirs first of all."""
    network = float64_on(make, new)
    x, t = make.array(draw(2, 1, 8, 8)), make.array([1, 7])
    with make.use():
        scratch_np.random.seed(4)
        numeric = network.numerical_gradient(x, t)
        scratch_np.random.seed(4)
        exact = network.gradient(x, t)
    assert list(numeric) == list(exact) == list(network.params)
    for key, gradient in exact.items():
        make.check(gradient, make.to_numpy(numeric[key]), "float64", rtol=1e-4, scale=0.1)
    assert any(np.abs(make.to_numpy(gradient)).max() > 0.01 for gradient in exact.values())


def test_masks_are_drawn_anew_after_a_numerical_gradient() -> None:
    network = deep()
    network.numerical_gradient(draw(1, 1, 8, 8), np.array([1]))
    dropout = network.layers[-1]
    masks = set()
    for _ in range(20):
        network.loss(draw(1, 1, 8, 8), np.array([1]))
        masks.add(dropout.mask.tobytes())
    assert len(masks) > 5


def test_the_books_layers_and_draws() -> None:
    """After the same seed the initial weights are the book's, number for number."""
    np.random.seed(9)
    network = SimpleConvNet()
    np.random.seed(9)
    np.testing.assert_array_equal(network.params["W1"], 0.01 * np.random.randn(30, 1, 5, 5))
    np.testing.assert_array_equal(network.params["W2"], 0.01 * np.random.randn(4320, 100))
    np.testing.assert_array_equal(network.params["W3"], 0.01 * np.random.randn(100, 10))
    assert isinstance(network.layers, OrderedDict)
    assert list(network.layers) == ["Conv1", "Relu1", "Pool1", "Affine1", "Relu2", "Affine2"]
    assert list(network.params) == ["W1", "b1", "W2", "b2", "W3", "b3"]

    np.random.seed(9)
    deep_network = DeepConvNet()
    np.random.seed(9)
    inputs = [1 * 3 * 3, 16 * 3 * 3, 16 * 3 * 3, 32 * 3 * 3, 32 * 3 * 3, 64 * 3 * 3, 64 * 4 * 4, 50]
    shapes = [(16, 1, 3, 3), (16, 16, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3)]
    for i, (fan_in, shape) in enumerate(zip(inputs, [*shapes, (1024, 50), (50, 10)], strict=True), start=1):
        np.testing.assert_array_equal(
            deep_network.params[f"W{i}"], np.sqrt(2.0 / fan_in) * np.random.randn(*shape)
        )
        assert not deep_network.params[f"b{i}"].any()
    kinds = [type(layer).__name__ for layer in deep_network.layers]
    block = ["Convolution", "Relu", "Convolution", "Relu", "Pooling"]
    assert kinds == [*block * 3, "Affine", "Relu", "Dropout", "Affine", "Dropout"]


@every_network
def test_params_that_are_replaced_are_seen(make: Any, new: Any) -> None:
    network, x = float64_on(make, new), make.array(draw(3, 1, 8, 8))
    before = make.to_numpy(network.predict(x)).copy()
    network.params["W1"] = network.params["W1"] * 2
    changed = make.to_numpy(network.predict(x))
    assert not np.allclose(before, changed)
    network.params = {key: value * 1 for key, value in network.params.items()}
    network.params["b1"] = network.params["b1"] + 1
    assert not np.allclose(make.to_numpy(network.predict(x)), changed)
    weighted = [layer for layer in network._layer_list() if hasattr(layer, "W")]
    for i, layer in enumerate(weighted, start=1):
        assert layer.W is network.params[f"W{i}"]
        assert layer.b is network.params[f"b{i}"]


@every_network
def test_params_that_are_changed_in_place_are_seen(make: Any, new: Any) -> None:
    network, x = float64_on(make, new), make.array(draw(3, 1, 8, 8))
    network.predict(x)
    network.params["W1"] *= 2
    doubled = make.to_numpy(network.predict(x)).copy()
    other = float64_on(make, new)
    other.params = {key: make.array(make.to_numpy(value)) for key, value in network.params.items()}
    np.testing.assert_array_equal(doubled, make.to_numpy(other.predict(x)))


@every_network
@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_narrow_parameters(make: Any, new: Any, kind: str) -> None:
    """As ``half_float_network.py`` makes them: no float64 comes in between."""
    if not make.has(kind):
        pytest.skip(f"no {kind}")
    network, exact = new(), new()
    exact.params = dict(network.params)
    for key, value in network.params.items():
        network.params[key] = make.array(value, kind)
    x = draw(4, 1, 8, 8)
    y = network.predict(make.array(x, kind))
    make.check(y, exact.predict(x), kind, rtol=2e-2 if kind == "float16" else 1e-5)
    gradients = network.gradient(make.array(x, kind), make.array([0, 1, 2, 3]))
    for gradient in gradients.values():
        make.check_kind(gradient, tuple(gradient.shape), kind)
    assert network.accuracy(make.array(x, kind), make.array(exact.predict(x).argmax(axis=1))) == 1.0


@every_network
def test_images_of_bytes(new: Any) -> None:
    """``load_mnist(normalize=False)``: the arithmetic is that of the parameters."""
    network = new()
    pixels = np.random.randint(0, 256, (2, 1, 8, 8)).astype(np.uint8)
    np.testing.assert_array_equal(network.predict(pixels), network.predict(pixels.astype(np.float64)))


@pytest.mark.parametrize("form", ["labels", "column", "one-hot"])
def test_accuracy_and_loss_take_labels_in_three_forms(make: Any, form: str) -> None:
    network = float64_on(make, simple)
    x = make.array(draw(6, 1, 8, 8))
    best = make.to_numpy(network.predict(x)).argmax(axis=1)
    best[0] = (best[0] + 1) % 10
    t = {"labels": best, "column": best[:, None], "one-hot": np.eye(10)[best]}[form]
    assert network.accuracy(x, make.array(t), batch_size=4) == pytest.approx(5 / 6)
    make.check(network.loss(x, make.array(t)), float(network.loss(x, make.array(best))), "float64")


def test_dropout_works_in_training_alone() -> None:
    network, x = deep(), draw(3, 1, 8, 8)
    assert np.array_equal(network.predict(x), network.predict(x, train_flg=False))
    assert not np.array_equal(network.predict(x, train_flg=True), network.predict(x, train_flg=True))
    assert len({float(network.loss(x, np.array([1, 2, 3]))) for _ in range(5)}) > 1


def test_a_network_of_another_shape() -> None:
    network = SimpleConvNet((3, 9, 12), {"filter_num": 4, "filter_size": 3, "pad": 1, "stride": 2}, 7, 5)
    assert network.predict(draw(2, 3, 9, 12)).shape == (2, 5)
    assert network.params["W2"].shape == (4 * 2 * 3, 7)
    other = DeepConvNet((3, 12, 10), *DEEP, hidden_size=6, output_size=4)
    assert other.predict(draw(2, 3, 12, 10)).shape == (2, 4)


@every_network
def test_networks_can_be_copied_and_pickled(new: Any) -> None:
    network, x = new(), draw(2, 1, 8, 8)
    y = network.predict(x)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        network.params["W1"][...] = network.params["W1"]
        np.testing.assert_array_equal(other.predict(x), y)
        assert other.params["W1"] is not network.params["W1"]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"SimpleConvNet: input_dim \(1, 5, 5\) leaves 1x1"):
        SimpleConvNet((1, 5, 5))
    with pytest.raises(ShapeError, match=r"DeepConvNet: images of \(1, 4, 4\) are too small"):
        DeepConvNet((1, 4, 4), *DEEP)
    with pytest.raises(ShapeError, match="SimpleConvNet: kernel 5x5 is larger"):
        SimpleConvNet((1, 3, 3))
    network, x = simple(), draw(3, 1, 8, 8)
    with pytest.raises(ArgumentError, match="batch_size must be at least 1"):
        network.accuracy(x, np.arange(3), batch_size=0)
    with pytest.raises(ShapeError, match=r"accuracy: 3 images .* with labels \(4,\)"):
        network.accuracy(x, np.arange(4))
    with pytest.raises(ShapeError, match="accuracy: 0 images"):
        network.accuracy(x[:0], np.arange(0))
    with pytest.raises(ShapeError, match=r"\(N,\), \(N, 1\) or one-hot"):
        network.accuracy(x, np.zeros((3, 1, 1)))


def test_new_networks_are_made_on_the_current_backend(make: Any) -> None:
    with make.use():
        network = deep()
    assert {xpcnn.backend_of(value).name for value in network.params.values()} == {make.backend}
