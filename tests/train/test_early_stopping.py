"""Stopping early: when, what is told, and that a resumed run stops at the same place."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import Trainer, load_model
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError
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

NewTrainer = Callable[..., Trainer]


def history(*accuracies: float | None) -> History:
    records = [EpochRecord(i + 1, 1.0, 0.5, a, 1.0, 100.0) for i, a in enumerate(accuracies)]
    return History(epochs=records)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets epochs have these test accuracies, whatever the model."""

    def arrange(*accuracies: float) -> None:
        whole = Trainer._finish_epoch

        def finish(self: Trainer, measured: Any, samples: Any, watchers: Any, interrupt: Any) -> None:
            class First(Callback):
                def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
                    record.test_accuracy = accuracies[record.epoch - 1]

            whole(self, measured, samples, [First(), *watchers], interrupt)

        monkeypatch.setattr(Trainer, "_finish_epoch", finish)

    return arrange


@pytest.mark.parametrize(
    ("accuracies", "patience", "min_delta", "stops"),
    [
        ([], 1, 0.0, False),
        ([0.5], 1, 0.0, False),
        ([0.5, 0.6, 0.7], 1, 0.0, False),
        ([0.5, 0.5], 1, 0.0, True),  # as good is not better
        ([0.5, 0.4, 0.6], 2, 0.0, False),
        ([0.5, 0.4, 0.45], 2, 0.0, True),  # better than the one before, but not than the best
        ([0.5, 0.54, 0.58], 2, 0.05, False),  # measured from the best that counted
        ([0.5, 0.54, 0.55], 2, 0.05, True),
        ([0.0, 0.0], 1, 0.0, True),
        ([0.5, None, None, 0.6], 1, 0.0, False),
        ([None, 0.5, None, 0.4], 1, 0.0, True),
        ([0.5, None], 1, 0.0, False),
    ],
)
def test_the_rule(accuracies: Sequence[float | None], patience: int, min_delta: float, stops: bool) -> None:
    stopping = EarlyStopping(patience, min_delta=min_delta)
    assert (stopping.reason(history(*accuracies)) is not None) is stops


def test_the_reason() -> None:
    told = EarlyStopping(2).reason(history(0.5, 0.9876, 0.6, 0.7))
    assert told == "no better test accuracy in 2 epochs than the 98.76% of epoch 2"
    told = EarlyStopping(1).reason(history(0.5, 0.4))
    assert told == "no better test accuracy in 1 epoch than the 50.00% of epoch 1"


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "stops"),
    [
        ([1.0, 0.9, 0.8], 1, 0.0, False),
        ([1.0, 1.0], 1, 0.0, True),
        ([1.0, 1.1, 0.9], 2, 0.0, False),
        ([1.0, 1.1, 1.05], 2, 0.0, True),
        ([1.0, 0.96, 0.95], 2, 0.05, True),
        ([float("nan"), 1.0], 1, 0.0, False),
        ([1.0, float("nan")], 1, 0.0, True),
    ],
)
def test_without_classes_the_loss_counts(
    losses: Sequence[float], patience: int, min_delta: float, stops: bool
) -> None:
    records = [EpochRecord(i + 1, 1.0, None, None, 1.0, 100.0, test_loss=x) for i, x in enumerate(losses)]
    reason = EarlyStopping(patience, min_delta=min_delta).reason(History(epochs=records))
    assert (reason is not None) is stops
    if reason is not None:
        assert reason.startswith("no lower test loss in ")
        assert reason.endswith("than the 1 of epoch 1")


def test_fit_ends_early(new_trainer: NewTrainer, digits: Dataset, scripted: Callable[..., None]) -> None:
    scripted(0.5, 0.6, 0.6, 0.55, 0.9)
    trainer = new_trainer()
    trainer.fit(digits[:40], digits[:10], 5, 20, progress=None, callbacks=[EarlyStopping(2)])
    assert trainer.history.test_accuracy == [0.5, 0.6, 0.6, 0.55]
    assert trainer.stopped == "no better test accuracy in 2 epochs than the 60.00% of epoch 2"
    assert not trainer.history.interrupted
    assert (trainer.epoch, trainer.epoch_samples) == (4, 0)
    trainer.fit(digits[:40], digits[:10], 1, 20, progress=None)  # nobody to stop it
    assert trainer.stopped is None
    assert len(trainer.history.epochs) == 5


def test_what_was_stopped_does_not_go_on(
    new_trainer: NewTrainer, digits: Dataset, scripted: Callable[..., None], same_bits: Any, tmp_path: Path
) -> None:
    scripted(0.5, 0.6, 0.6, 0.55, 0.9)

    def fit(trainer: Trainer, epochs: int, run: RunDirectory) -> None:
        watchers = [run, EarlyStopping(2)]
        trainer.fit(digits[:40], digits[:10], epochs, 20, progress=None, callbacks=watchers)

    whole, broken, resumed, again = (new_trainer() for _ in range(4))
    fit(whole, 5, RunDirectory(tmp_path / "whole", {}))
    run = RunDirectory(tmp_path / "broken", {})
    fit(broken, 3, run)
    run.restore(resumed)
    fit(resumed, 2, run)
    assert same_bits(whole, resumed)
    run.restore(again)
    fit(again, 1, run)
    assert same_bits(whole, again)
    assert again.stopped == whole.stopped


