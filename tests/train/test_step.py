"""One training step: what it computes, where, and what it does not wait for."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Key, Trainer, models, nn, ops, optim
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, DtypeError


def test_a_step_is_forward_loss_backward_update(new_model: Callable[..., Any], digits: Dataset) -> None:
    """Against the same written out, with the same random masks."""
    model, other = new_model(dtype="float64"), new_model(dtype="float64")
    trainer = Trainer(model, optim.SGD(model, lr=0.5), seed=3)
    for number in range(3):
        images, labels = digits[10 * number : 10 * number + 10]
        loss = trainer.step(images, labels)
        key = Key(3).fold("step").fold(number)
        y, ctx = other.forward(images / 255, train=True, key=key)
        expected, loss_ctx = ops.softmax_cross_entropy(y, labels)
        grads = nn.Gradients()
        other.backward(ctx, ops.softmax_cross_entropy.backward(loss_ctx), grads)
        for parameter, gradient in grads.items():
            parameter.data = parameter.data - 0.5 * gradient
        assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    for path, parameter in other.parameters().items():
        np.testing.assert_allclose(model.parameters()[path].data, parameter.data, rtol=1e-10, atol=1e-12)
    assert trainer.steps == 3


def test_the_loss_is_a_0d_array_where_the_model_is(
    make: Any, new_model: Callable[..., Any], digits: Dataset
) -> None:
    with make.use():
        model = new_model()
    trainer = Trainer(model, optim.Adam(model))
    images, labels = digits[:8]
    for x, t in (
        (images, labels),  # bytes on the host
        (images.astype(np.float64) / 255, np.eye(10)[labels]),  # prepared, one-hot
        (make.array(images), make.array(labels)),  # on the device already
    ):
        make.check_kind(trainer.step(x, t), (), "float32")


def test_uint8_is_normalised_by_the_model(digits: Dataset) -> None:
    images, labels = digits[:8]
    bytes_, prepared = (
        Trainer(model := models.tiny_convnet(dtype="float64"), optim.SGD(model)) for _ in range(2)
    )
    layer = nn.preprocess_of(bytes_.model)
    assert layer is not None
    assert (layer.mean, layer.std) == (0.5, 1.0)
    losses = [bytes_.step(images, labels), prepared.step(images / 255 - 0.5, labels)]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-12)


def test_images_of_other_kinds_are_refused(new_trainer: Callable[..., Trainer], digits: Dataset) -> None:
    with pytest.raises(DtypeError, match="images must be uint8 or floating, got int64"):
        new_trainer().step(digits.images.astype(np.int64), digits.labels)


def test_a_step_that_fails_changes_nothing(digits: Dataset) -> None:
    """A label that is no class is found by the loss, after batch-norm has seen the images."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10))
    trainer = Trainer(model, optim.SGD(model, lr=0.1))
    before = {path: xpcnn.to_numpy(array).tobytes() for path, array in model.state_dict().items()}
    with pytest.raises(ArgumentError, match="label 10 is outside 0 to 9"):
        trainer.step(digits.images[:8], np.full(8, 10))
    after = {path: xpcnn.to_numpy(array).tobytes() for path, array in model.state_dict().items()}
    assert after == before
    assert trainer.steps == 0


def test_a_loss_of_ones_own(digits: Dataset) -> None:
    images, labels = digits[:8]
    one_hot = np.eye(10, dtype=np.float32)[labels]
    model = models.tiny_convnet()
    y = model(images.astype(np.float32) / 255 - 0.5)
    trainer = Trainer(model, optim.SGD(model), loss=(ops.mean_squared_error, ops.mean_squared_error.backward))
    assert float(trainer.step(images, one_hot)) == pytest.approx(float(((y - one_hot) ** 2).mean()), rel=1e-5)


def test_frozen_parameters_stay(new_model: Callable[..., Any], digits: Dataset) -> None:
    model = new_model()
    model.conv1.weight.trainable = False
    before = model.conv1.weight.data.copy()
    bias = model.conv1.bias.data.copy()
    Trainer(model, optim.SGD(model, lr=0.1)).step(*digits[:8])
    np.testing.assert_array_equal(model.conv1.weight.data, before)
    assert not np.array_equal(model.conv1.bias.data, bias)


# -- waiting for the device ------------------------------------------------------------


