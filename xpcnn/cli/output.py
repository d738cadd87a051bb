"""What the commands print: text from files cannot command a terminal, and a run outlives its output."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO, cast
from unicodedata import category

from xpcnn.cli.streams import give_up

__all__ = ["lasting_output", "log_on_stderr", "one_line", "plain_output", "shown"]

_log = logging.getLogger(__name__)


def shown(text: object) -> str:
    r"""Return text as it can be shown on one line: what is no visible character or space is escaped.

    Examples
    --------
    >>> shown("naïve\n\x1b[31m")
    'naïve\\n\\x1b[31m'
    """
    return "".join(c if c.isprintable() or category(c) == "Zs" else ascii(c)[1:-1] for c in str(text))


def one_line(error: BaseException) -> str:
    """Return an error as one line, with the layers it came through."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    joined = "; ".join(lines).replace(":;", ":")
    notes = ", ".join(getattr(error, "__notes__", ()))
    return shown(f"{joined} ({notes})" if notes else joined)


class _Output:
    """Standard output as a stream on which lines are text, whatever is in them.

    With a list for its failures, it is given up with a note when it fails.
    """

    def __init__(self, stream: TextIO, failures: list[OSError] | None = None) -> None:
        self._stream, self._failures = stream, failures

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, "\n".join(map(shown, text.split("\n"))))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[..., Any], *arguments: str) -> None:
        try:
            action(*arguments)
        except OSError as error:
            if self._failures is None:
                raise
            if not self._failures:
                self._failures.append(error)
                _log.error("error: standard output: %s; the run goes on without it", error.strerror or error)
            give_up(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def plain_output() -> Iterator[None]:
    """Let commands print names and messages from files as they are, inside a ``with`` block."""
    with redirect_stdout(cast("TextIO", _Output(sys.stdout))):
        yield


@contextmanager
def lasting_output() -> Iterator[list[OSError]]:
    """Let what is done inside a ``with`` block go on where standard output fails; the list has that error."""
    failures: list[OSError] = []
    with redirect_stdout(cast("TextIO", _Output(sys.stdout, failures))):
        yield failures


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Show what xpcnn logs, such as downloads, and warnings while a command runs, each on one line."""
    logger = logging.getLogger("xpcnn")
    handler, level = logging.StreamHandler(), logger.level
    handler.setFormatter(_Line("xpcnn: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    of_warnings, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        warnings.formatwarning = of_warnings


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def _warning(message: Warning | str, *where: object, **more: object) -> str:
    return f"xpcnn: warning: {shown(message)}\n"
