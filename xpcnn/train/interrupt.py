"""Signals that wait for the end of a step, so that what is saved is a whole state."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any, NoReturn

__all__ = ["Interrupted", "graceful_interrupt", "ignore_signals", "interruptible", "status_of"]

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or another signal that ends a run: SIGTERM, SIGHUP or SIGUSR1.

    Attributes
    ----------
    signal : signal.Signals
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


def status_of(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status of a program that a signal ended: 128 and the signal's number."""
    return 128 + (interrupt.signal if isinstance(interrupt, Interrupted) else signal.SIGINT)


@contextmanager
def graceful_interrupt() -> Iterator[Callable[[], None]]:
    """Put Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 off until the function that it gives is called; it raises then.

    A second one acts at once. Outside the main thread, and for signals that a program has a handler of its
    own for, nothing is changed.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise Interrupted(number)

    def check() -> None:
        if received:
            raise Interrupted(received[0])

    with _handled_by(remember):
        yield check


def interruptible() -> AbstractContextManager[None]:
    """Let the same signals raise `Interrupted`, wherever the program is, inside a ``with`` block."""
    return _handled_by(_raise_interrupted)


def ignore_signals() -> None:
    """Ignore the same signals from now on, as a process does that has only to exit."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _raise_interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            # A shell without job control starts background jobs with SIGINT ignored. A run is to be saved all
            # the same; `nohup`, which has SIGHUP ignored, means it.
            ignored = [signal.SIG_IGN] if number == signal.SIGINT else []
            usual = [signal.SIG_DFL, signal.default_int_handler, _raise_interrupted, *ignored]
            if (found := signal.getsignal(number)) in usual:
                before[number] = found
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
