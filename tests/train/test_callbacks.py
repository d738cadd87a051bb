"""Callbacks: when they are called, what is saved whatever becomes of others, the display, stopping early."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.train import PassOn
from xpcnn import Trainer, nn, optim
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, DivergenceError
from xpcnn.io import load_weights
from xpcnn.train import (
    Callback,
    EarlyStopping,
    EpochRecord,
    History,
    ProgressBar,
    ProgressLines,
    RunDirectory,
)
from xpcnn.train.callback import describe


class Recorder(Callback):
    """Writes down what it is told, and does one thing of its own."""

    def __init__(self, method: str = "", action: Callable[[Trainer], None] = lambda trainer: None) -> None:
        self.told: list[Any] = []
        self.method, self.action = method, action

    def note(self, trainer: Trainer, method: str, *told: Any) -> None:
        self.told.append((method, *told))
        if method == self.method:
            self.action(trainer)

    def on_start(self, trainer: Trainer, steps: int) -> None:
        self.note(trainer, "start", steps)

    def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
        assert trainer.history.losses[-len(losses) :] == losses
        assert len(trainer.history.losses) == trainer.steps
        self.note(trainer, "losses", len(losses))

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        assert trainer.history.epochs[-1] is record
        self.note(trainer, "epoch", record.epoch)

    def on_stop(self, trainer: Trainer) -> None:
        self.note(trainer, "stop", trainer.steps)


def fit(trainer: Trainer, digits: Dataset, *callbacks: Any, epochs: int = 1, **options: Any) -> History:
    """Two steps an epoch."""
    given = {"progress": None, "test": digits[:10], **options}
    return trainer.fit(digits[:40], epochs=epochs, batch_size=20, callbacks=callbacks, **given)


def failing(text: str) -> Callable[[Trainer], None]:
    def fail(trainer: Trainer) -> None:
        raise RuntimeError(text)

    return fail


def test_when_they_are_called(new_trainer: Any, digits: Dataset) -> None:
    recorder = Recorder()
    new_trainer().fit(digits[:120], epochs=2, batch_size=10, progress=None, callbacks=[recorder])
    epoch = [("losses", 10), ("losses", 2)]
    assert recorder.told == [("start", 24), *epoch, ("epoch", 1), *epoch, ("epoch", 2), ("stop", 24)]
    recorder.told.clear()
    assert fit(new_trainer(), digits, epochs=0, progress=recorder) == History()
    assert recorder.told == [("start", 0), ("stop", 0)]


@pytest.mark.parametrize("strange", [3, {"a": 1}, "no", None, [None]])
def test_what_is_no_callback(strange: Any, new_trainer: Any, digits: Dataset) -> None:
    with pytest.raises(ArgumentError, match="fit: callbacks must be"):
        new_trainer().fit(digits, epochs=0, callbacks=strange)
    if strange is not None:
        with pytest.raises(ArgumentError, match="fit: progress must be"):
            new_trainer().fit(digits, epochs=0, progress=strange)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Full(io.StringIO):
    """A log on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("display", [ProgressLines, ProgressBar])
@pytest.mark.parametrize("closed", [False, True])
def test_a_display_that_fails_is_dropped(
    display: Any, closed: bool, new_trainer: Any, digits: Dataset, tmp_path: Path, caplog: Any
) -> None:
    run, stream = RunDirectory(tmp_path, {}), Full()
    if closed:
        stream.close()
    history = fit(new_trainer(), digits, run, epochs=3, progress=display(stream))
    assert run.history() == history
    assert len(history.epochs) == 3
    notes = [record.getMessage() for record in caplog.records]
    if not (closed and display is ProgressBar):  # tqdm itself passes over what a closed file raises
        assert len(notes) == 1
        assert notes[0].startswith("the progress display failed and shows nothing more: ")


@pytest.mark.parametrize("missing", [False, True])
def test_without_a_console_nothing_is_shown(
    new_trainer: Any, digits: Dataset, monkeypatch: Any, capsys: Any, caplog: Any, missing: bool
) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", None if missing else stream)
    for progress in ("auto", ProgressLines(), ProgressBar()) if missing else ("auto",):
        assert len(fit(new_trainer(), digits, progress=progress).epochs) == 1
    assert capsys.readouterr().out == caplog.text == ""


