"""fit: what it visits, measures, repeats and refuses."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Trainer, models, ops, optim
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, DivergenceError, DtypeError, ShapeError
from xpcnn.train import Callback, EpochRecord, History, ProgressBar, ProgressLines, describe, progress_for

NewTrainer = Callable[..., Trainer]


class Recorder(Callback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_start(self, trainer: Trainer, steps: int) -> None:
        self.told.append(("start", steps))

    def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
        assert trainer.history.losses[-len(losses) :] == losses
        assert len(trainer.history.losses) == trainer.steps
        self.told.append(("losses", len(losses)))

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        assert trainer.history.epochs[-1] is record
        self.told.append(("epoch", record.epoch))

    def on_stop(self, trainer: Trainer) -> None:
        self.told.append(("stop", trainer.steps))


def test_each_sample_is_seen_once_an_epoch(
    new_trainer: NewTrainer, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = new_trainer()
    seen: list[bytes] = []
    sizes: list[int] = []
    step = trainer.step

    def noting(x: Any, t: Any) -> Any:
        seen.extend(image.tobytes() for image in x)
        sizes.append(len(t))
        return step(x, t)

    monkeypatch.setattr(trainer, "step", noting)
    trainer.fit(digits, epochs=3, batch_size=50, evaluate_samples=1, progress=None)
    assert sizes == [50, 50, 50, 50, 30] * 3
    whole = sorted(image.tobytes() for image in digits.images)
    epochs = [seen[i * len(digits) : (i + 1) * len(digits)] for i in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [whole] * 3
    assert epochs[0] != epochs[1]


def test_the_history(new_trainer: NewTrainer, digits: Dataset) -> None:
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
    trainer.fit(train, epochs=1, batch_size=50, evaluate_samples=20, progress=None)
    assert history.epochs[2].epoch == 3
    assert history.epochs[2].train_accuracy == trainer.evaluate(train[:20]).accuracy
    assert history.test_accuracy[2] is None
    assert History.from_json(history.to_json()) == history


def test_a_history_with_a_loss_that_is_no_number_survives_json() -> None:
    plain = History(losses=[1.0, math.nan, math.inf]).to_json()
    assert plain["losses"] == [1.0, None, None]
    assert math.isnan(History.from_json(plain).losses[1])


def test_callbacks(new_trainer: NewTrainer, digits: Dataset) -> None:
    recorder = Recorder()
    new_trainer().fit(digits[:120], epochs=2, batch_size=10, progress=None, callbacks=[recorder])
    epoch = [("losses", 10), ("losses", 2)]
    assert recorder.told == [("start", 24), *epoch, ("epoch", 1), *epoch, ("epoch", 2), ("stop", 24)]


def test_no_epochs_at_all(new_trainer: NewTrainer, digits: Dataset) -> None:
    recorder = Recorder()
    history = new_trainer().fit(digits, epochs=0, progress=recorder)
    assert recorder.told == [("start", 0), ("stop", 0)]
    assert history == History()


def test_pairs_of_arrays(new_trainer: NewTrainer, digits: Dataset, same_bits: Any) -> None:
    """Bytes, prepared images and one-hot labels train alike."""
    images, labels = digits
    prepared = images.astype(np.float32) * np.float32(1 / 255)
    trainers = []
    for pair in (digits, (images, labels), (prepared, labels), [images, np.eye(10)[labels]]):
        trainers.append(new_trainer())
        trainers[-1].fit(pair, pair, 1, 50, progress=None)
    assert all(same_bits(trainers[0], other) for other in trainers[1:])


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
def test_no_data(new_trainer: NewTrainer, data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        new_trainer().fit(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": -1}, "fit: epochs must be .*got -1"),
        ({"evaluate_samples": 0}, "fit: evaluate_samples must be .*got 0"),
        ({"epochs": "1"}, "fit: epochs must be an integer.*got '1'"),
        ({"epochs": 1.0}, "fit: epochs must be an integer.*got 1.0"),
        ({"epochs": True}, "fit: epochs must be an integer.*got True"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": True}, "batch_size must be an integer.*got True"),
        ({"batch_size": np.float64(5)}, "batch_size must be an integer.*got"),
        ({"progress": "bar"}, "progress must be .*'bar'"),
    ],
)
def test_arguments(new_trainer: NewTrainer, digits: Dataset, arguments: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        new_trainer().fit(digits, **arguments)


# -- the same again ----------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    new_trainer: NewTrainer, digits: Dataset, same_bits: Any
) -> None:
    trainers = [new_trainer(seed=seed) for seed in (0, 0, 1)]
    for trainer in trainers:
        trainer.fit(digits, None, 2, 50, evaluate_samples=10, progress=None)
    assert same_bits(trainers[0], trainers[1])
    assert not same_bits(trainers[0], trainers[2])


def test_the_trainers_seed_decides_the_order(digits: Dataset) -> None:
    losses = []
    for seed in (0, 0, 1):
        model = models.tiny_convnet()  # nothing random in it
        trainer = Trainer(model, optim.SGD(model), seed=seed)
        losses.append(trainer.fit(digits, None, 1, 50, evaluate_samples=1, progress=None).losses)
    assert losses[0] == losses[1] != losses[2]


def test_the_trainers_seed_decides_the_masks(new_model: Callable[..., Any], digits: Dataset) -> None:
    losses = []
    for seed in (0, 0, 1):
        model = new_model()
        trainer = Trainer(model, optim.SGD(model, lr=0.0), seed=seed)
        losses.append([float(trainer.step(*digits[:50])) for _ in range(2)])
    assert losses[0] == losses[1] != losses[2]
    assert losses[0][0] != losses[0][1]  # and so does the step


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


def test_it_learns(digits: Dataset) -> None:
    model = models.simple_convnet(filters=8, weight_std="he")
    trainer = Trainer(model, optim.Adam(model, lr=3e-3))
    history = trainer.fit(digits[:200], digits[200:], 6, 20, progress=None)
    assert history.train_accuracy[-1] > 0.95
    assert history.test_accuracy[-1] > 0.6


# -- divergence --------------------------------------------------------------------------


def test_divergence_names_the_step_and_the_learning_rate(digits: Dataset) -> None:
    model = models.tiny_convnet()
    trainer = Trainer(model, optim.SGD(model, lr=1e30))
    recorder = Recorder()
    with pytest.raises(DivergenceError, match=r"step (\d+) \(epoch 1\) with learning rate 1e\+30; lower"):
        trainer.fit(digits[:200], None, 2, 10, progress=None, callbacks=[recorder])
    assert trainer.steps <= 10  # found at the first reading of losses
    assert len(trainer.history.losses) == trainer.steps
    assert all(map(math.isfinite, trainer.history.losses))
    assert all(np.isfinite(p.data).all() for p in model.parameters().values())
    assert trainer.history.epochs == []
    assert recorder.told == [("start", 40), ("losses", trainer.steps), ("stop", trainer.steps)]


@pytest.mark.parametrize("at", [1, 10, 11, 23])
def test_the_step_that_diverged_is_counted_from_1(new_model: Any, digits: Dataset, at: int) -> None:
    calls = iter(range(1, 1000))

    def loss(y: Any, t: Any) -> Any:
        value, ctx = ops.softmax_cross_entropy(y, t)
        return (value * math.nan if next(calls) == at else value), ctx

    model = new_model()
    trainer = Trainer(model, optim.SGD(model), loss=(loss, ops.softmax_cross_entropy.backward))
    with pytest.raises(DivergenceError, match=rf"became nan at step {at} "):
        trainer.fit(digits, None, 1, 10, progress=None)


# -- progress ----------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_fits_the_stream() -> None:
    assert isinstance(progress_for(Terminal()), ProgressBar)
    assert isinstance(progress_for(io.StringIO()), ProgressLines)


@pytest.mark.parametrize("progress", ["auto", ProgressLines(), ProgressBar()], ids=lambda p: str(type(p)))
def test_without_a_console_nothing_is_shown(
    new_trainer: NewTrainer,
    digits: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    progress: Any,
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert len(new_trainer().fit(digits, None, 1, 100, progress=progress).epochs) == 1
    assert capsys.readouterr().out == ""


def test_progress_without_a_stream() -> None:
    closed = io.StringIO()
    closed.close()
    assert progress_for(None) is None
    assert progress_for(closed) is None


def test_lines_in_a_log(new_trainer: NewTrainer, digits: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    history = new_trainer().fit(digits, digits[:10], 2, 100)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [describe(record) for record in history.epochs]


def test_a_bar_on_a_terminal(new_trainer: NewTrainer, digits: Dataset) -> None:
    screen = Terminal()
    new_trainer().fit(digits, None, 2, 20, progress=ProgressBar(screen))
    shown = screen.getvalue()
    assert "24/24" in shown
    assert "loss " in shown
    assert shown.count("epoch ") == 2


def test_an_epoch_in_a_line() -> None:
    record = EpochRecord(3, 0.1234567, 0.9, None, 2.5, 4000.4)
    assert describe(record) == "epoch   3  loss 0.1235  train  90.00%  2.5 s  4,000 images/s"
    record.test_accuracy = 1.0
    assert "train  90.00%  test 100.00%  2.5 s" in describe(record)
