"""stdout and stderr as the program finds them: missing, of few characters, full, or with nobody reading."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

__all__ = ["flush_stdout", "give_up", "writable_streams"]


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
                sink = restored.enter_context(open(os.devnull, "w", encoding="utf-8"))
                setattr(sys, name, sink)
                restored.callback(setattr, sys, name, None)
            elif _lacks_characters(stream):
                restored.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors="backslashreplace")
        try:
            yield
        finally:
            try:
                sys.stderr.flush()
            except OSError:
                give_up(sys.stderr)


def _lacks_characters(stream: Any) -> bool:
    if not hasattr(stream, "reconfigure"):
        return False
    # surrogateescape in UTF-8 gives back the bytes of a file's name; elsewhere it fails as strict does.
    if stream.errors == "surrogateescape":
        return bool(stream.encoding.lower().replace("-", "") != "utf8")
    return bool(stream.errors == "strict")


def flush_stdout() -> None:
    """Write what stdout still holds back; an OSError names it."""
    try:
        print(end="", flush=True)
    except OSError as error:
        error.filename = error.filename or "standard output"
        raise


def give_up(stream: Any) -> None:
    """Send what is left of the output nowhere, as Python would flush it once more at exit, and complain."""
    with suppress(OSError, ValueError, AttributeError):
        sink = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(sink, stream.fileno())
        finally:
            os.close(sink)
