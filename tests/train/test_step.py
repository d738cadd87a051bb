"""One training step: what it computes, and where."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Key, Trainer, nn, ops, optim
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, DtypeError
from xpcnn.train import evaluate


def gradients(model: nn.Layer, images: Any, labels: Any, key: Key) -> tuple[float, nn.Gradients]:
    """Forward, loss and backward, written out."""
    y, ctx = model.forward(images / 255, train=True, key=key)
    loss, loss_ctx = ops.softmax_cross_entropy(y, labels)
    grads = nn.Gradients()
    model.backward(ctx, ops.softmax_cross_entropy.backward(loss_ctx), grads)
    return float(loss), grads


def test_a_step_clips_updates_schedules_and_averages(new_model: Any, digits: Dataset) -> None:
    """Against the same written out."""
    model, other = new_model(dtype="float64"), new_model(dtype="float64")
    optimizer = optim.SGD(model, lr=0.8)
    schedule = optim.StepLR(optimizer, 1, gamma=0.5)
    average = optim.WeightAverage(model, decay=0.25)
    trainer = Trainer(model, optimizer, schedule=schedule, clip_norm=0.5, average=average, seed=3)
    averages = {path: p.data.copy() for path, p in other.parameters().items()}
    for number in range(3):
        batch = digits[10 * number : 10 * number + 10]
        loss = float(trainer.step(*batch))
        expected, grads = gradients(other, *batch, Key(3).fold("step").fold(number))
        assert loss == pytest.approx(expected, rel=1e-12 if number == 0 else 1e-6)
        norm = math.sqrt(sum(float((gradient**2).sum()) for _, gradient in grads.items()))
        assert norm > 0.5
        for parameter, gradient in grads.items():
            parameter.data = parameter.data - 0.8 * 0.5**number * 0.5 / norm * gradient
        keep = min(0.25, (1 + number) / (10 + number))
        for path, parameter in other.parameters().items():
            averages[path] = keep * averages[path] + (1 - keep) * parameter.data
    assert (optimizer.lr, trainer.steps) == (0.8 * 0.5**3, 3)
    assert trainer.eval_model is average.model
    for path, parameter in other.parameters().items():
        np.testing.assert_allclose(model.parameters()[path].data, parameter.data, rtol=1e-4, atol=1e-6)
        ours = trainer.eval_model.parameters()[path].data
        np.testing.assert_allclose(ours, averages[path], rtol=1e-4, atol=1e-6)
    history = trainer.fit(digits[:100], digits[100:], 1, 20, progress=None)
    assert history.epochs[-1].test_loss == trainer.evaluate(digits[100:]).loss
    assert trainer.evaluate(digits[100:]) == evaluate(average.model, digits[100:])
    assert trainer.evaluate(digits[100:]).loss != evaluate(model, digits[100:]).loss


def test_the_loss_is_a_0d_array_where_the_model_is(make: Any, new_model: Any, digits: Dataset) -> None:
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


@pytest.mark.parametrize("own_loop", [False, True])
def test_no_autograd_graph_survives_a_step(own_loop: bool) -> None:
    """Images that require a gradient are features of somebody's torch module."""
    torch = pytest.importorskip("torch")
    body = torch.nn.Conv2d(1, 4, 3, padding=1)
    with xpcnn.use_backend("torch"):
        block = nn.Sequential(nn.Conv2d(4, 3, 3, seed=0), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
        model = nn.Sequential(block, nn.Linear(108, 10, seed=0))
    optimizer = optim.Adam(model)
    average = optim.WeightAverage(model, 0.9)
    trainer = Trainer(model, optimizer, average=average, clip_norm=1.0)
    x, t = torch.rand(10, 1, 8, 8), torch.randint(0, 10, (10,))
    kept: list[Any] = []

    class Box:
        """What a graph keeps of a tensor: it goes with the graph."""

        def __init__(self, tensor: Any) -> None:
            self.tensor = tensor
            kept.append(weakref.ref(self))

    for _ in range(2):
        with torch.autograd.graph.saved_tensors_hooks(Box, lambda box: box.tensor):
            features = body(x)
        if own_loop:
            loss, grads = nn.value_and_grad(model, ops.softmax_cross_entropy)(features, t)
            optimizer.step(grads)
            del grads
        else:
            loss = trainer.step(features, t)
        assert not loss.requires_grad
        del features
    trainer.evaluate((body(x), t))
    gc.collect()
    assert kept
    assert all(box() is None for box in kept)
    state = [*model.state_dict().values(), *average.state_dict()["averages"].values()]
    state += [array for slots in optimizer.state_dict()["state"].values() for array in slots.values()]
    assert not any(array.requires_grad for array in state)


def test_refusals(new_model: Any, new_trainer: Any, digits: Dataset) -> None:
    model, other = new_model(), new_model()
    sgd = optim.SGD(model)
    schedule = optim.ExponentialLR(optim.SGD(other), 0.9)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"optimizer": None}, "Trainer: optimizer must be an optim.Optimizer, got NoneType"),
        ({"schedule": schedule}, r"must be an optim.Schedule of the optimizer given, got ExponentialLR\("),
        ({"average": optim.WeightAverage(other)}, "must be an optim.WeightAverage of the model given, got"),
        *(
            ({"clip_norm": norm}, "Trainer: clip_norm must be (above 0|a finite number)")
            for norm in (0.0, math.nan)
        ),
        *(({name: 3}, f"Trainer: {name} must be an optim") for name in ("schedule", "average")),
        *(
            ({"seed": seed}, "Trainer: seed must be an integer of at least 0")
            for seed in (True, 1.0, "1", -1, None)
        ),
    ]
    for options, message in cases:
        with pytest.raises(ArgumentError, match=message):
            Trainer(model, **{"optimizer": sgd, **options})
    with pytest.raises(DtypeError, match="images must be uint8 or floating, got int64"):
        new_trainer().step(digits.images.astype(np.int64), digits.labels)
