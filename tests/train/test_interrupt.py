"""Ctrl-C, and going on afterwards as if it had not been pressed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import xpcnn
from xpcnn import Trainer, nn, optim
from xpcnn.data import Dataset
from xpcnn.train import Callback, EpochRecord, restore_checkpoint, save_checkpoint

NewTrainer = Callable[..., Trainer]
CtrlC = Callable[[], None]
EPOCHS, STEPS = 3, 5  # of 50 images, the last of 30


def fit(trainer: Trainer, digits: Dataset, epochs: int = EPOCHS, *callbacks: Callback) -> None:
    trainer.fit(digits, digits[:40], epochs, 50, evaluate_samples=30, progress=None, callbacks=callbacks)


class PressAt(nn.Layer):
    """Passes its input on; presses Ctrl-C in forward number `call`, `times` times."""

    def __init__(self, press: CtrlC, call: int, times: int = 1, train: bool = True) -> None:
        self.press, self.call, self.times, self.train = press, call, times, train
        self.calls = 0

    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> Any:
        if train is self.train:
            self.calls += 1
            if self.calls == self.call:
                for _ in range(self.times):
                    self.press()
        return x, None

    def backward(self, ctx: Any, dy: Any, grads: Any = None, *, need_dx: bool = True) -> Any:
        return dy


def pressing(trainer: Trainer, layer: PressAt) -> Trainer:
    """The trainer, with a model that presses Ctrl-C."""
    trainer.model["press"] = layer
    return trainer


@pytest.mark.parametrize("step", [1, 2, 5, 6, 7, 14, 15])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_resumed_run_has_the_bits_of_an_unbroken_one(
    new_trainer: NewTrainer,
    digits: Dataset,
    ctrl_c: CtrlC,
    same_bits: Any,
    tmp_path: Path,
    step: int,
    backend: str,
) -> None:
    if reason := xpcnn.available_backends()[backend]:
        pytest.skip(reason)
    with xpcnn.use_backend(backend):
        whole, broken, resumed = (new_trainer(lr=3e-3) for _ in range(3))
    fit(whole, digits)
    with pytest.raises(KeyboardInterrupt):
        fit(pressing(broken, PressAt(ctrl_c, step)), digits)
    assert broken.consistent
    assert broken.history.interrupted
    assert (broken.steps, len(broken.history.losses)) == (step, step)
    assert broken.epoch * STEPS + broken.epoch_steps == step
    save_checkpoint(tmp_path / "c.safetensors", broken)
    restore_checkpoint(tmp_path / "c.safetensors", resumed)
    assert same_bits(broken, resumed)
    fit(resumed, digits, EPOCHS - resumed.epoch)
    assert same_bits(whole, resumed)
    assert not resumed.history.interrupted


@pytest.mark.parametrize("optimizer", ["SGD", "AdaGrad", "RMSprop", "Adam", "AdamW"])
def test_with_every_optimizer(
    new_trainer: NewTrainer, digits: Dataset, ctrl_c: CtrlC, same_bits: Any, tmp_path: Path, optimizer: str
) -> None:
    options = {"optimizer": getattr(optim, optimizer), "lr": 2e-3, "weight_decay": 1e-3}
    if optimizer == "SGD":
        options |= {"momentum": 0.9, "nesterov": True}
    whole, broken, resumed = (new_trainer(**options) for _ in range(3))
    fit(whole, digits)
    with pytest.raises(KeyboardInterrupt):
        fit(pressing(broken, PressAt(ctrl_c, 7)), digits)
    save_checkpoint(tmp_path / "c.npz", broken)
    restore_checkpoint(tmp_path / "c.npz", resumed)
    fit(resumed, digits, EPOCHS - resumed.epoch)
    assert same_bits(whole, resumed)


def test_going_on_with_the_same_trainer(
    new_trainer: NewTrainer, digits: Dataset, ctrl_c: CtrlC, same_bits: Any
) -> None:
    whole, broken = new_trainer(), pressing(new_trainer(), PressAt(ctrl_c, 8))
    fit(whole, digits)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, digits)
    fit(broken, digits, EPOCHS - broken.epoch)
    assert same_bits(whole, broken)


def test_during_the_evaluation(
    new_trainer: NewTrainer, digits: Dataset, ctrl_c: CtrlC, same_bits: Any
) -> None:
    """The steps of the epoch are done, its record is not."""
    whole, broken = new_trainer(), pressing(new_trainer(), PressAt(ctrl_c, 3, train=False))
    fit(whole, digits)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, digits)
    assert (broken.steps, broken.epoch, broken.epoch_steps) == (2 * STEPS, 1, STEPS)
    assert len(broken.history.epochs) == 1
    fit(broken, digits, EPOCHS - broken.epoch)
    assert same_bits(whole, broken)


class PressOn(Callback):
    """Presses Ctrl-C in one of the methods."""

    def __init__(self, press: CtrlC, method: str) -> None:
        self.press, self.method = press, method

    def _called(self, method: str) -> None:
        if method == self.method:
            self.press()

    def on_start(self, trainer: Trainer, steps: int) -> None:
        self._called("on_start")

    def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
        self._called("on_losses")

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        self._called("on_epoch")


@pytest.mark.parametrize(("method", "steps"), [("on_start", 1), ("on_losses", 5), ("on_epoch", 5)])
def test_in_a_callback(
    new_trainer: NewTrainer, digits: Dataset, ctrl_c: CtrlC, same_bits: Any, method: str, steps: int
) -> None:
    trainer, whole = new_trainer(), new_trainer()
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, digits, EPOCHS, PressOn(ctrl_c, method))
    assert trainer.consistent
    assert (trainer.steps, len(trainer.history.losses)) == (steps, steps)
    fit(trainer, digits, EPOCHS - trainer.epoch)
    fit(whole, digits)
    assert same_bits(whole, trainer)


def test_a_second_press_does_not_wait(new_trainer: NewTrainer, digits: Dataset, ctrl_c: CtrlC) -> None:
    trainer = pressing(new_trainer(), PressAt(ctrl_c, 4, times=2))
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, digits)
    assert trainer.consistent  # forward changes no parameter
    assert (trainer.steps, len(trainer.history.losses)) == (3, 3)


def test_a_second_press_in_the_update_is_known(
    new_trainer: NewTrainer, digits: Dataset, ctrl_c: CtrlC, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = new_trainer()
    step = trainer.optimizer.step

    def pressed_twice(grads: Any) -> None:
        step(grads)
        ctrl_c()
        ctrl_c()

    monkeypatch.setattr(trainer.optimizer, "step", pressed_twice)
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, digits)
    assert not trainer.consistent


def test_the_handler_is_put_back(new_trainer: NewTrainer, digits: Dataset, ctrl_c: CtrlC) -> None:
    for trainer in (new_trainer(), pressing(new_trainer(), PressAt(ctrl_c, 1))):
        with suppress(KeyboardInterrupt):
            fit(trainer, digits, 1)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_programs_own_handler_is_left_alone(
    new_trainer: NewTrainer, digits: Dataset, ctrl_c: CtrlC
) -> None:
    pressed = []
    signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    trainer = pressing(new_trainer(), PressAt(ctrl_c, 2))
    fit(trainer, digits, 1)
    assert (pressed, trainer.steps) == ([1], STEPS)


def test_in_another_thread_nothing_is_installed(new_trainer: NewTrainer, digits: Dataset) -> None:
    trainer = new_trainer()
    thread = threading.Thread(target=fit, args=(trainer, digits, 1))
    thread.start()
    thread.join()
    assert trainer.steps == STEPS
