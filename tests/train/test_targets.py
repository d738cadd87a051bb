"""Targets reach the loss as they were given: in step, in fit, in evaluate, and as a test set."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Trainer, load_model, models, nn, ops, optim
from xpcnn.data import Dataset, Loader
from xpcnn.errors import XpcnnError
from xpcnn.train import EarlyStopping, RunDirectory, evaluate

RNG = np.random.default_rng(0)
N, SIDE = 23, 6
IMAGES = RNG.integers(0, 256, (N, 1, SIDE, SIDE), dtype=np.uint8)
LABELS = RNG.integers(0, 4, N)
SOFT = RNG.dirichlet(np.ones(4), N)


def dense(outputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, outputs, seed=1))


def painter() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, seed=1))


def map_loss(y: Any, t: Any) -> Any:
    """The mean squared error between maps (N, 1, H, W) and (N, H, W), in the dtype of y."""
    xp = xpcnn.backend_of(y).xp
    return ops.mean_squared_error(y, xp.astype(xp.reshape(t, y.shape), y.dtype))


MAPS = (map_loss, ops.mean_squared_error.backward)

KINDS: dict[str, tuple[Any, Any, Any]] = {
    "labels": (dense, ops.softmax_cross_entropy, LABELS),
    "small labels": (dense, ops.softmax_cross_entropy, LABELS.astype(np.uint8)),
    "label column": (dense, ops.softmax_cross_entropy, LABELS[:, None]),
    "bools": (dense, ops.softmax_cross_entropy, LABELS > 1),
    "bool column": (dense, ops.softmax_cross_entropy, (LABELS > 1)[:, None]),
    "soft rows": (dense, ops.softmax_cross_entropy, SOFT),
    "one-hot rows": (dense, ops.softmax_cross_entropy, np.eye(4, dtype=np.int8)[LABELS]),
    "several labels": (dense, ops.mean_squared_error, SOFT > 0.2),
    "numbers": (lambda: dense(1), ops.mean_squared_error, SOFT[:, :1]),
    "vectors": (lambda: dense(3), ops.mean_squared_error, RNG.standard_normal((N, 3))),
    "maps": (painter, MAPS, RNG.standard_normal((N, SIDE, SIDE)).astype(np.float32)),
    "integer maps": (painter, MAPS, RNG.integers(0, 5, (N, SIDE, SIDE))),
}
CLASSES = {"labels", "small labels", "label column", "bools", "bool column", "soft rows", "one-hot rows"}


@pytest.mark.parametrize("kind", KINDS)
def test_fit_is_a_loop_of_step(make: Any, kind: str) -> None:
    """The loop indexes the arrays themselves, in the order of the loader."""
    build, loss, targets = KINDS[kind]
    with make.use():
        fitted, looped = (Trainer(model := build(), optim.Adam(model, lr=0.01), loss=loss) for _ in range(2))
    history = fitted.fit((IMAGES, targets), (IMAGES, targets), epochs=2, batch_size=10, progress=None)
    order = Loader(Dataset(IMAGES, LABELS), 10)
    losses = []
    for epoch in range(2):
        for start in range(0, N, 10):
            rows = order.order(epoch)[start : start + 10]
            losses.append(float(make.to_numpy(looped.step(IMAGES[rows], targets[rows]))))
    assert history.losses == losses
    for ours, theirs in zip(*(t.model.state_dict().values() for t in (fitted, looped)), strict=True):
        np.testing.assert_array_equal(make.to_numpy(ours), make.to_numpy(theirs))
    record = history.epochs[-1]
    assert (record.test_accuracy is not None) == (record.train_accuracy is not None) == (kind in CLASSES)
    assert record.test_loss == fitted.evaluate((IMAGES, targets)).loss
    assert record.lr == 0.01


class Noted:
    """A loss that notes what it was given."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, y: Any, t: Any) -> Any:
        self.seen.append(t)
        return ops.mean_squared_error(y, y)

    backward = staticmethod(ops.mean_squared_error.backward)


