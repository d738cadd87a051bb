"""What the commands share: the parser, its errors, and kinds of arguments."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from xpcnn.backend import Backend, backend_names, get_backend, set_backend
from xpcnn.cli.output import printable
from xpcnn.data import augment
from xpcnn.data.catalog import DATASETS
from xpcnn.errors import XpcnnError
from xpcnn.io import Range
from xpcnn.nn.ensemble import VOTES

__all__ = [
    "DTYPES",
    "Parser",
    "UsageError",
    "add_dataset_option",
    "add_device_options",
    "add_model_option",
    "add_vote_option",
    "augmentation",
    "choose_backend",
    "count",
    "input_shape",
    "natural",
    "number",
    "path",
    "word",
]

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


def input_shape(text: str) -> tuple[int, int, int]:
    """Return the sizes in text such as ``"1,28,28"``."""
    try:
        channels, height, width = map(count, text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not channels,height,width, such as 1,28,28") from None
    return channels, height, width


def augmentation(text: str) -> augment.Compose:
    """Return the chain of transforms in text such as ``"shift=2,rotate=10"``; there must be one."""
    try:
        chain = augment.parse(text)
    except XpcnnError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("augment.parse: ")) from None
    if not chain.transforms:
        raise argparse.ArgumentTypeError("no transform is named")
    return chain


# -- options of several commands -------------------------------------------------------


def add_device_options(parser: Options) -> None:
    """Add ``--backend`` and ``--device``."""
    what = "array library to compute with (default: $XPCNN_BACKEND, else numpy)"
    parser.add_argument("--backend", choices=backend_names(), help=what)
    what = "one of its devices, such as 0 for cupy or cuda:1 for torch (default: the library's own)"
    parser.add_argument("--device", metavar="NAME", help=what)


def choose_backend(name: str | None, device: str | None) -> Backend:
    """Make a backend the process's own, and return it."""
    if name is not None or device is not None:
        set_backend(name or get_backend().name, device)
    return get_backend()


def add_dataset_option(parser: Options, default: str) -> None:
    """Add ``--dataset``, None if not given, and ``--test-samples``."""
    what = f"one of %(choices)s (default: {default})"
    parser.add_argument("--dataset", choices=DATASETS, metavar="NAME", help=what)
    parser.add_argument("--test-samples", type=count, metavar="N", help="use the first N only (default: all)")


def add_vote_option(parser: Options) -> None:
    """Add ``--vote``."""
    what = (
        "how several models answer: by the mean of their probabilities, or their geometric mean "
        "(default: mean, or a saved ensemble's own)"
    )
    parser.add_argument("--vote", choices=VOTES, help=what)


def add_model_option(parser: Options, default: Any = None) -> None:
    """Add ``--model-option``, which may be given many times."""
    what = "an argument of the model, such as filters=16; may be given again (default: the model's own)"
    options: dict[str, Any] = {"action": "append", "dest": "model_options", "default": default}
    parser.add_argument("--model-option", metavar="NAME=VALUE", help=what, **options)