def noting(seen: list[str], name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.append(name)
        return method(*args, **kwargs)

    return noted


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every look at a value of an array_api_strict array, by the way it was taken."""
    strict = pytest.importorskip("array_api_strict")
    kind = type(strict.zeros(1))
    seen: list[str] = []
    for name in ("__float__", "__int__", "__bool__", "__index__", "__complex__", "__array__", "__buffer__"):
        if hasattr(kind, name):
            monkeypatch.setattr(kind, name, noting(seen, name, getattr(kind, name)))
    backend = type(xpcnn.backend.registry.load("array_api_strict"))
    monkeypatch.setattr(backend, "is_host", False)  # as on a GPU
    # Its own two go through the host.
    monkeypatch.setattr(backend, "copy", xpcnn.backend.Backend.copy)
    asarray = backend.asarray

    def staying(self: Any, x: Any, dtype: Any = None) -> Any:
        return self.xp.asarray(x, dtype=self.dtype(dtype)) if isinstance(x, kind) else asarray(self, x, dtype)

    monkeypatch.setattr(backend, "asarray", staying)
    to_numpy = backend.to_numpy

    def counted_copy(self: Any, x: Any) -> Any:
        before = len(seen)
        result = to_numpy(self, x)
        seen[before:] = ["to_numpy"]
        return result

    monkeypatch.setattr(backend, "to_numpy", counted_copy)
    return seen


@pytest.mark.parametrize("new", ["new_trainer", "new_equipped"])
def test_a_step_reads_nothing(
    reads: list[str], new: str, request: pytest.FixtureRequest, digits: Dataset
) -> None:
    with xpcnn.use_backend("array_api_strict"):
        trainer = request.getfixturevalue(new)()
    trainer.step(*digits[:4])  # whatever is made once
    reads.clear()
    loss = trainer.step(*digits[:4])
    assert reads == []
    float(loss)
    assert reads == ["__float__"]  # the counter counts


def test_fit_reads_ten_losses_at_a_time(
    reads: list[str], new_trainer: Callable[..., Trainer], digits: Dataset
) -> None:
    with xpcnn.use_backend("array_api_strict"):
        trainer = new_trainer()
    trainer.step(*digits[:4])
    reads.clear()
    trainer.fit(digits[:50], None, 1, 2, evaluate_samples=10, progress=None)
    losses, weights, evaluation = 3, 1, 2  # after 10, 20 and 25 steps; finite or not; right ones, the loss
    assert reads == ["to_numpy"] * (losses + weights + evaluation)


@pytest.mark.parametrize("own_loop", [False, True], ids=["trainer", "loop of one's own"])
def test_no_autograd_graph_survives_a_step(own_loop: bool) -> None:
    """Images that require a gradient are features of somebody's torch module."""
    torch = pytest.importorskip("torch")
    body = torch.nn.Conv2d(1, 4, 3, padding=1)
    with xpcnn.use_backend("torch"):
        model = nn.Sequential(nn.Conv2d(4, 3, 3, seed=0), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
        model = nn.Sequential(model, nn.Linear(108, 10, seed=0))
    optimizer = optim.Adam(model)
    trainer = Trainer(model, optimizer, average=optim.WeightAverage(model, 0.9), clip_norm=1.0)
    x, t = torch.rand(10, 1, 8, 8), torch.randint(0, 10, (10,))
    kept: list[Any] = []

    class Box:
        """What a graph keeps of a tensor: it goes with the graph."""

        def __init__(self, tensor: Any) -> None:
            self.tensor = tensor
            kept.append(weakref.ref(self))

    for _ in range(3):
        with torch.autograd.graph.saved_tensors_hooks(Box, lambda box: box.tensor):
            features = body(x)
        if own_loop:
            y, ctx = model.forward(features, train=True)
            loss, loss_ctx = ops.softmax_cross_entropy(y, t)
            grads = nn.Gradients()
            model.backward(ctx, ops.softmax_cross_entropy.backward(loss_ctx), grads)
            optimizer.step(grads)
            del y, ctx, loss_ctx, grads
        else:
            loss = trainer.step(features, t)
        assert not loss.requires_grad
        del features
    trainer.evaluate((body(x), t))
    gc.collect()
    assert kept
    assert all(box() is None for box in kept)
    state = [*model.state_dict().values(), *trainer.average.state_dict()["averages"].values()]
    state += [array for slots in optimizer.state_dict()["state"].values() for array in slots.values()]
    assert not any(array.requires_grad for array in state)
    held = [*model.parameters().values(), *model.buffers().values()]
    assert not any(entry.data.requires_grad for entry in held)
