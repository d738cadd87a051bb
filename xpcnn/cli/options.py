"""What the subcommands share: kinds of arguments, where to compute, models and their images."""

from __future__ import annotations

import argparse
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from xpcnn.backend import Backend, backend_names, get_backend, set_backend
from xpcnn.cli.parser import UsageError
from xpcnn.data import augment
from xpcnn.errors import CheckpointError, XpcnnError
from xpcnn.io import checked
from xpcnn.models.catalog import parameters_of
from xpcnn.nn import Layer

__all__ = [
    "DTYPES",
    "add_device_options",
    "add_model_option",
    "augmentation",
    "checked_options",
    "choose_backend",
    "count",
    "for_images",
    "input_shape",
    "input_shape_of",
    "model_options",
    "natural",
    "number",
]

DTYPES = ("float32", "float64")
_SMALL = 64  # images of so many pixels are shrunk to nothing by the first layers of ImageNet's networks
_IMAGENET_CLASSES, _IMAGENET_SIZE = 1000, 224


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


def number(allowed: str, test: Callable[[float], bool]) -> Callable[[str], float]:
    """Return a kind of argument: finite numbers that pass a test, which `allowed` names in messages."""

    def kind(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and test(value)):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {allowed}")
        return value

    return kind


def input_shape(text: str) -> tuple[int, ...]:
    """Return the sizes in text such as ``"1,28,28"``."""
    try:
        return _sizes(text, 3)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not channels,height,width, such as 1,28,28") from None


def _sizes(text: str, many: int | None) -> tuple[int, ...]:
    sizes = tuple(count(size) for size in text.split(","))
    if many not in (None, len(sizes)):
        raise argparse.ArgumentTypeError(f"{text!r} is not {many} whole numbers")
    return sizes


# -- models and their images -----------------------------------------------------------


def augmentation(text: str) -> augment.Compose:
    """Return the chain of transforms in text such as ``"shift=2,rotate=10"``; there must be one."""
    try:
        chain = augment.parse(text)
    except XpcnnError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("augment.parse: ")) from None
    if not chain.transforms:
        raise argparse.ArgumentTypeError("no transform is named")
    return chain


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

    Each value is read as one of the kinds that the argument is annotated with.
    """
    known = _optional(model)
    options = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in known:
            raise UsageError(
                f"--model-option {pair}: expected NAME=VALUE, and {model} takes {', '.join(known)}"
            )
        try:
            options[name] = _read(known[name], text)
        except (ValueError, argparse.ArgumentTypeError):
            example = known[name].default
            written = ",".join(map(str, example)) if isinstance(example, tuple) else example
            told = "" if example is inspect.Parameter.empty else f", whose default is {written}"
            raise UsageError(f"--model-option {pair}: {text!r} is no value for {name}{told}") from None
    return options


def checked_options(model: str, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a published model's arguments from those in a file; `where` stands for them in messages.

    Raises
    ------
    CheckpointError
        For an argument that the model does not have, or a value that its annotation does not allow.
    """
    known = _optional(model)
    for name in options:
        if name not in known:
            raise CheckpointError(f"{where}: {model} has no argument {name!r:.60}; it has {', '.join(known)}")
    kinds = {name: Any if one.annotation is one.empty else one.annotation for name, one in known.items()}
    return {name: checked(kinds[name], value, where, name) for name, value in options.items()}


def for_images(
    model: str, options: Mapping[str, Any], shape: tuple[int, ...], classes: int | None = None
) -> dict[str, Any]:
    """Return a published model's arguments, with those added that images (C, H, W) and classes decide."""
    fitting = {"input_shape": shape, "in_channels": shape[0], "small_images": max(shape[1:]) <= _SMALL}
    if classes is not None:
        fitting["classes"] = classes
    taken = parameters_of(model)
    return {**{name: value for name, value in fitting.items() if name in taken}, **options}


def input_shape_of(model: Layer) -> tuple[int, int, int] | None:
    """Return (C, H, W) of the images a published model was trained on, or else of those it was made for.

    None if it does not say: it is no published model.
    """
    if model.spec is None:
        return None
    arguments = model.spec.arguments
    shape = model.spec.input_shape or arguments.get("input_shape")
    if shape is None and "in_channels" in arguments:
        channels, size = arguments["in_channels"], 28 if arguments["in_channels"] == 1 else 32
        classes = parameters_of(model.spec.builder or "").get("classes")
        if classes is not None and classes.default == _IMAGENET_CLASSES and not arguments.get("small_images"):
            size = _IMAGENET_SIZE
        shape = channels, size, size
    if shape is None:
        return None
    channels, height, width = shape
    return channels, height, width


def _optional(model: str) -> dict[str, inspect.Parameter]:
    """Return the arguments of a published model that settings have no other names for."""
    return {name: taken for name, taken in parameters_of(model).items() if name not in ("seed", "dtype")}


def _read(argument: inspect.Parameter, text: str) -> Any:
    annotation = argument.annotation
    if annotation is argument.empty:  # of a model of somebody's own
        annotation = str if argument.default is argument.empty else type(argument.default)
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    for kind, read in _KINDS.items():
        for taken in kinds:
            if kind in (taken, get_origin(taken)):
                try:
                    return read(taken, argument.default, text)
                except (ValueError, argparse.ArgumentTypeError):
                    continue
    raise ValueError(text)


# Tried in this order, where an argument is annotated with several.
_KINDS: dict[Any, Callable[[Any, Any, str], Any]] = {
    NoneType: lambda kind, default, text: (None,)[("none",).index(text.lower())],
    bool: lambda kind, default, text: ("false", "true").index(text.lower()) == 1,
    int: lambda kind, default, text: _whole(text, min(default, 1) if isinstance(default, int) else 0),
    float: lambda kind, default, text: float(text),
    tuple: lambda kind, default, text: _sizes(text, None if ... in get_args(kind) else len(get_args(kind))),
    str: lambda kind, default, text: text,
}
