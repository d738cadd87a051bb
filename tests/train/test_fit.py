"""fit: what it visits, measures, repeats and refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Trainer, models, nn, ops, optim
from xpcnn.data import Dataset, Loader
from xpcnn.errors import ArgumentError, DtypeError, ShapeError
from xpcnn.train import History


def steps_of(trainer: Trainer, monkeypatch: Any) -> list[tuple[Any, Any]]:
    """The images and targets of each step, as they come."""
    seen, step = [], trainer.step

    def noting(x: Any, t: Any) -> Any:
        seen.append((x.copy(), t.copy()))
        return step(x, t)

    monkeypatch.setattr(trainer, "step", noting)
    return seen


def test_each_sample_is_seen_once_an_epoch(new_trainer: Any, digits: Dataset, monkeypatch: Any) -> None:
    seen = steps_of(trainer := new_trainer(), monkeypatch)
    trainer.fit(digits, epochs=3, batch_size=50, evaluate_samples=1, progress=None)
    assert [len(targets) for _, targets in seen] == [50, 50, 50, 50, 30] * 3
    whole = sorted(image.tobytes() for image in digits.images)
    epochs = [[image.tobytes() for x, _ in seen[i : i + 5] for image in x] for i in (0, 5, 10)]
    assert [sorted(epoch) for epoch in epochs] == [whole] * 3
    assert epochs[0] != epochs[1]


def test_the_history(new_trainer: Any, digits: Dataset) -> None:
    trainer = new_trainer()
    train, test = digits[:180], digits[180:]
    history = trainer.fit(train, test, 2, 50, progress=None)
    assert history is trainer.history
    assert len(history.losses) == trainer.steps == 8
    assert not history.interrupted
    first, last = history.epochs
    assert (first.epoch, last.epoch) == (1, 2)
    assert first.loss == pytest.approx(np.mean(history.losses[:4]))
    assert last.loss == pytest.approx(np.mean(history.losses[4:]))
    assert last.train_accuracy == trainer.evaluate(train).accuracy
    assert last.test_accuracy == trainer.evaluate(test).accuracy
    assert last.images_per_second == pytest.approx(180 / last.seconds)
    assert history.seconds == pytest.approx(first.seconds + last.seconds)
    assert trainer.epoch_seconds == 0
    trainer.fit(train, epochs=1, batch_size=50, evaluate_samples=20, progress=None)
    assert history.epochs[2].epoch == 3
    assert history.epochs[2].train_accuracy == trainer.evaluate(train[:20]).accuracy
    assert history.test_accuracy[2] is None
    assert History.from_json(history.to_json()) == history
    plain = History(losses=[1.0, math.nan, math.inf]).to_json()
    assert plain["losses"] == [1.0, None, None]
    assert math.isnan(History.from_json(plain).losses[1])


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("mnist", ArgumentError, r"expected a Dataset or a pair \(images, targets\), got str"),
        ((np.zeros((2, 1, 28, 28)),), ArgumentError, "pair"),
        ((np.zeros((2, 1, 28, 28)), np.zeros(3, int)), ShapeError, r"\(2, 1, 28, 28\).*\(3,\) differ"),
        ((np.zeros((0, 1, 28, 28)), np.zeros(0, int)), ShapeError, "empty dataset"),
        ((np.zeros((2, 28, 28)), np.zeros(2, int)), ShapeError, r"\(N, C, H, W\)"),
        ((np.zeros((2, 1, 28, 28), int), np.zeros(2, int)), DtypeError, "uint8 or floating"),
    ],
)
def test_no_data(new_trainer: Any, data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        new_trainer().fit(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": -1}, "fit: epochs must be .*got -1"),
        ({"evaluate_samples": 0}, "fit: evaluate_samples must be .*got 0"),
        ({"epochs": "1"}, "fit: epochs must be an integer.*got '1'"),
        ({"batch_size": 0}, "batch_size"),
        ({"drop_last": "no"}, "drop_last must be True or False, got 'no'"),
        ({"evaluate_train": "no"}, "evaluate_train must be True or False, got 'no'"),
    ],
)
def test_arguments(new_trainer: Any, digits: Dataset, arguments: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        new_trainer().fit(digits, **arguments)


def test_augmentation_changes_the_training_batches_alone(
    new_trainer: Any, digits: Dataset, monkeypatch: Any
) -> None:
    train, trainer = digits[:100], new_trainer()
    seen, before = steps_of(trainer, monkeypatch), train.images.copy()
    history = trainer.fit(train, None, 1, 50, augment=lambda images, rng: 255 - images, progress=None)
    np.testing.assert_array_equal(train.images, before)
    known = {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)}
    for images, labels in seen:
        assert [known[(255 - image).tobytes()] for image in images] == labels.tolist()
    assert history.train_accuracy[-1] == trainer.evaluate(train).accuracy


SMALL = Dataset(np.random.default_rng(0).integers(0, 256, (9, 1, 6, 6), dtype=np.uint8), np.arange(9) % 3, 3)


class OwnNorm(nn.Layer):
    """A layer of one's own that calls the op."""

    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
        return ops.batch_norm(x, train=True)

    def backward(self, ctx: Any, dy: Any, grads: Any = None, *, need_dx: bool = True) -> Any:
        return ops.batch_norm.backward(ctx, dy)[0]


