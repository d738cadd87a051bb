"""The book's layers: forward and backward against loops, finite differences and PyTorch, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support import oracles
from tests.support.scratch import draw, slope_at
from xpcnn.errors import ArgumentError
from xpcnn.scratch import layers


def forward_and_back(make: Any, layer: Any, x: Any, dout: Any, dtype: str) -> tuple[Any, Any]:
    """Both on the backend of `make`, which must not change what they are given."""
    with make.unchanged(given := (make.array(x, dtype), make.array(dout, dtype))):
        y = layer.forward(given[0])
        dx = layer.backward(given[1])
    return y, dx


SIMPLE = {
    "Relu": (layers.Relu, oracles.relu, oracles.relu_gradients),
    "Sigmoid": (layers.Sigmoid, oracles.sigmoid, oracles.sigmoid_gradients),
}


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4, 2)])
def test_activations(make: Any, dtype: str, name: str, shape: tuple[int, ...]) -> None:
    kind, forward, backward = SIMPLE[name]
    x, dout = draw(*shape), draw(*shape, seed=1)
    y, dx = forward_and_back(make, kind(), x, dout, dtype)
    make.check(y, forward(x), dtype)
    make.check(dx, backward(x, dout), dtype)


def test_what_activations_keep(make: Any) -> None:
    x = np.array([[-1.0, 0.0, 2.0]])
    relu, sigmoid = layers.Relu(), layers.Sigmoid()
    assert (relu.mask, sigmoid.out) == (None, None)
    relu.forward(make.array(x))
    y = sigmoid.forward(make.array(x))
    np.testing.assert_array_equal(make.to_numpy(relu.mask), [[True, True, False]])
    assert sigmoid.out is y


@pytest.mark.parametrize("shape", [(4, 6), (4, 1, 2, 3), (1, 6), (0, 6)])
def test_affine(make: Any, dtype: str, shape: tuple[int, ...]) -> None:
    """Images are laid out flat, and their gradient has their shape."""
    W, b, x, dout = draw(6, 5), draw(5), draw(*shape), draw(shape[0], 5, seed=1)
    layer = layers.Affine(make.array(W, dtype), make.array(b, dtype))
    assert (layer.x, layer.dW, layer.db) == (None, None, None)
    y, dx = forward_and_back(make, layer, x, dout, dtype)
    flat = x.reshape(shape[0], 6)
    make.check(y, flat @ W + b, dtype)
    make.check(dx, (dout @ W.T).reshape(shape), dtype)
    make.check(layer.dW, flat.T @ dout, dtype)
    make.check(layer.db, dout.sum(axis=0), dtype)
    assert tuple(layer.x.shape) == (shape[0], 6)
    assert layer.original_x_shape == shape


def test_affine_by_finite_differences() -> None:
    W, b, x, dout = draw(6, 5), draw(5), draw(3, 2, 3), draw(3, 5, seed=1)

    def forward(x: Any, W: Any, b: Any) -> Any:
        return layers.Affine(W, b).forward(x)

    layer = layers.Affine(W, b)
    layer.forward(x)
    dx = layer.backward(dout)
    np.testing.assert_allclose(dx, slope_at(lambda v: forward(v, W, b), x, dout), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(layer.dW, slope_at(lambda v: forward(x, v, b), W, dout), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(layer.db, slope_at(lambda v: forward(x, W, v), b, dout), rtol=1e-7, atol=1e-9)


CONVOLUTIONS = {"plain": (1, 0), "padded": (1, 2), "stride does not divide": (2, 1)}


@pytest.mark.parametrize(("stride", "pad"), CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolution(make: Any, dtype: str, stride: int, pad: int) -> None:
    x, W, b = draw(2, 3, 6, 7), draw(4, 3, 3, 2), draw(4)
    strides, pads = (stride, stride), (pad,) * 4
    expected = oracles.conv2d(x, W, b, strides, pads)
    dout = draw(*expected.shape, seed=1)
    layer = layers.Convolution(make.array(W, dtype), make.array(b, dtype), stride, pad)
    assert (layer.x, layer.dW, layer.db) == (None, None, None)
    y, dx = forward_and_back(make, layer, x, dout, dtype)
    make.check(y, expected, dtype)
    for found, right in zip(
        (dx, layer.dW, layer.db), oracles.conv2d_gradients(x, W, dout, strides, pads), strict=True
    ):
        make.check(found, right, dtype)
    assert tuple(layer.x.shape) == x.shape


def test_convolution_may_leave_out_dx() -> None:
    layer = layers.Convolution(draw(2, 1, 2, 2), draw(2))
    dout = np.ones_like(layer.forward(draw(1, 1, 4, 4)))
    layer.backward(dout)
    dW = layer.dW
    assert layer.backward(dout, need_dx=False) is None
    np.testing.assert_array_equal(layer.dW, dW)


@pytest.mark.parametrize("pool", [(2, 2, 2, 0), (3, 2, 1, 1), (2, 3, 2, 1), (2, 2, 1, 0), (2, 2, 3, 0)])
def test_pooling(make: Any, dtype: str, pool: tuple[int, int, int, int]) -> None:
    pool_h, pool_w, stride, pad = pool
    window = ((pool_h, pool_w), (stride, stride), (pad, pad))
    x = np.random.default_rng(0).permutation(2 * 3 * 6 * 7).reshape(2, 3, 6, 7) - 200.0
    expected = oracles.max_pool2d(x, *window)
    dout = draw(*expected.shape, seed=1)
    layer = layers.Pooling(pool_h, pool_w, stride, pad)
    y, dx = forward_and_back(make, layer, x, dout, dtype)
    make.check(y, expected, dtype)
    make.check(dx, oracles.max_pool2d_gradients(x, dout, *window), dtype)
    assert tuple(layer.x.shape) == x.shape


LABELS = np.array([2, 0, 1, 1])
FORMS = {
    "labels": LABELS,
    "uint8 labels": LABELS.astype(np.uint8),
    "a column": LABELS[:, None],
    "one-hot": np.eye(3)[LABELS],
    "one-hot float32": np.eye(3, dtype=np.float32)[LABELS],
    "one-hot integers": np.eye(3, dtype=np.int64)[LABELS],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_softmax_with_loss(make: Any, dtype: str, form: Any) -> None:
    x = draw(4, 3)
    layer = layers.SoftmaxWithLoss()
    assert (layer.loss, layer.y, layer.t) == (None, None, None)
    t = make.array(form)
    loss = layer.forward(make.array(x, dtype), t)
    make.check(loss, oracles.softmax_cross_entropy(x, LABELS), dtype)
    assert layer.loss is loss
    assert layer.t is t
    make.check(layer.y, oracles.softmax(x), dtype)
    make.check(layer.backward(), oracles.softmax_cross_entropy_gradients(x, LABELS), dtype)
    make.check(layer.backward(3), oracles.softmax_cross_entropy_gradients(x, LABELS, dy=3.0), dtype)


@pytest.mark.parametrize(
    "t", [np.array(1), np.array([1]), np.array([0, 1, 0])], ids=["0-d", "label", "one-hot"]
)
def test_the_loss_of_a_single_sample(make: Any, t: Any) -> None:
    """The book's backward divides by the length of a one-hot label."""
    x = draw(3)
    layer = layers.SoftmaxWithLoss()
    loss = layer.forward(make.array(x), make.array(t))
    make.check(loss, oracles.softmax_cross_entropy(x[None], np.array([1])), "float64")
    make.check(layer.y, oracles.softmax(x), "float64")
    make.check(
        layer.backward(), oracles.softmax_cross_entropy_gradients(x[None], np.array([1]))[0], "float64"
    )


