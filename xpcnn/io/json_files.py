"""JSON within bounds.

JSON can say more than our files ever do: lists in lists without end, numbers of any length, NaN, a name
twice. Here all that is refused, with one kind of error.
"""

from __future__ import annotations

import json
import math
import re
from os import PathLike
from typing import Any, NoReturn

from xpcnn.arguments import in_words, plain
from xpcnn.errors import CheckpointError
from xpcnn.io.files import replacing

__all__ = ["brief", "parse_json", "read_json", "write_json"]

MOST_BYTES = 1 << 28
"""Of a JSON file; that of a run of ten million steps is smaller."""

MOST_DEPTH = 50
MOST_DIGITS = 80  # seeds have up to 39

_MARKS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]')


def read_json(path: str | PathLike[str], most: int = MOST_BYTES) -> Any:
    """Return what a JSON file of at most `most` bytes holds.

    Raises
    ------
    CheckpointError
        When the file is missing, cannot be read, is too large, or is refused by `parse_json`.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # a ValueError for a name with a null byte
        raise CheckpointError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    if len(content) > most:
        raise CheckpointError(f"{path}: larger than {most:,} bytes, the most that is read")
    return parse_json(content, f"{path}: unreadable")


def parse_json(text: str | bytes, where: str) -> Any:
    """Return what JSON text says; `where` stands for it in messages.

    Raises
    ------
    CheckpointError
        For text that is not UTF-8 or no JSON. For NaN and Infinity, numbers that a float cannot hold or of
        more than 80 digits, a name twice in one object, and values nested more than 50 deep.

    Examples
    --------
    >>> parse_json('{"loss": 1e999}', "history.json")
    Traceback (most recent call last):
        ...
    xpcnn.errors.CheckpointError: history.json: 1e999 is no number that a float can hold
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(
            text, parse_int=_whole, parse_float=_float, parse_constant=_refused, object_pairs_hook=_object
        )
    except RecursionError:
        raise CheckpointError(f"{where}: nested too deep") from None
    except ValueError as error:  # json's errors and those of decoding are such
        raise CheckpointError(f"{where}: {error}") from error
    depth = 0
    for mark in _MARKS.finditer(text):  # the text is JSON: the marks are in pairs
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark[0], 0)
        if depth > MOST_DEPTH:
            raise CheckpointError(f"{where}: nested more than {MOST_DEPTH} deep")
    return value


def write_json(path: str | PathLike[str], value: Any) -> None:
    """Write a value as JSON that `read_json` reads; a file that is there is replaced whole or not at all.

    NumPy's numbers are written as Python's.

    Raises
    ------
    CheckpointError
        When the file cannot be written.
    ValueError
        For NaN and infinite numbers, which JSON has not.
    """
    text = json.dumps(plain(value), indent=1, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.40} is no number that a float can hold")
    return number


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{brief(name)} stands there twice")
        found[name] = value
    return found


def brief(value: Any) -> str:
    """Return a value as a message shows it: escaped, on one line, and short."""
    if isinstance(value, list | dict):
        what = "a list" if isinstance(value, list) else "a mapping"
        return f"{what} of {len(value)}"
    text = ascii(value) if isinstance(value, str) else in_words(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
