"""What the commands print: text from files cannot command a terminal, and a run outlives its output."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import Any, TextIO, cast
from unicodedata import category

_log = logging.getLogger(__name__)


def printable(text: object) -> str:
    r"""Return text as it can be printed on one line: what is no visible character or space is escaped.

    Examples
    --------
    >>> printable("naïve\n\x1b[31m")
    'naïve\\n\\x1b[31m'
    """
    return "".join(c if c.isprintable() or category(c) == "Zs" else ascii(c)[1:-1] for c in str(text))


def one_line(error: BaseException) -> str:
    """Return an error as one line, with the layers it came through."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    joined = "; ".join(line.strip() for line in text.splitlines() if line.strip()).replace(":;", ":")
    notes = ", ".join(getattr(error, "__notes__", ()))
    return printable(f"{joined} ({notes})" if notes else joined)


# -- streams that are missing, of few characters, full, or with nobody reading ---------


@contextmanager
def writable_streams() -> Iterator[None]:
    """Let a block print any text to stdout and stderr.

    A missing one (without a console, Python has None there) is a sink; characters that the encoding of one
    does not have are written as escapes. What stderr could not write is not tried again at exit.
    """
    with ExitStack() as restored:
        for name in ("stdout", "stderr"):
            stream: Any = getattr(sys, name)
            if stream is None:
                setattr(sys, name, restored.enter_context(open(os.devnull, "w", encoding="utf-8")))
                restored.callback(setattr, sys, name, None)
            elif hasattr(stream, "reconfigure"):
                restored.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors="backslashreplace")
        try:
            yield
        finally:
            try:
                sys.stderr.flush()
            except OSError:
                discard(sys.stderr)


def flush_stdout() -> None:
    """Write what stdout still holds back; an OSError names it."""
    try:
        print(end="", flush=True)
    except OSError as error:
        error.filename = error.filename or "standard output"
        raise


def discard(stream: Any) -> None:
    """Send what is left of the output nowhere, as Python would flush it once more at exit, and complain."""
    with suppress(OSError, ValueError, AttributeError), open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), stream.fileno())


class _Output:
    """Standard output as a stream on which lines are text, whatever is in them.

    With a list for its failures, it is given up with a note when it fails.
    """

    def __init__(self, stream: TextIO, failures: list[OSError] | None = None) -> None:
        self._stream, self._failures = stream, failures

    def write(self, text: str) -> int:
        with self._given_up():
            self._stream.write("\n".join(map(printable, text.split("\n"))))
        return len(text)

    def flush(self) -> None:
        with self._given_up():
            self._stream.flush()

    @contextmanager
    def _given_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._failures is None:
                raise
            if not self._failures:
                self._failures.append(error)
                _log.error("error: standard output: %s; the run goes on without it", error.strerror or error)
            discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def plain_output(failures: list[OSError] | None = None) -> Iterator[None]:
    """Let commands print names and messages from files as they are, inside a ``with`` block.

    With a list for its failures, what is done there goes on where standard output fails.
    """
    with redirect_stdout(cast("TextIO", _Output(sys.stdout, failures))):
        yield


# -- what is logged --------------------------------------------------------------------


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Show what xpcnn logs, such as downloads, and warnings while a command runs, each on one line."""
    logger = logging.getLogger("xpcnn")
    handler, level = logging.StreamHandler(), logger.level
    handler.format = lambda record: f"xpcnn: {printable(record.getMessage())}"  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    before, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        warnings.formatwarning = before


def _warning(message: Warning | str, *where: object, **more: object) -> str:
    return f"xpcnn: warning: {printable(message)}\n"