def test_the_loss_agrees_with_the_books_to_its_small_number() -> None:
    x = draw(50, 10)
    t = np.arange(50) % 10
    book = layers.cross_entropy_error(layers.softmax(x), t)
    assert layers.SoftmaxWithLoss().forward(x, t) == pytest.approx(book, abs=2e-5)


def test_a_loss_can_be_added_to_without_changing_the_layers() -> None:
    layer = layers.SoftmaxWithLoss()
    loss = layer.forward(draw(4, 3), LABELS)
    before = float(loss)
    loss += 1
    assert layer.loss == before


def test_dropout_in_training(make: Any, dtype: str) -> None:
    """Not inverted: what is kept is kept as it is."""
    x, dout = draw(400, 50), draw(400, 50, seed=1)
    layer = layers.Dropout(0.3)
    assert layer.mask is None
    y, dx = forward_and_back(make, layer, x, dout, dtype)
    kept = make.to_numpy(layer.mask)
    make.check(y, x * kept, dtype)
    make.check(dx, dout * kept, dtype)
    assert kept.mean() == pytest.approx(0.7, abs=0.01)
    again = make.to_numpy(layer.forward(make.array(x, dtype)))
    assert not np.array_equal(again, make.to_numpy(y))


def test_dropout_in_use_scales(make: Any, dtype: str) -> None:
    x = draw(3, 4)
    make.check(layers.Dropout(0.3).forward(make.array(x, dtype), train_flg=False), x * 0.7, dtype)
    make.check(layers.Dropout().forward(make.array(x, dtype), False), x * 0.5, dtype)