def test_a_stop_in_mid_epoch_waits_for_its_end(new_trainer: NewTrainer, digits: Dataset) -> None:
    class StopAtOnce(Callback):
        def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
            trainer.stop("enough")

    trainer = new_trainer()
    trainer.fit(digits[:200], digits[:10], 3, 5, progress=None, callbacks=[StopAtOnce()])
    assert (trainer.epoch, trainer.steps, trainer.stopped) == (1, 40, "enough")


def test_no_epoch_begins_after_a_stop_at_the_start(new_trainer: NewTrainer, digits: Dataset) -> None:
    class Never(Callback):
        def on_start(self, trainer: Trainer, steps: int) -> None:
            trainer.stop("not today")

    trainer = new_trainer()
    trainer.fit(digits[:40], None, 3, 20, progress=None, callbacks=[Never()])
    assert trainer.steps == 0


def test_it_needs_a_test_set(new_trainer: NewTrainer, digits: Dataset) -> None:
    trainer = new_trainer()
    with pytest.raises(ArgumentError, match="fit: EarlyStopping needs a test set"):
        trainer.fit(digits[:40], None, 3, 20, progress=None, callbacks=[EarlyStopping(1)])
    assert trainer.steps == 0


@pytest.mark.parametrize(("patience", "min_delta"), [(0, 0.0), (1, -0.1), (1, float("nan"))])
def test_arguments(patience: int, min_delta: float) -> None:
    with pytest.raises(ArgumentError, match=r"EarlyStopping: (patience|min_delta) must be .*got"):
        EarlyStopping(patience, min_delta=min_delta)


def test_the_display_tells_why(
    new_trainer: NewTrainer, digits: Dataset, scripted: Callable[..., None]
) -> None:
    scripted(0.5, 0.4)
    told = "stopped: no better test accuracy in 1 epoch than the 50.00% of epoch 1"
    for display in (ProgressLines, ProgressBar):
        screen = io.StringIO()
        watcher = display(screen)
        new_trainer().fit(digits[:40], digits[:10], 9, 20, progress=watcher, callbacks=[EarlyStopping(1)])
        assert told in screen.getvalue().replace("\r", "\n").splitlines()


# -- the best weights --------------------------------------------------------------------


class Keep(Callback):
    """Notes one weight after each epoch."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        self.seen.append(trainer.model.fc.weight.data.copy())


@pytest.mark.parametrize(
    ("accuracies", "best"), [((0.5, 0.6, 0.55), 2), ((0.0, 0.0, 0.0), 1), ((0.3, 0.6, 0.6), 2)]
)
def test_the_first_of_the_best_epochs_is_kept(
    new_trainer: NewTrainer,
    digits: Dataset,
    scripted: Callable[..., None],
    tmp_path: Path,
    accuracies: Any,
    best: int,
) -> None:
    scripted(*accuracies)
    run, keep, trainer = RunDirectory(tmp_path, {}), Keep(), new_trainer()
    trainer.fit(digits[:40], digits[:10], 2, 20, progress=None, callbacks=[keep, run])
    resumed = new_trainer()
    run.restore(resumed)
    resumed.fit(digits[:40], digits[:10], 1, 20, progress=None, callbacks=[keep, run])
    weights = load_weights(run.best_file).arrays["fc.weight"]
    assert [np.array_equal(weights, seen) for seen in keep.seen].index(True) + 1 == best


def test_without_a_test_set_no_epoch_is_the_best(
    new_trainer: NewTrainer, digits: Dataset, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path, {})
    new_trainer().fit(digits[:40], None, 1, 20, progress=None, callbacks=[run])
    assert run.weights_file.exists()
    assert not run.best_file.exists()


def test_the_best_weights_are_a_model(digits: Dataset, tmp_path: Path) -> None:
    from xpcnn import models, optim

    model = models.tiny_convnet()
    run = RunDirectory(tmp_path, {})
    trainer = Trainer(model, optim.SGD(model))
    trainer.fit(digits[:40], digits[:10], 1, 20, progress=None, callbacks=[run])
    np.testing.assert_array_equal(load_model(run.best_file).fc.weight.data, model.fc.weight.data)


def test_a_run_that_is_killed_while_saving_does_the_epoch_again(
    new_trainer: NewTrainer, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is the last of the epoch's files but for the history, which it holds too."""
    run = RunDirectory(tmp_path, {})

    def killed(path: Any, trainer: Any) -> None:
        assert run.best_file.exists()
        assert run.weights_file.exists()
        raise RuntimeError("killed")

    monkeypatch.setattr("xpcnn.train.run.save_checkpoint", killed)
    with pytest.raises(RuntimeError, match="killed"):
        new_trainer().fit(digits[:40], digits[:10], 1, 20, progress=None, callbacks=[run])
    assert not run.checkpoint_file.exists()
