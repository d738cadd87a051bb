"""What is saved whatever becomes of the display and of other callbacks."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import Trainer, nn, optim
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, CheckpointError, DivergenceError
from xpcnn.train import Callback, EpochRecord, ProgressBar, ProgressLines, RunDirectory

NewTrainer = Callable[..., Trainer]


class Full(io.StringIO):
    """A log on a full disk."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.writes = error, 0

    def write(self, text: str) -> int:
        self.writes += 1
        raise self.error


ERRORS = [OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe"), ValueError("closed")]


# tqdm itself passes over what a closed file raises.
@pytest.mark.parametrize(
    ("display", "error"),
    [*((ProgressLines, error) for error in ERRORS), *((ProgressBar, e) for e in ERRORS[:2])],
)
def test_a_display_that_fails_is_dropped(
    display: Any,
    error: Exception,
    new_trainer: NewTrainer,
    digits: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run, stream = RunDirectory(tmp_path, {}), Full(error)
    history = new_trainer().fit(digits[:40], None, 3, 20, progress=display(stream), callbacks=[run])
    assert run.history() == history
    assert len(history.epochs) == 3
    notes = [record.getMessage() for record in caplog.records]
    assert notes == [f"the progress display failed and shows nothing more: {error}"]
    assert stream.writes == 1


def test_dev_full(new_trainer: NewTrainer, digits: Dataset) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with suppress(OSError), open("/dev/full", "w") as full:  # closing it writes once more
        history = new_trainer().fit(digits[:40], None, 2, 20, progress=ProgressLines(full))
    assert len(history.epochs) == 2


@pytest.mark.parametrize("stderr", ["missing", "closed"])
def test_without_a_console(
    new_trainer: NewTrainer, digits: Dataset, monkeypatch: pytest.MonkeyPatch, stderr: str
) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", None if stderr == "missing" else stream)
    for progress in ("auto", ProgressLines(), ProgressBar()):
        history = new_trainer().fit(digits[:40], None, 1, 20, progress=progress)
        assert len(history.epochs) == 1


class Fails(Callback):
    def __init__(self, where: str, text: str = "mine") -> None:
        self.where, self.text = where, text

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        if self.where == "on_epoch":
            raise RuntimeError(self.text)

    def on_stop(self, trainer: Trainer) -> None:
        if self.where == "on_stop":
            raise RuntimeError(self.text)


@pytest.mark.parametrize("where", ["on_epoch", "on_stop"])
def test_another_callback_that_fails_costs_nothing(
    where: str, new_trainer: NewTrainer, digits: Dataset, tmp_path: Path
) -> None:
    run, trainer = RunDirectory(tmp_path, {}), new_trainer()
    with pytest.raises(RuntimeError, match="mine"):
        trainer.fit(digits[:40], None, 1, 20, progress=None, callbacks=[Fails(where), run])
    restored = new_trainer()
    run.restore(restored)
    assert (restored.epoch, restored.steps) == (1, 2)
    assert run.history() == trainer.history
    with run.writing():
        pass  # the lock is free


def test_every_on_stop_is_called(new_trainer: NewTrainer, digits: Dataset) -> None:
    stopped = []

    class Last(Callback):
        def on_stop(self, trainer: Trainer) -> None:
            stopped.append(trainer.steps)

    callbacks = [Fails("on_stop", "first"), Fails("on_stop", "second"), Last()]
    with pytest.raises(RuntimeError, match="first") as caught:
        new_trainer().fit(digits[:40], None, 1, 20, progress=None, callbacks=callbacks)
    assert stopped == [2]
    assert caught.value.__notes__ == ["Fails.on_stop: second"]


# -- weights that the last update ruins ------------------------------------------------------


def ruined_by(trainer: Trainer, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    update = trainer.optimizer.step

    def ruin(grads: Any) -> None:
        update(grads)
        if trainer.steps == step - 1:
            weight = trainer.model.parameters()["fc.weight"]
            weight.data = weight.data * np.float32(np.inf)

    monkeypatch.setattr(trainer.optimizer, "step", ruin)


def test_a_last_update_that_ruins_the_weights_fails(
    new_trainer: NewTrainer, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, trainer = RunDirectory(tmp_path, {}), new_trainer()
    ruined_by(trainer, 4, monkeypatch)  # the last of two epochs
    message = r"fc\.weight became NaN or infinite by step 4 \(epoch 2\) with learning rate 0\.001; lower"
    with pytest.raises(DivergenceError, match=message):
        trainer.fit(digits[:40], digits[:10], 2, 20, progress=None, callbacks=[run])
    restored = new_trainer()
    run.restore(restored)
    assert restored.steps == 2
    for file in (run.weights_file, run.best_file):
        weights = nn.Sequential(**new_trainer().model.children())
        weights.load(file)
        assert all(np.isfinite(p.data).all() for p in weights.parameters().values())
    assert len(run.history().losses) == 4


def test_an_interrupt_after_a_ruined_update_saves_nothing(
    new_trainer: NewTrainer,
    digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ctrl_c: Callable[[], None],
) -> None:
    run, trainer = RunDirectory(tmp_path, {}), new_trainer()
    ruined_by(trainer, 3, monkeypatch)
    step = trainer.step

    def pressed(x: Any, t: Any) -> Any:
        if trainer.steps == 2:
            ctrl_c()
        return step(x, t)

    monkeypatch.setattr(trainer, "step", pressed)
    with pytest.raises(DivergenceError, match="by step 3"):
        trainer.fit(digits[:40], digits[:10], 2, 20, progress=None, callbacks=[run])
    restored = new_trainer()
    run.restore(restored)
    assert restored.steps == 2
    assert len(run.history().losses) == 3


@pytest.mark.parametrize("optimizer", [optim.Adam, optim.SGD])
def test_frozen_parameters_may_hold_infinity(
    new_trainer: NewTrainer, digits: Dataset, tmp_path: Path, optimizer: Any
) -> None:
    class Masked(nn.Layer):
        """Adds nothing; its parameter is a mask."""

        def __init__(self) -> None:
            self.mask = nn.Parameter(np.full((1,), -np.inf, "f"))
            self.mask.trainable = False

        def forward(self, x: Any, *, train: bool = False, key: Any = None) -> Any:
            return x, None

        def backward(self, ctx: Any, dy: Any, grads: Any = None, *, need_dx: bool = True) -> Any:
            return dy

    model = new_trainer().model
    model["masked"] = Masked()
    run = RunDirectory(tmp_path, {})
    Trainer(model, optimizer(model)).fit(digits[:40], None, 1, 20, progress=None, callbacks=[run])
    assert run.weights_file.exists()


def test_a_full_disk_costs_nothing_that_was_saved(
    new_trainer: NewTrainer, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a limit on the size of files, as a full disk needs a mount."""
    resource = pytest.importorskip("resource")
    import signal

    run, trainer = RunDirectory(tmp_path, {}), new_trainer()
    trainer.fit(digits[:40], None, 1, 20, progress=None, callbacks=[run])
    before, limits = run.checkpoint_file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot write"):
            trainer.fit(digits[:40], None, 1, 20, progress=None, callbacks=[run])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert run.checkpoint_file.read_bytes() == before
    restored = new_trainer()
    run.restore(restored)
    assert restored.epoch == 1
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


@pytest.mark.parametrize("strange", [3, {"a": 1}, "no", None, [None]])
def test_what_is_no_callback(strange: Any, new_trainer: NewTrainer, digits: Dataset) -> None:
    with pytest.raises(ArgumentError, match="fit: callbacks must be"):
        new_trainer().fit(digits, epochs=0, callbacks=strange)
    if strange is not None:
        with pytest.raises(ArgumentError, match="fit: progress must be"):
            new_trainer().fit(digits, epochs=0, progress=strange)