def test_dropouts_masks_follow_the_global_seed(make: Any) -> None:
    x = make.array(np.ones((5, 6)))
    masks = []
    for _ in range(2):
        with make.use():
            layers.np.random.seed(3)
        layer = layers.Dropout(0.5)
        layer.forward(x)
        masks.append(make.to_numpy(layer.mask))
    np.testing.assert_array_equal(*masks)
    if make.backend == "numpy":  # the same as the book's, number for number
        np.random.seed(3)
        np.testing.assert_array_equal(masks[0], np.random.rand(5, 6) > 0.5)


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_a_ratio_is_from_0_to_1(ratio: float) -> None:
    with pytest.raises(ArgumentError, match="dropout_ratio must be from 0 to 1"):
        layers.Dropout(ratio)


FRESH = {
    "Relu": layers.Relu,
    "Sigmoid": layers.Sigmoid,
    "Affine": lambda: layers.Affine(np.ones((2, 2)), np.ones(2)),
    "SoftmaxWithLoss": layers.SoftmaxWithLoss,
    "Dropout": layers.Dropout,
    "BatchNormalization": lambda: layers.BatchNormalization(np.ones(2), np.zeros(2)),
    "Convolution": lambda: layers.Convolution(np.ones((1, 1, 2, 2)), np.ones(1)),
    "Pooling": lambda: layers.Pooling(2, 2),
}


@pytest.mark.parametrize("name", FRESH)
def test_backward_before_forward_says_so(name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"{name}\.backward: there is no forward pass"):
        FRESH[name]().backward(np.ones((2, 2)))


def test_a_row_of_layers_against_pytorch() -> None:
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    x, t = draw(4, 1, 8, 8), np.array([0, 2, 1, 2])
    W1, b1, W2, b2 = draw(3, 1, 3, 3), draw(3), draw(27, 3), draw(3, seed=1)
    row = [
        layers.Convolution(W1, b1, stride=1, pad=0),
        layers.Relu(),
        layers.Pooling(2, 2, stride=2),
        layers.Affine(W2, b2),
    ]
    y = x
    for layer in row:
        y = layer.forward(y)
    last = layers.SoftmaxWithLoss()
    loss = last.forward(y, t)
    dout = last.backward()
    for layer in reversed(row):
        dout = layer.backward(dout)

    tensors = [torch.tensor(v, requires_grad=True) for v in (x, W1, b1, W2, b2)]
    tx, tW1, tb1, tW2, tb2 = tensors
    z = F.max_pool2d(F.relu(F.conv2d(tx, tW1, tb1)), 2).flatten(1) @ tW2 + tb2
    torch_loss = F.cross_entropy(z, torch.tensor(t))
    torch_loss.backward()
    assert float(loss) == pytest.approx(torch_loss.item(), rel=1e-12)
    for found, tensor in zip((dout, row[0].dW, row[0].db, row[3].dW, row[3].db), tensors, strict=True):
        np.testing.assert_allclose(found, tensor.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_layers_stay_on_the_device_of_their_input(make: Any) -> None:
    """The current backend is another one; only what is created asks for it."""
    x = make.array(draw(2, 3))
    with xpcnn.use_backend("numpy"):
        for layer in (layers.Relu(), layers.Dropout(), layers.Sigmoid()):
            assert xpcnn.backend_of(layer.forward(x)).name == make.backend
