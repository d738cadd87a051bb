"""The published models by name, each with the recipe its weight files carry."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from xpcnn.backend import dtype_name
from xpcnn.errors import ArgumentError
from xpcnn.models._arguments import checked_arguments
from xpcnn.nn import Layer, Recipe
from xpcnn.ops.checks import in_words, plain

__all__ = ["build", "model_names", "published"]

Arguments = ParamSpec("Arguments")
Model = TypeVar("Model", bound=Layer)

_builders: dict[str, Callable[..., Layer]] = {}

# Arguments that builders took once, which older files name, with the value that asked for nothing.
_REMOVED: dict[str, dict[str, Any]] = {"deep_convnet": {"deskew": False, "digit_size": None}}


def published(builder: Callable[Arguments, Model]) -> Callable[Arguments, Model]:
    """List a builder under its name, and note each model's recipe on the model."""
    signature = inspect.signature(builder)
    name = builder.__name__

    @functools.wraps(builder)
    def built(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Model:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        # NumPy's numbers and small arrays as Python's: the recipe is to fit into a file.
        bound.arguments.update(plain(bound.arguments))
        bound.arguments.update(checked_arguments(name, bound.arguments, signature.parameters))
        model = builder(*bound.args, **bound.kwargs)
        model.note_recipe(Recipe(name, _saved(bound.arguments)))
        return model

    _builders[name] = built
    return built


def _saved(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return a builder's arguments as what a file can hold: a generator as None, a dtype by its name."""
    seed = arguments["seed"] if isinstance(arguments["seed"], int) else None
    return {**arguments, "seed": seed, "dtype": dtype_name(arguments["dtype"])}


def model_names() -> tuple[str, ...]:
    """Return the names `build` takes."""
    return tuple(_builders)


def build(name: str, **arguments: Any) -> Layer:
    """Return a new published model by name.

    Raises
    ------
    ArgumentError
        For an unknown name, or an argument its builder does not take.

    Examples
    --------
    >>> build("tiny_convnet", filters=4).conv1.weight.shape
    (4, 1, 3, 3)
    """
    if not isinstance(name, str) or name not in _builders:
        raise ArgumentError(f"unknown model {in_words(name)}; known: {', '.join(_builders)}")
    builder = _builders[name]
    for argument, nothing in _REMOVED.get(name, {}).items():
        value = arguments.pop(argument, nothing)
        if value != nothing:
            raise ArgumentError(
                f"{name}: {argument}={value!r} was removed: models no longer deskew or stretch digits; train "
                f"the model again without it"
            )
    try:
        inspect.signature(builder).bind(**arguments)
    except TypeError as error:
        raise ArgumentError(f"{name}: {error}; it takes {inspect.signature(builder)}") from None
    return builder(**arguments)
