"""What the commands share: the parser, its errors, kinds of arguments, and options of several commands."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from xpcnn.backend import Backend, backend_names, get_backend, set_backend
from xpcnn.cli.output import printable
from xpcnn.data import augment
from xpcnn.data.catalog import DATASETS
from xpcnn.errors import XpcnnError
from xpcnn.io import Range
from xpcnn.nn.ensemble import VOTES

DTYPES = ("float32", "float64")

Options = argparse.ArgumentParser | argparse._ArgumentGroup


class UsageError(Exception):
    """Arguments that can be parsed, but not followed."""


class Parser(argparse.ArgumentParser):
    """An `argparse` parser that takes no abbreviations, and whose errors are one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {printable(message)}; see {self.prog} --help\n")


# -- kinds of arguments ----------------------------------------------------------------


def number(kind: type[int] | type[float], allowed: Range) -> Callable[[str], Any]:
    """Return a kind of argument: finite numbers within a range."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (value in allowed and abs(value) < math.inf):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r:.80} is not {what}{allowed}")
        return value

    return read


count = number(int, Range(1))
natural = number(int, Range(0))


def word(text: str) -> str:
    """Return a name or a path, which is not empty: `pathlib` takes that for the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty, and must be a path")
    return text


def path(text: str) -> Path:
    """Return a path, which is not empty."""
    return Path(word(text))


def augmentation(text: str) -> str:
    """Return text such as ``"shift=2,rotate=10"``, which names at least one transform."""
    try:
        chain = augment.parse(text)
    except XpcnnError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("augment.parse: ")) from None
    if not chain.transforms:
        raise argparse.ArgumentTypeError("no transform is named")
    return text


# -- options of several commands -------------------------------------------------------

_DEVICE = "one of its devices, such as 0 for cupy or cuda:1 for torch (default: the library's own)"
_VOTE = "how several models answer: by which mean of probabilities (default: mean, or a saved ensemble's own)"
_OPTION = "an argument of the model, such as filters=16; may be given again (default: the model's own)"
_DATASET = "one of %(choices)s (default: the run's own; without a run, synthetic-digits)"
SHARED: dict[str, dict[str, Any]] = {
    "--backend": {"choices": backend_names(), "help": "array library (default: $XPCNN_BACKEND, else numpy)"},
    "--device": {"metavar": "NAME", "help": _DEVICE},
    "--dataset": {"choices": DATASETS, "metavar": "NAME", "help": _DATASET},
    "--test-samples": {"type": count, "metavar": "N", "help": "use the first N only (default: all)"},
    "--vote": {"choices": VOTES, "help": _VOTE},
    "--model-option": {"action": "append", "metavar": "NAME=VALUE", "dest": "model_options", "help": _OPTION},
}


def add_shared(parser: Options, *names: str) -> None:
    """Add options that several commands have."""
    for name in names:
        parser.add_argument(name, **SHARED[name])


def choose_backend(name: str | None, device: str | None) -> Backend:
    """Make a backend the process's own, and return it."""
    if name is not None or device is not None:
        set_backend(name or get_backend().name, device)
    return get_backend()


def time_stamp() -> str:
    """Return the time, to the microsecond, for names of new files: UTC."""
    return datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
