"""Ctrl-C that waits for the end of a step, so that what is saved is a whole state."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupt", "graceful_interrupt"]


class Interrupt:
    """Whether Ctrl-C was pressed."""

    requested = False

    def check(self) -> None:
        """Raise the `KeyboardInterrupt` that was put off."""
        if self.requested:
            raise KeyboardInterrupt


@contextmanager
def graceful_interrupt() -> Iterator[Interrupt]:
    """Put Ctrl-C off until `Interrupt.check` is called; a second one acts at once.

    Outside the main thread, and where a program has a handler of its own, nothing is changed.
    """
    interrupt = Interrupt()
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return

    def remember(number: int, frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
