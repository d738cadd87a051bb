"""Models on the command line: by name with their arguments, or trained, and the data they are for."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from xpcnn.cli.images import resolved
from xpcnn.cli.options import UsageError
from xpcnn.data import Dataset, load_dataset
from xpcnn.data.catalog import DATASETS
from xpcnn.errors import ArgumentError, CheckpointError, NonFiniteWarning
from xpcnn.io import checked
from xpcnn.models.catalog import parameters_of
from xpcnn.nn import Ensemble, Layer
from xpcnn.train import RunDirectory, load_model

_SMALL = 64  # images of so many pixels are shrunk to nothing by the first layers of ImageNet's networks
_IMAGENET_CLASSES, _IMAGENET_SIZE = 1000, 224

Told = TypeVar("Told", bound=Hashable)

# -- by name ---------------------------------------------------------------------------


def model_options(model: str, pairs: Iterable[str]) -> dict[str, Any]:
    """Return a published model's arguments from texts such as ``"filters=16"``.

    Each value is read as one of the kinds that the argument is annotated with.
    """
    known = _kinds(model)
    options = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in known:
            names = ", ".join(known)
            raise UsageError(f"--model-option {pair}: expected NAME=VALUE, and {model} takes {names}")
        for value in _readings(text):
            with suppress(CheckpointError):
                options[name] = checked(known[name], value, model)
                break
        else:
            raise UsageError(f"--model-option {pair}: {text!r} is no value for {parameters_of(model)[name]}")
    return options


def checked_options(model: str, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a published model's arguments from those in a file; `where` stands for them in messages.

    Raises
    ------
    CheckpointError
        For an argument that the model does not have, or a value that its annotation does not allow.
    """
    known = _kinds(model)
    for name in options:
        if name not in known:
            raise CheckpointError(f"{where}: {model} has no argument {name!r:.60}; it has {', '.join(known)}")
    return {name: checked(known[name], value, where, name) for name, value in options.items()}


def for_images(
    model: str, options: Mapping[str, Any], shape: tuple[int, ...], classes: int | None = None
) -> dict[str, Any]:
    """Return a published model's arguments, with those added that images (C, H, W) and classes decide."""
    fitting = {"input_shape": shape, "in_channels": shape[0], "small_images": max(shape[1:]) <= _SMALL}
    if classes is not None:
        fitting["classes"] = classes
    known = parameters_of(model)
    return {**{name: value for name, value in fitting.items() if name in known}, **options}


def _kinds(model: str) -> dict[str, Any]:
    """Return what the arguments of a model are annotated with, but for those that settings have names for.

    Of a model of somebody's own that has no annotation, it is the kind of the default.
    """
    kinds = {}
    for name, one in parameters_of(model).items():
        if name not in ("seed", "dtype"):
            usual = Any if one.default is None or one.default is one.empty else type(one.default)
            kinds[name] = usual if one.annotation is one.empty else one.annotation
    return kinds


def _readings(text: str) -> Iterator[Any]:
    """Yield what text may stand for: nothing, a truth value, a number, sizes; in the end itself."""
    with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        yield ast.literal_eval(text.capitalize() if text.lower() in ("none", "true", "false") else text)
    yield text


# -- trained ---------------------------------------------------------------------------


def load_models(paths: Sequence[Path], vote: str | None) -> Layer:
    """Return the model of a run or a weight file, or the ensemble of several; None is the default vote.

    Raises
    ------
    CheckpointError
        When a file cannot be read, or holds NaN or infinite weights: what they answer is worth nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", NonFiniteWarning)
        try:
            model, *others = (load_model(path) for path in paths)
        except NonFiniteWarning as ruined:
            raise CheckpointError(str(ruined)) from None
    if others:
        return Ensemble(model, *others, vote=vote or "mean")
    if vote is None:
        return model
    if not isinstance(model, Ensemble):
        raise UsageError(f"--vote {vote}: is for several models, and {paths[0]} is one")
    return Ensemble(*model.members, vote=vote)


def input_shape_of(model: Layer) -> tuple[int, int, int] | None:
    """Return (C, H, W) of the images a model was trained on, or else of those it was made for.

    Of an ensemble, it is that of its members, and an `ArgumentError` where they differ. None if it does not
    say: it is no published model.
    """
    return _of_members(model, _shape_of_one, "images of different sizes: {}")


def preparation_of(model: Layer, shape: tuple[int, int, int]) -> str:
    """Return how a model's training images were prepared; of an ensemble, those of its members.

    Raises
    ------
    ArgumentError
        When the members' differ.
    """

    def noted(model: Layer) -> str | None:
        own = None if model.spec is None else model.spec.preparation
        return own if isinstance(model, Ensemble) else resolved(own, shape)

    found = _of_members(model, noted, "pictures prepared differently ({}): --prepare must name one")
    return resolved(found, shape)


def _of_members(model: Layer, of_one: Callable[[Layer], Told | None], problem: str) -> Told | None:
    """Return what a model notes; of an ensemble that notes nothing, what all its members do."""
    found = of_one(model)
    if found is None and isinstance(model, Ensemble):
        answers = {_of_members(member, of_one, problem) for member in model.members}
        if len(answers) > 1:
            several = ", ".join(sorted(map(str, answers)))
            raise ArgumentError(f"the models were made for {problem.format(several)}")
        (found,) = answers
    return found


def _shape_of_one(model: Layer) -> tuple[int, int, int] | None:
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
    return None if shape is None else (shape[0], shape[1], shape[2])


# -- their data ------------------------------------------------------------------------


def dataset_of(paths: Sequence[Path], name: str | None = None) -> tuple[str, Dataset, Dataset]:
    """Return a dataset of that name, or the one that all the runs were trained on: name, training, test."""
    names = {path: name or _dataset_of_one(path) for path in paths}
    if len(set(names.values())) > 1:
        each = ", ".join(f"{path} on {name}" for path, name in names.items())
        raise UsageError(f"the runs were trained on several datasets ({each}), so --dataset must name one")
    found = names[paths[0]] if paths else name or "synthetic-digits"
    return found, *load_dataset(found)


def _dataset_of_one(path: Path) -> str:
    directory = RunDirectory(path if path.is_dir() else path.parent)
    if not directory.config_file.exists():
        raise UsageError(f"{path} is not in the folder of a run, so --dataset must name its data")
    name = directory.config().get("dataset")
    if not isinstance(name, str) or name not in DATASETS:
        raise UsageError(f"{directory.config_file} names no known dataset, so --dataset must")
    return name


def first(dataset: Dataset, samples: int | None, option: str) -> Dataset:
    """Return the first `samples` of a dataset, or all of it for None."""
    if samples is not None and samples > len(dataset):
        raise UsageError(f"{option} {samples}: {dataset.name} has {len(dataset)} such images")
    return dataset if samples is None else dataset[:samples]
