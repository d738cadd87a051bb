"""Signals that end a run: what they raise, that all of it is saved, and that handlers are put back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xpcnn import Trainer
from xpcnn.data import Dataset
from xpcnn.train import Callback, RunDirectory
from xpcnn.train.interrupt import Interrupted, interruptible, status_of

NAMES = [name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
NewTrainer = Callable[..., Trainer]


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """As in a program started from a terminal."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in NAMES}
    for name in NAMES:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


class Send(Callback):
    """Sends signals after some step."""

    def __init__(self, *names: str, step: int = 10) -> None:
        self.numbers, self.step = [getattr(signal, name) for name in names], step

    def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
        if trainer.steps == self.step:
            for number in self.numbers:
                signal.raise_signal(number)


def fit(trainer: Trainer, digits: Dataset, *callbacks: Callback, epochs: int = 2) -> None:
    trainer.fit(digits[:200], digits[:20], epochs, 10, progress=None, callbacks=callbacks)


def handlers() -> list[Any]:
    return [signal.getsignal(getattr(signal, name)) for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_each_is_saved_and_resumed_to_the_bit(
    name: str, new_trainer: NewTrainer, digits: Dataset, tmp_path: Path, same_bits: Any
) -> None:
    before = handlers()
    run, whole, broken, resumed = RunDirectory(tmp_path, {}), *(new_trainer() for _ in range(3))
    with pytest.raises(Interrupted) as caught:
        fit(broken, digits, run, Send(name))
    assert (caught.value.signal.name, status_of(caught.value)) == (name, 128 + getattr(signal, name))
    assert isinstance(caught.value, KeyboardInterrupt)
    assert handlers() == before
    assert run.history().interrupted
    run.restore(resumed)
    assert resumed.steps == 10
    fit(resumed, digits, run, epochs=2)
    fit(whole, digits)
    assert same_bits(whole, resumed)
    assert run.history() == resumed.history


@pytest.mark.parametrize("names", [("SIGINT", "SIGTERM"), ("SIGTERM", "SIGTERM")])
def test_a_second_does_not_wait(names: tuple[str, str], new_trainer: NewTrainer, digits: Dataset) -> None:
    after = []

    class Late(Callback):
        def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
            after.append(trainer.steps)

    trainer = new_trainer()
    with pytest.raises(Interrupted, match=names[1]):
        fit(trainer, digits, Send(*names), Late())
    assert after == []  # raised in the callback before
    assert trainer.consistent


def test_ignored_signals(new_trainer: NewTrainer, digits: Dataset) -> None:
    """A shell ignores SIGINT for its background jobs; `nohup` ignores SIGHUP, and means it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(Interrupted, match="SIGINT"):
        fit(new_trainer(), digits, Send("SIGINT"))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if "SIGHUP" in NAMES:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        fit(new_trainer(), digits, Send("SIGHUP"), epochs=1)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_programs_own_handlers_are_left_alone(new_trainer: NewTrainer, digits: Dataset) -> None:
    seen: list[int] = []
    for name in NAMES:
        signal.signal(getattr(signal, name), lambda number, _: seen.append(number))
    fit(new_trainer(), digits, Send(*NAMES), epochs=1)
    assert seen == [getattr(signal, name) for name in NAMES]


def test_within_a_command_the_step_is_finished_too(new_trainer: NewTrainer, digits: Dataset) -> None:
    before = handlers()
    trainer = new_trainer()
    with pytest.raises(Interrupted), interruptible():
        fit(trainer, digits, Send("SIGTERM"))
    assert (trainer.steps, trainer.consistent) == (10, True)
    with pytest.raises(Interrupted, match="SIGTERM"), interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert handlers() == before
