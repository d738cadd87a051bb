"""What the subcommands share: a parser that errs in one line, kinds of arguments, where to compute."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterable
from typing import Any, NoReturn

from xpcnn import models
from xpcnn.backend import Backend, backend_names, get_backend, set_backend
from xpcnn.nn import Layer

__all__ = [
    "DTYPES",
    "Parser",
    "UsageError",
    "add_device_options",
    "add_model_option",
    "choose_backend",
    "count",
    "input_shape",
    "input_shape_of",
    "model_options",
    "natural",
]

DTYPES = ("float32", "float64")


class UsageError(Exception):
    """Arguments that can be parsed, but not followed."""


class Parser(argparse.ArgumentParser):
    """An `argparse` parser that takes no abbreviations, and whose errors are one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


# -- where to compute ------------------------------------------------------------------


def add_device_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--backend`` and ``--device``."""
    parser.add_argument(
        "--backend",
        choices=backend_names(),
        help="array library to compute with (default: $XPCNN_BACKEND, else numpy)",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="one of its devices, such as 0 for cupy or cuda:1 for torch (default: the library's own)",
    )


def choose_backend(name: str | None, device: str | None) -> Backend:
    """Make a backend the process's own, and return it."""
    if name is not None or device is not None:
        set_backend(name or get_backend().name, device)
    return get_backend()


# -- kinds of arguments ----------------------------------------------------------------


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """Return a whole number of at least 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return number


def input_shape(text: str) -> tuple[int, ...]:
    """Return the sizes in text such as ``"1,28,28"``."""
    try:
        sizes = tuple(count(size) for size in text.split(","))
    except argparse.ArgumentTypeError:
        sizes = ()
    if len(sizes) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not channels,height,width, such as 1,28,28")
    return sizes


def add_model_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--model-option``, which may be given many times."""
    parser.add_argument(
        "--model-option",
        action="append",
        metavar="NAME=VALUE",
        help="an argument of the model, such as filters=16; may be given again (default: the model's own)",
    )


def model_options(model: str, pairs: Iterable[str]) -> dict[str, Any]:
    """Return a published model's arguments from texts such as ``"filters=16"``.

    Each value is read as the kind that the argument's default is of.
    """
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(getattr(models, model)).parameters.items()
        if name not in ("seed", "dtype")
    }
    options = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in known:
            raise UsageError(
                f"--model-option {pair}: expected NAME=VALUE, and {model} takes {', '.join(known)}"
            )
        try:
            options[name] = _like(known[name], text)
        except (ValueError, argparse.ArgumentTypeError):
            example = known[name]
            written = ",".join(map(str, example)) if isinstance(example, tuple) else example
            raise UsageError(
                f"--model-option {pair}: {text!r} is no value for {name}, whose default is {written}"
            ) from None
    return options


def input_shape_of(model: Layer) -> tuple[int, int, int] | None:
    """Return the (C, H, W) a published model was built for, or None if it takes images of many sizes."""
    shape = None if model.recipe is None else model.recipe.arguments.get("input_shape")
    if shape is None:
        return None
    channels, height, width = shape
    return channels, height, width


def _like(default: Any, text: str) -> Any:
    if isinstance(default, bool):
        return ("false", "true").index(text.lower()) == 1
    if isinstance(default, int):
        return _whole(text, min(default, 1))
    if isinstance(default, tuple):
        return input_shape(text)
    try:
        return float(text)
    except ValueError:
        return text