@pytest.mark.parametrize(
    ("targets", "dtype", "shape"),
    [
        (LABELS, "int64", (N,)),
        (LABELS.astype(np.int16)[:, None], "int64", (N,)),
        (LABELS > 1, "int64", (N,)),
        (LABELS.astype(np.float64), "float32", (N,)),
        (LABELS.astype(np.float64)[:, None], "float32", (N, 1)),
        (np.eye(4, dtype=np.uint8)[LABELS], "float32", (N, 4)),
        (SOFT > 0.2, "float32", (N, 4)),
        (SOFT, "float32", (N, 4)),
        (RNG.integers(0, 9, (N, 2, 3), dtype=np.uint8), "uint8", (N, 2, 3)),
        (RNG.integers(-9, 9, (N, 1, 1)), "int64", (N, 1, 1)),
        (RNG.standard_normal((N, 2, 3)), "float32", (N, 2, 3)),
    ],
)
def test_what_the_loss_is_given(make: Any, targets: Any, dtype: str, shape: tuple[int, ...]) -> None:
    with make.use():
        model = dense()
    noted = Noted()
    Trainer(model, optim.SGD(model, lr=0.1), loss=noted).step(IMAGES, targets)
    make.check_kind(noted.seen[0], shape, dtype)
    np.testing.assert_allclose(
        make.to_numpy(noted.seen[0]).astype(np.float64), targets.reshape(shape).astype(np.float64), rtol=1e-3
    )


@pytest.mark.parametrize(
    ("targets", "loss", "known"),
    [
        (LABELS, ops.softmax_cross_entropy, True),
        (SOFT, ops.softmax_cross_entropy, True),
        (SOFT, (functools.partial(ops.softmax_cross_entropy, label_smoothing=0.1), lambda ctx: ctx), True),
        (SOFT, models.googlenet_loss, True),
        (SOFT * 2, ops.softmax_cross_entropy, False),
        (np.concatenate([SOFT[:-1], [[-0.5, 0.5, 0.5, 0.5]]]), ops.softmax_cross_entropy, False),
        (SOFT, ops.mean_squared_error, False),
        (np.eye(4)[LABELS], ops.mean_squared_error, False),
    ],
)
def test_accuracy_exists_for_classes_alone(make: Any, targets: Any, loss: Any, known: bool) -> None:
    with make.use():
        model = dense()
    result = evaluate(model, (IMAGES, targets), loss=loss, batch_size=7)
    if known:
        y = make.to_numpy(model(make.array(IMAGES.astype(np.float32) / 255)))
        right = int((y.argmax(1) == (targets if targets.ndim == 1 else targets.argmax(1))).sum())
        assert (result.correct, result.accuracy) == (right, right / N)
    else:
        assert (result.correct, result.accuracy) == (None, None)
    assert result.samples == N


def test_the_best_weights_of_a_regression(tmp_path: Path, capsys: Any) -> None:
    model = models.tiny_convnet(classes=3, filters=2, input_shape=(1, 28, 28))
    images = RNG.integers(0, 256, (N, 1, 28, 28), dtype=np.uint8)
    data = Dataset(images, KINDS["vectors"][2], preparation="pad")
    run, best = RunDirectory(tmp_path, {}), model.state_dict()
    trainer = Trainer(model, optim.SGD(model, lr=0.0), loss=ops.mean_squared_error)
    history = trainer.fit(data[:15], data[15:], 1, 5, callbacks=[run])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"test loss {history.epochs[0].test_loss:.4f}" in line
    assert "%" not in line
    for parameter in model.parameters().values():
        parameter.data = parameter.data + 1  # worse from here on
    trainer.fit(data[:15], data[15:], 9, 5, progress=None, callbacks=[run, EarlyStopping(2)])
    assert len(history.epochs) == 3
    assert trainer.stopped == f"no lower test loss in 2 epochs than the {history.test_loss[0]:.4g} of epoch 1"
    for path, array in xpcnn.io.load_weights(run.best_file).arrays.items():
        np.testing.assert_array_equal(array, best[path])
    assert load_model(run.best_file).spec.preparation == "pad"


def test_a_loss_is_an_op_or_a_pair() -> None:
    rows, losses = np.eye(4)[LABELS], []
    for loss in (
        ops.mean_squared_error,
        (ops.mean_squared_error, ops.mean_squared_error.backward),
        [ops.mean_squared_error, ops.mean_squared_error.backward],
    ):
        trainer = Trainer(model := dense(), optim.SGD(model, lr=0.1), loss=loss)
        losses.append(float(trainer.step(IMAGES, rows)))
    assert losses[0] == losses[1] == losses[2]


def test_floats_in_a_column_are_no_labels() -> None:
    trainer = Trainer(model := dense(), optim.SGD(model))
    with pytest.raises(XpcnnError, match=r"target must be labels of shape \(10,\) or rows of shape"):
        trainer.fit((IMAGES, LABELS.astype(np.float32)[:, None]), batch_size=10, progress=None)
