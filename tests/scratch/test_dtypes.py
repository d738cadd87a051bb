"""What layers accept beside plain float64: mixed dtypes, integers, half precision, biases of other shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.scratch import draw, writable
from xpcnn.errors import BackendError
from xpcnn.scratch import layers


def affine(make: Any, W: str, b: str | None = None) -> layers.Affine:
    return layers.Affine(make.array(draw(6, 5), W), make.array(draw(5), b or W))


def convolution(make: Any, W: str, b: str | None = None) -> layers.Convolution:
    return layers.Convolution(make.array(draw(5, 1, 2, 2), W), make.array(draw(5), b or W))


def batch_norm(make: Any, W: str, b: str | None = None) -> layers.BatchNormalization:
    return layers.BatchNormalization(make.array(draw(1), W), make.array(draw(1), b or W))


LAYERS = {
    "Affine": (affine, (3, 6)),
    "Convolution": (convolution, (2, 1, 4, 5)),
    "BatchNormalization": (batch_norm, (4, 1, 2, 2)),
}
every_layer = pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS.keys())


def gradients(layer: Any) -> tuple[Any, Any]:
    return (layer.dgamma, layer.dbeta) if hasattr(layer, "gamma") else (layer.dW, layer.db)


def host(make: Any, *arrays: Any) -> list[Any]:
    return [np.asarray(make.to_numpy(array), dtype=np.float64) for array in arrays]


@every_layer
@pytest.mark.parametrize(
    ("x", "W", "b", "result"),
    [
        ("float32", "float64", "float64", "float64"),
        ("float64", "float32", "float32", "float64"),
        ("float32", "float32", "float64", "float64"),
        ("float16", "float32", "float32", "float32"),
        ("float32", "float16", "float16", "float32"),
        ("float16", "float16", "float16", "float16"),
        ("uint8", "float32", "float32", "float32"),
        ("int64", "float32", "float32", "float32"),
        ("uint8", "float64", "float64", "float64"),
    ],
)
def test_mixed_dtypes_take_the_result_type(
    make: Any, build: Any, shape: tuple[int, ...], x: str, W: str, b: str, result: str
) -> None:
    """Gradients have the dtype of their parameter, so that an update in place needs no cast."""
    if not all(make.has(name) for name in (x, W, b)):
        pytest.skip("no float16")
    values = np.random.default_rng(0).integers(0, 9, shape)
    layer = build(make, W, b)
    with make.unchanged(given := make.array(values, x)):
        y = layer.forward(given)
    make.check_kind(y, tuple(y.shape), result)
    dout = draw(*y.shape)
    dx = layer.backward(make.array(dout))  # float64, whatever y is
    make.check_kind(dx, shape, result)
    for gradient, parameter in zip(gradients(layer), (W, b), strict=True):
        make.check_kind(gradient, tuple(gradient.shape), parameter)

    right = build(make, "float64")
    right_y, right_dx = right.forward(make.array(values, "float64")), right.backward(make.array(dout))
    tolerance = {"float16": 2e-2, "float32": 1e-4, "float64": 1e-12}
    for found, expected in zip(
        host(make, y, dx, *gradients(layer)), host(make, right_y, right_dx, *gradients(right)), strict=True
    ):
        coarsest = max(tolerance.get(name, 0.0) for name in (W, b, result))
        np.testing.assert_allclose(found, expected, rtol=coarsest, atol=coarsest * np.abs(expected).max())


def test_integers_alone_are_computed_as_floats(make: Any) -> None:
    """W and x of integers, as in the worked examples."""
    W, x = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 2]])
    layer = layers.Affine(make.array(W), make.array(np.array([1, 1, 1])))
    y = layer.forward(make.array(x))
    np.testing.assert_array_equal(make.to_numpy(y), [[10, 13, 16]])
    for simple in (layers.Relu(), layers.Sigmoid(), layers.Dropout(), layers.Pooling(1, 1)):
        z = simple.forward(make.array(np.ones((1, 1, 2, 2), dtype=np.uint8)))
        assert "float" in str(z.dtype)


BIASES: dict[str, Any] = {
    "a number": 0.5,
    "an integer": 2,
    "a row": np.arange(5.0).reshape(1, 5),
    "one for all": np.array([0.25]),
}


@pytest.mark.parametrize("b", BIASES.values(), ids=BIASES.keys())
@pytest.mark.parametrize("name", ["Affine", "Convolution"])
def test_biases_of_other_shapes(make: Any, name: str, b: Any) -> None:
    """The book's arithmetic broadcasts them: its ``apply_filter.py`` says ``Convolution(w, 0)``."""
    build, shape = LAYERS[name]
    plain, layer = build(make, "float32"), build(make, "float32")
    plain.b = make.array(np.broadcast_to(np.ravel(b), (5,)), "float32")
    layer.b = make.array(b, "float32") if isinstance(b, np.ndarray) else b
    x = make.array(draw(*shape), "float32")
    y = layer.forward(x)
    make.check(y, make.to_numpy(plain.forward(x)), "float32")
    for each in (plain, layer):
        each.backward(make.array(np.ones(tuple(y.shape)), "float32"))
    same_shape = isinstance(b, np.ndarray) and b.size == 5
    make.check(layer.db, make.to_numpy(plain.db).reshape(b.shape if same_shape else (5,)), "float32")


@pytest.mark.parametrize("name", ["Affine", "Convolution"])
def test_updates_in_place_are_seen(make: Any, name: str) -> None:
    """The layer holds the very arrays of ``params``."""
    build, shape = LAYERS[name]
    drawn = build(make, "float64")
    params = {"W": writable(make, make.to_numpy(drawn.W)), "b": writable(make, make.to_numpy(drawn.b))}
    layer = type(drawn)(params["W"], params["b"])
    x = make.array(draw(*shape))
    before = make.to_numpy(layer.forward(x)).copy()
    params["W"] -= 1.0
    params["b"] += 2.0
    assert layer.W is params["W"]
    other = build(make, "float64")
    other.W, other.b = make.array(make.to_numpy(params["W"])), make.array(make.to_numpy(params["b"]))
    after = make.to_numpy(layer.forward(x))
    np.testing.assert_array_equal(after, make.to_numpy(other.forward(x)))
    assert not np.allclose(after, before)


def test_parameters_on_another_backend_are_refused() -> None:
    with xpcnn.use_backend("array_api_strict"):
        W, b = xpcnn.asarray(draw(6, 5)), xpcnn.asarray(draw(5))
    with pytest.raises(BackendError, match=r"Affine: x is on numpy \(cpu\), W on array_api_strict"):
        layers.Affine(W, b).forward(draw(3, 6))
    with pytest.raises(BackendError, match="labels: y is on numpy"):
        layers.SoftmaxWithLoss().forward(draw(2, 5), xpcnn.backend_of(W).asarray([1, 2]))
