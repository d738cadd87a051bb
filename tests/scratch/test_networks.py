"""SimpleConvNet and DeepConvNet: the core's models, finite differences, the book's conventions."""

import copy
import pickle
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest

import xpcnn
from tests.support.scratch import LABEL_FORMS, TINY, draw, writable
from xpcnn import models
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.scratch.deep_convnet import DeepConvNet
from xpcnn.scratch.layers import Dropout
from xpcnn.scratch.simple_convnet import SimpleConvNet

DEEP = [{"filter_num": n, "filter_size": 3, "pad": 1, "stride": 1} for n in (2, 1, 1, 2, 2, 1)]


def simple():
    return SimpleConvNet((1, 8, 8), TINY, hidden_size=5, weight_init_std=0.3)


def deep():
    return DeepConvNet((1, 8, 8), *DEEP, hidden_size=4)


every_network = pytest.mark.parametrize("new", [simple, deep], ids=["SimpleConvNet", "DeepConvNet"])


def float64_on(make, new):
    """A network of float64 parameters that may be changed; biases are drawn: at 0, relu has a kink."""
    np.random.seed(0)
    network = new()
    for key, value in network.params.items():
        value = 0.2 * draw(*value.shape) if key.startswith("b") else value
        network.params[key] = value if make is None else writable(make, value)
    return network


@pytest.mark.parametrize(
    ("new", "core"), [(SimpleConvNet, models.simple_convnet), (DeepConvNet, models.deep_convnet)]
)
def test_logits_of_the_cores_model(make, new, core):
    """The book's dropout halves in use, once before the last layer and once after it."""
    network, model = new(), core(dtype="float64")
    state = dict(zip(model.state_dict(), network.params.values(), strict=True))
    state = {path: W.T if W.ndim == 2 else W for path, W in state.items()}
    if new is DeepConvNet:
        state |= {"fc2.weight": state["fc2.weight"] * 0.25, "fc2.bias": state["fc2.bias"] * 0.5}
    model.load_state_dict(state)
    x = draw(2, 1, 28, 28)
    network.params = {key: make.array(value) for key, value in network.params.items()}
    make.check(network.predict(make.array(x)), model(x), "float64")


X, T = draw(2, 1, 8, 8), np.array([1, 7])


@every_network
def test_gradients_by_finite_differences(new):
    """With the same dropout masks: both draw theirs first of all."""
    network = float64_on(None, new)
    np.random.seed(4)
    numeric = network.numerical_gradient(X, T)
    np.random.seed(4)
    exact = network.gradient(X, T)
    assert list(numeric) == list(exact) == list(network.params)
    for key, gradient in exact.items():
        np.testing.assert_allclose(gradient, numeric[key], rtol=0, atol=1e-5)
    assert any(np.abs(gradient).max() > 0.01 for gradient in exact.values())
    masks = set()
    for _ in range(20):  # which are drawn anew afterwards
        network.loss(X, T)
        masks |= {layer.mask.tobytes() for layer in network._layer_list() if isinstance(layer, Dropout)}
    assert len(masks) > 5 or new is simple


@every_network
def test_gradients_on_every_backend(make, new):
    right, network = float64_on(None, new), float64_on(make, new)
    expected = right.gradient(X, T)
    for layer, other in zip(network._layer_list(), right._layer_list(), strict=True):
        if isinstance(layer, Dropout):
            layer.hold, layer._ctx = True, make.array(other.mask)
    for key, gradient in network.gradient(make.array(X), make.array(T)).items():
        make.check(gradient, expected[key], "float64", scale=1.0)


def test_the_books_layers_and_draws():
    """After the same seed the initial weights are the book's, number for number."""
    np.random.seed(9)
    network, deep_network = SimpleConvNet(), DeepConvNet()
    np.random.seed(9)
    for key, shape in {"W1": (30, 1, 5, 5), "W2": (4320, 100), "W3": (100, 10)}.items():
        np.testing.assert_array_equal(network.params[key], 0.01 * np.random.randn(*shape))
    assert isinstance(network.layers, OrderedDict)
    assert list(network.layers) == ["Conv1", "Relu1", "Pool1", "Affine1", "Relu2", "Affine2"]
    assert list(network.params) == ["W1", "b1", "W2", "b2", "W3", "b3"]
    channels = [(16, 1), (16, 16), (32, 16), (32, 32), (64, 32), (64, 64)]
    for i, shape in enumerate([*((k, c, 3, 3) for k, c in channels), (1024, 50), (50, 10)], start=1):
        fan_in = shape[0] if len(shape) == 2 else 9 * shape[1]
        weight = np.sqrt(2.0 / fan_in) * np.random.randn(*shape)
        np.testing.assert_array_equal(deep_network.params[f"W{i}"], weight)
        assert not deep_network.params[f"b{i}"].any()
    kinds = [type(layer).__name__ for layer in deep_network.layers]
    block = ["Convolution", "Relu", "Convolution", "Relu", "Pooling"]
    assert kinds == [*block * 3, "Affine", "Relu", "Dropout", "Affine", "Dropout"]