def test_lines_in_a_log_and_a_bar_on_a_terminal(
    new_trainer: Any, digits: Dataset, capsys: Any, monkeypatch: Any
) -> None:
    history = fit(new_trainer(), digits, epochs=2, progress="auto")
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", [describe(record) for record in history.epochs])
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    fit(new_trainer(), digits, epochs=2, progress="auto")
    shown = screen.getvalue()
    assert "4/4" in shown
    assert "loss " in shown
    assert shown.count("epoch ") == 2


def test_an_epoch_in_a_line(new_equipped: Any, digits: Dataset) -> None:
    record = EpochRecord(3, 0.1234567, 0.9, None, 2.5, 4000.4)
    assert describe(record) == "epoch   3  loss 0.1235  train  90.00%  2.5 s  4,000 images/s"
    record.test_accuracy = 1.0
    assert "train  90.00%  test 100.00%  2.5 s" in describe(record)
    log, trainer = io.StringIO(), new_equipped()
    fit(trainer, digits, progress=ProgressLines(log))  # with a schedule
    assert f"  lr {trainer.optimizer.lr:.2e}  " in log.getvalue()


@pytest.mark.parametrize("method", ["epoch", "stop"])
def test_another_callback_that_fails_costs_nothing(
    method: str, new_trainer: Any, digits: Dataset, tmp_path: Path
) -> None:
    run, trainer, restored = RunDirectory(tmp_path, {}), new_trainer(), new_trainer()
    with pytest.raises(RuntimeError, match="mine"):
        fit(trainer, digits, Recorder(method, failing("mine")), run)
    run.restore(restored)
    assert (restored.epoch, restored.steps) == (1, 2)
    assert run.history() == trainer.history
    with run.writing():
        pass  # the lock is free


def test_every_on_stop_is_called(new_trainer: Any, digits: Dataset) -> None:
    last, display = Recorder(), Recorder()
    failures = [Recorder("stop", failing(text)) for text in ("first", "second")]
    with pytest.raises(RuntimeError, match="first") as caught:
        fit(new_trainer(), digits, *failures, last, progress=display)
    assert last.told[-1] == display.told[-1] == ("stop", 2)
    assert caught.value.__notes__ == ["another on_stop: second"]


@pytest.mark.parametrize("interrupt", [False, True])
def test_an_update_that_ruins_the_weights_saves_nothing(
    new_trainer: Any, digits: Dataset, tmp_path: Path, monkeypatch: Any, interrupt: bool
) -> None:
    run, trainer, restored = RunDirectory(tmp_path, {}), new_trainer(), new_trainer()
    update, ruined = trainer.optimizer.step, 3 if interrupt else 4

    def ruin(grads: Any) -> None:
        update(grads)
        if trainer.steps == ruined - 1:
            weight = trainer.model.parameters()["fc.weight"]
            weight.data = weight.data * np.float32(np.inf)
            if interrupt:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer.optimizer, "step", ruin)
    message = (
        rf"fc\.weight became NaN or infinite at step {ruined} \(epoch 2\) with learning rate 0\.001; low"
    )
    with pytest.raises(DivergenceError, match=message):
        fit(trainer, digits, run, epochs=2)
    run.restore(restored)
    assert restored.steps == 2
    for file in (run.weights_file, run.best_file):
        assert all(np.isfinite(array).all() for array in load_weights(file).arrays.values())
    assert len(run.history().losses) == ruined


def test_frozen_parameters_may_hold_infinity(new_model: Any, digits: Dataset, tmp_path: Path) -> None:
    model = new_model()
    model["masked"] = masked = PassOn()
    masked.mask = nn.Parameter(np.full((1,), -np.inf, "f"))  # a mask, say
    masked.mask.trainable = False
    run = RunDirectory(tmp_path, {})
    fit(Trainer(model, optim.Adam(model)), digits, run)
    assert run.weights_file.exists()


