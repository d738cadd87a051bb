"""Signals that end a run, and going on afterwards as if none had come."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import xpcnn
from tests.support.train import PassOn
from xpcnn import Trainer, optim
from xpcnn.data import Dataset
from xpcnn.train import Callback, RunDirectory, restore_checkpoint, save_checkpoint
from xpcnn.train.interrupt import Interrupted, interruptible, status_of

NAMES = [name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
EPOCHS, STEPS = 3, 5  # of 50 images, the last of 30


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """As in a program started from a terminal."""
    before = handlers()
    for name in NAMES:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for name, handler in zip(NAMES, before, strict=True):
        signal.signal(getattr(signal, name), handler)


def handlers() -> list[Any]:
    return [signal.getsignal(getattr(signal, name)) for name in NAMES]


def send(*names: str) -> None:
    for name in names:
        signal.raise_signal(getattr(signal, name))


def sending(method: str, *names: str) -> Callback:
    """A callback that sends signals in one of its methods."""
    callback = Callback()
    setattr(callback, method, lambda *_: send(*names))
    return callback


def fit(trainer: Trainer, digits: Dataset, *callbacks: Callback, epochs: int = EPOCHS) -> None:
    trainer.fit(digits, digits[:40], epochs, 50, evaluate_samples=30, progress=None, callbacks=callbacks)


def pressing(trainer: Trainer, call: int, *names: str, training: bool = True) -> Trainer:
    """The trainer, with a model that sends signals in forward number `call`."""
    calls = itertools.count(1)

    class Press(PassOn):
        def forward(self, x: Any, *, train: bool = False, key: Any = None) -> Any:
            if train is training and next(calls) == call:
                send(*names or ("SIGINT",))
            return x, None

    trainer.model["press"] = Press()
    return trainer


CASES = [
    *(("numpy", step, {}) for step in (1, 5, 6, 15)),
    ("torch", 7, {}),
    ("numpy", 7, {"optimizer": optim.SGD, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    *(("numpy", 7, {"optimizer": kind}) for kind in (optim.AdaGrad, optim.RMSprop, optim.AdamW)),
]


@pytest.mark.parametrize(("backend", "step", "options"), CASES)
def test_a_resumed_run_has_the_bits_of_an_unbroken_one(
    new_trainer: Any, digits: Dataset, same_bits: Any, tmp_path: Path, backend: str, step: int, options: Any
) -> None:
    if reason := xpcnn.available_backends()[backend]:
        pytest.skip(reason)
    with xpcnn.use_backend(backend):
        whole, broken, resumed = (new_trainer(lr=3e-3, **options) for _ in range(3))
    fit(whole, digits)
    with pytest.raises(KeyboardInterrupt):
        fit(pressing(broken, step), digits)
    assert broken.consistent
    assert broken.history.interrupted
    assert (broken.steps, len(broken.history.losses)) == (step, step)
    assert broken.epoch * STEPS + broken.epoch_steps == step
    save_checkpoint(tmp_path / "c.safetensors", broken)
    restore_checkpoint(tmp_path / "c.safetensors", resumed)
    assert same_bits(broken, resumed)
    for again in (resumed, broken):  # the same trainer may go on, too
        fit(again, digits, epochs=EPOCHS - again.epoch)
        assert same_bits(whole, again)
        assert not again.history.interrupted


def test_during_the_evaluation(new_trainer: Any, digits: Dataset, same_bits: Any) -> None:
    """The steps of the epoch are done, its record is not."""
    whole, broken = new_trainer(), pressing(new_trainer(), 3, training=False)
    fit(whole, digits)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, digits)
    assert (broken.steps, broken.epoch, broken.epoch_steps) == (2 * STEPS, 1, STEPS)
    assert len(broken.history.epochs) == 1
    fit(broken, digits, epochs=EPOCHS - broken.epoch)
    assert same_bits(whole, broken)


@pytest.mark.parametrize(("method", "steps"), [("on_start", 1), ("on_losses", 5), ("on_epoch", 5)])
def test_in_a_callback(new_trainer: Any, digits: Dataset, method: str, steps: int) -> None:
    trainer = new_trainer()
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, digits, sending(method, "SIGINT"))
    assert (trainer.consistent, trainer.steps, len(trainer.history.losses)) == (True, steps, steps)


@pytest.mark.parametrize("name", NAMES)
def test_each_signal_is_saved_where_it_came(
    name: str, new_trainer: Any, digits: Dataset, tmp_path: Path, same_bits: Any
) -> None:
    run, whole, broken, resumed = RunDirectory(tmp_path, {}), *(new_trainer() for _ in range(3))
    before = handlers()
    with pytest.raises(Interrupted) as caught:
        fit(broken, digits, run, sending("on_losses", name))
    assert (caught.value.signal.name, status_of(caught.value)) == (name, 128 + getattr(signal, name))
    assert handlers() == before
    assert run.history().interrupted
    run.restore(resumed)
    assert resumed.steps == STEPS
    fit(resumed, digits, run, epochs=1)
    assert not run.history().interrupted
    fit(whole, digits, epochs=1)
    assert same_bits(whole, resumed)


@pytest.mark.parametrize("names", [("SIGINT", "SIGTERM"), ("SIGTERM", "SIGTERM")])
def test_a_second_does_not_wait(names: Any, new_trainer: Any, digits: Dataset, monkeypatch: Any) -> None:
    trainer = pressing(new_trainer(), 4, *names)
    with pytest.raises(Interrupted, match=names[1]):
        fit(trainer, digits)
    # Forward changes no parameter, an update does.
    assert (trainer.consistent, trainer.steps, len(trainer.history.losses)) == (True, 3, 3)
    monkeypatch.setattr(trainer.optimizer, "step", lambda grads: send(*names))
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, digits)
    assert not trainer.consistent


def test_handlers_of_others(new_trainer: Any, digits: Dataset) -> None:
    """A shell ignores SIGINT for its background jobs; `nohup` ignores SIGHUP, and means it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(Interrupted, match="SIGINT"):
        fit(new_trainer(), digits, sending("on_losses", "SIGINT"))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if "SIGHUP" in NAMES:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        fit(new_trainer(), digits, sending("on_losses", "SIGHUP"), epochs=1)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    seen: list[int] = []
    for name in NAMES:
        signal.signal(getattr(signal, name), lambda number, _: seen.append(number))
    fit(new_trainer(), digits, sending("on_epoch", *NAMES), epochs=1)
    assert seen == [getattr(signal, name) for name in NAMES]


def test_within_a_command_the_step_is_finished_too(new_trainer: Any, digits: Dataset) -> None:
    before, trainer = handlers(), pressing(new_trainer(), 2, "SIGTERM")
    with pytest.raises(Interrupted), interruptible():
        fit(trainer, digits)
    assert (trainer.steps, trainer.consistent) == (2, True)
    with pytest.raises(Interrupted, match="SIGTERM"), interruptible():
        send("SIGTERM")
    assert handlers() == before


def test_in_another_thread_nothing_is_installed(new_trainer: Any, digits: Dataset) -> None:
    trainer = new_trainer()
    thread = threading.Thread(target=fit, args=(trainer, digits), kwargs={"epochs": 1})
    thread.start()
    thread.join()
    assert trainer.steps == STEPS