@every_network
def test_params_that_are_replaced_or_changed_in_place_are_seen(make, new):
    network, x = float64_on(make, new), make.array(draw(3, 1, 8, 8))
    seen = [make.to_numpy(network.predict(x)).copy()]
    network.params["W1"] *= 2
    seen.append(make.to_numpy(network.predict(x)).copy())
    network.params = {key: value * 1 for key, value in network.params.items()}
    np.testing.assert_array_equal(make.to_numpy(network.predict(x)), seen[-1])
    network.params["b1"] = network.params["b1"] + 1
    seen.append(make.to_numpy(network.predict(x)))
    assert not any(np.allclose(one, other) for one, other in pairwise(seen))
    for i, layer in enumerate(network._weight_layers(), start=1):
        assert layer.W is network.params[f"W{i}"]
        assert layer.b is network.params[f"b{i}"]


@every_network
@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_narrow_parameters(make, new, kind):
    """As ``half_float_network.py`` makes them: no float64 comes in between."""
    if not make.has(kind):
        pytest.skip(f"no {kind}")
    network, x = new(), draw(4, 1, 8, 8)
    expected = network.predict(x)
    network.params = {key: make.array(value, kind) for key, value in network.params.items()}
    y = network.predict(make.array(x, kind))
    make.check(y, expected, kind, rtol=2e-2 if kind == "float16" else 1e-5)
    for gradient in network.gradient(make.array(x, kind), make.array([0, 1, 2, 3])).values():
        make.check_kind(gradient, tuple(gradient.shape), kind)
    assert network.accuracy(make.array(x, kind), make.array(expected.argmax(axis=1))) == 1.0


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_accuracy_and_loss_take_labels_in_all_forms(make, form):
    network = float64_on(make, simple)
    x = make.array(draw(6, 1, 8, 8))
    best = make.to_numpy(network.predict(x)).argmax(axis=1)
    best[-1] = (best[-1] + 1) % 10  # in the last incomplete batch, which the book leaves out of the hits
    t = make.array(LABEL_FORMS[form](best, 10))
    for batch_size in (1, 4, 6, 100):
        assert network.accuracy(x, t, batch_size) == pytest.approx(5 / 6)
    make.check(network.loss(x, t), float(network.loss(x, make.array(best))), "float64")


def test_dropout_works_in_training_alone():
    network, x = deep(), draw(3, 1, 8, 8)
    assert np.array_equal(network.predict(x), network.predict(x, train_flg=False))
    assert not np.array_equal(network.predict(x, train_flg=True), network.predict(x, train_flg=True))


OTHER_SHAPES = {
    "odd sizes": (lambda: SimpleConvNet((1, 9, 9), TINY), (1, 9, 9), {"W2": (2 * 3 * 3, 100)}, 10),
    "a stride": (
        lambda: SimpleConvNet((3, 9, 12), {**TINY, "filter_num": 4, "pad": 1, "stride": 2}, 7, 5),
        (3, 9, 12),
        {"W2": (4 * 2 * 3, 7)},
        5,
    ),
    "deep": (lambda: DeepConvNet((3, 12, 10), *DEEP, hidden_size=6, output_size=4), (3, 12, 10), {}, 4),
}


@pytest.mark.parametrize(
    ("new", "image", "shapes", "classes"), OTHER_SHAPES.values(), ids=OTHER_SHAPES.keys()
)
def test_networks_of_other_shapes_on_the_current_backend(make, new, image, shapes, classes):
    with make.use():
        network = new()
        y = network.predict(make.xp.zeros((2, *image), device=make.device))
    assert tuple(y.shape) == (2, classes)
    for key, value in network.params.items():
        assert xpcnn.backend_of(value).name == make.backend
        assert tuple(value.shape) == shapes.get(key, tuple(value.shape))


@every_network
def test_networks_can_be_copied_and_pickled_and_take_bytes(new):
    """``load_mnist(normalize=False)``: the arithmetic is that of the parameters."""
    network = new()
    pixels = np.random.randint(0, 256, (2, 1, 8, 8)).astype(np.uint8)
    y = network.predict(pixels)
    np.testing.assert_array_equal(y, network.predict(pixels.astype(np.float64)))
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        np.testing.assert_array_equal(other.predict(pixels), y)
        assert other.params["W1"] is not network.params["W1"]


def test_what_does_not_fit_is_refused():
    network, x = simple(), draw(3, 1, 8, 8)
    for error, message, call in (
        (ShapeError, "SimpleConvNet: kernel 2x2 is larger", lambda: SimpleConvNet((1, 5, 5))),
        (ShapeError, "SimpleConvNet: kernel 5x5 is larger", lambda: SimpleConvNet((1, 3, 3))),
        (ShapeError, "DeepConvNet: kernel 2x2 is larger", lambda: DeepConvNet((1, 4, 4), *DEEP)),
        (
            ArgumentError,
            "batch_size must be an integer of at least 1",
            lambda: network.accuracy(x, np.arange(3), 0),
        ),
        (ShapeError, r"accuracy: .* labels of shape \(4,\)", lambda: network.accuracy(x, np.arange(4))),
        (
            ShapeError,
            r"accuracy: samples of shape \(0, 1, 8, 8\)",
            lambda: network.accuracy(x[:0], np.arange(0)),
        ),
        (ShapeError, r"\(N, 1\) or one-hot", lambda: network.accuracy(x, np.zeros((3, 1, 1)))),
    ):
        with pytest.raises(error, match=message):
            call()