NAN = float("nan")
RULE: list[tuple[bool, list[float | None], int, bool]] = [  # accuracies where there are classes, else losses
    (True, [], 1, False),
    (True, [0.5, 0.6, 0.7], 1, False),
    (True, [0.5, 0.5], 1, True),  # as good is not better
    (True, [0.5, 0.4, 0.6], 2, False),
    (True, [0.5, 0.4, 0.45], 2, True),  # better than the one before, but not than the best
    (True, [0.5, None, None, 0.6], 1, False),
    (True, [None, 0.5, None, 0.4], 1, True),
    (False, [1.0, 0.9, 0.8], 1, False),
    (False, [1.0, 1.1, 0.9], 2, False),
    (False, [1.0, 1.1, 1.05], 2, True),
    (False, [NAN, 1.0], 1, False),
    (False, [1.0, NAN], 1, True),
]


@pytest.mark.parametrize(("classes", "scores", "patience", "stops"), RULE)
def test_the_rule_of_early_stopping(
    classes: bool, scores: list[float | None], patience: int, stops: bool, new_trainer: Any
) -> None:
    pairs = [(score, None) if classes else (None, score) for score in scores]
    trainer = new_trainer()
    trainer.history.epochs = [
        EpochRecord(i, 1.0, None, a, 1.0, 1.0, test_loss=b) for i, (a, b) in enumerate(pairs, 1)
    ]
    EarlyStopping(patience).on_start(trainer, 0)
    epochs = "1 epoch" if patience == 1 else f"{patience} epochs"
    what = f"no better test accuracy in {epochs}" if classes else f"no lower test loss in {epochs}"
    start = f"{what} than the {'50.00%' if classes else '1'} of epoch "
    assert (trainer.stopped or "").startswith(start) is stops


def test_fit_ends_early_and_a_resumed_run_likewise(
    new_trainer: Any, digits: Dataset, scripted: Any, same_bits: Any, tmp_path: Path
) -> None:
    scripted(0.5, 0.6, 0.6, 0.55, 0.9)
    whole, broken, resumed, again = (new_trainer() for _ in range(4))
    screen, run = io.StringIO(), RunDirectory(tmp_path, {})
    fit(whole, digits, EarlyStopping(2), epochs=5, progress=ProgressBar(screen))
    assert whole.history.test_accuracy == [0.5, 0.6, 0.6, 0.55]
    assert whole.stopped == "no better test accuracy in 2 epochs than the 60.00% of epoch 2"
    assert f"stopped: {whole.stopped}\n" in screen.getvalue()
    assert (whole.history.interrupted, whole.epoch, whole.epoch_samples) == (False, 4, 0)
    fit(broken, digits, run, EarlyStopping(2), epochs=3)
    run.restore(resumed)
    fit(resumed, digits, run, EarlyStopping(2), epochs=2)
    assert same_bits(whole, resumed)
    run.restore(again)
    fit(again, digits, run, EarlyStopping(2), epochs=1)
    assert same_bits(whole, again)
    assert again.stopped == whole.stopped
    fit(again, digits)  # nobody to stop it
    assert (again.stopped, len(again.history.epochs)) == (None, 5)


@pytest.mark.parametrize(("method", "steps"), [("start", 0), ("losses", 2)])
def test_a_stop_waits_for_the_end_of_an_epoch(
    new_trainer: Any, digits: Dataset, method: str, steps: int
) -> None:
    trainer = new_trainer()
    fit(trainer, digits, Recorder(method, lambda trainer: trainer.stop("enough")), epochs=3)
    assert (trainer.steps, trainer.stopped) == (steps, "enough")


def test_what_early_stopping_refuses(new_trainer: Any, digits: Dataset) -> None:
    with pytest.raises(ArgumentError, match="fit: EarlyStopping needs a test set"):
        fit(new_trainer(), digits, EarlyStopping(1), test=None)
    with pytest.raises(ArgumentError, match=r"EarlyStopping: patience must be .*got 0"):
        EarlyStopping(0)