@pytest.mark.parametrize("norm", [OwnNorm, lambda: nn.BatchNorm2d(3), nn.Identity])
def test_a_last_sample_alone_joins_the_batch_before_where_statistics_are_taken(norm: Any) -> None:
    def trainer() -> Trainer:
        before = nn.Conv2d(1, 3, 3, seed=0), nn.AdaptiveAvgPool2d(1)
        model = nn.Sequential(*before, norm(), nn.Flatten(), nn.Linear(3, 3, seed=1))
        return Trainer(model, optim.SGD(model, lr=0.1))

    fitted, looped = trainer(), trainer()
    batches = list(Loader(SMALL, 4).epoch(0))
    if norm is not nn.Identity:
        batches[1:] = [tuple(np.concatenate(parts) for parts in zip(*batches[1:], strict=True))]
    history = fitted.fit(SMALL, epochs=1, batch_size=4, progress=None)
    assert history.losses == [float(looped.step(*batch)) for batch in batches]
    ours, theirs = (one.model.state_dict() for one in (fitted, looped))
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])


def test_the_trainers_seed_decides_order_and_masks(new_model: Any, digits: Dataset) -> None:
    orders, masks = [], []
    for seed in (0, 0, 1):
        model = models.tiny_convnet()  # nothing random in it
        trainer = Trainer(model, optim.SGD(model), seed=seed)
        orders.append(trainer.fit(digits, None, 1, 50, evaluate_samples=1, progress=None).losses)
        model = new_model()
        trainer = Trainer(model, optim.SGD(model, lr=0.0), seed=seed)
        masks.append([float(trainer.step(*digits[:50])) for _ in range(2)])
    assert orders[0] == orders[1] != orders[2]
    assert masks[0] == masks[1] != masks[2]
    assert masks[0][0] != masks[0][1]  # and so does the step


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "array_api_strict"])
def test_backends_agree(backend: str, digits: Dataset) -> None:
    """20 steps of SimpleConvNet in float64."""
    if reason := xpcnn.available_backends()[backend]:
        pytest.skip(reason)
    losses = []
    for name in ("numpy", backend):
        with xpcnn.use_backend(name):
            model = models.simple_convnet(dtype="float64", filters=8, weight_std="he")
        trainer = Trainer(model, optim.Adam(model))
        losses.append(trainer.fit(digits[:200], None, 2, 20, evaluate_samples=10, progress=None).losses)
    assert len(losses[0]) == 20
    assert losses[0][-1] < 0.8 * losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)
