"""The models by name, each with a note of how it was built, for its weight files."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from xpcnn.backend import dtype_name
from xpcnn.errors import ArgumentError
from xpcnn.nn import Layer
from xpcnn.nn.init import floating
from xpcnn.ops.op import flag, in_words, plain, real, sizes, whole
from xpcnn.plugins import Registry, check_name

__all__ = ["MODELS", "build", "model_names", "parameters_of", "register_model", "register_variant"]

Arguments = ParamSpec("Arguments")
Model = TypeVar("Model", bound=Layer)

Builder = Callable[..., Layer]


def _adopted(name: str, builder: Any) -> Builder:
    """Return the builder that another distribution declares under a name."""
    if not hasattr(builder, "model_name"):
        return register_model(name)(builder)
    if builder.model_name != name:
        raise ArgumentError(f"the model is registered as {builder.model_name!r}; declare it under that name")
    found: Builder = builder
    return found


MODELS: Registry[Builder] = Registry("xpcnn.models", _adopted)
"""Functions that build models, by name."""


def register_model(name: str) -> Callable[[Callable[Arguments, Model]], Callable[Arguments, Model]]:
    """Return a decorator that makes a function known which builds a model, under a name.

    The name then stands wherever that of a published model does: `build`, ``xpcnn train --model NAME``, and
    in files of such a model, which keep the arguments that it was built with. Other distributions can bring
    one as an entry point of the group ``xpcnn.models``.

    Parameters
    ----------
    name : str
        A letter, then letters, digits, dots, hyphens and underscores. Files refer to it: keep it.

    Raises
    ------
    ArgumentError
        For another spelling, or a name that is taken; for what is no function, or takes ``*args`` or
        ``**kwargs``.

    Notes
    -----
    Each argument needs a name; all should have defaults. ``xpcnn train`` gives those called ``classes``,
    ``in_channels``, ``input_shape`` (C, H, W), ``small_images``, ``seed`` and ``dtype`` where the function
    takes them, and others by ``--model-option``: annotated as int, float, bool, str or tuples of int.

    Examples
    --------
    >>> from xpcnn import models, nn
    >>> @models.register_model("example_net")
    ... def example_net(classes: int = 10, in_channels: int = 1, seed: int = 0) -> nn.Layer:
    ...     return nn.Sequential(
    ...         conv=nn.Conv2d(in_channels, 4, 3, seed=seed),
    ...         act=nn.ReLU(),
    ...         pool=nn.AdaptiveAvgPool2d(1),
    ...         flatten=nn.Flatten(),
    ...         fc=nn.Linear(4, classes, seed=seed),
    ...     )
    >>> models.build("example_net", classes=3).fc.weight.shape
    (3, 4)
    """

    check_name("register_model", name)

    def decorate(builder: Callable[Arguments, Model]) -> Callable[Arguments, Model]:
        if not callable(builder) or isinstance(builder, type) or not hasattr(builder, "__name__"):
            raise ArgumentError(
                f"register_model: {in_words(name)} must be a function that returns a model, got "
                f"{in_words(builder)}"
            )
        make: Any = builder
        signature = inspect.signature(builder)
        for one in signature.parameters.values():
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY):
                raise ArgumentError(
                    f"register_model: {builder.__name__} takes {one}, which has no name to keep it"
                )

        @functools.wraps(builder)
        def built(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Model:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            # NumPy's numbers and small arrays as Python's: they are to fit into a file.
            arguments: dict[str, Any] = {
                argument: _checked(name, argument, value, signature.parameters[argument].default)
                for argument, value in plain(bound.arguments).items()
            }
            model: Model = make(**arguments)
            if not isinstance(model, Layer):
                raise ArgumentError(f"{name}: its function must return a layer, got {type(model).__name__}")
            # What a file can hold: a generator as None, a dtype by its name.
            if not isinstance(arguments.get("seed", 0), int):
                arguments["seed"] = None
            if "dtype" in arguments:
                arguments["dtype"] = dtype_name(arguments["dtype"])
            model.note_builder(name, arguments)
            return model

        built.model_name = name  # type: ignore[attr-defined]
        MODELS.add("register_model", name, built)
        return built

    return decorate


def register_variant(
    name: str, family: Callable[Concatenate[str, Arguments], Model]
) -> Callable[Arguments, Model]:
    """Return the builder of one of several networks, by a function that takes the network's name first."""
    variant: Any = functools.partial(family, name)
    variant.__module__, variant.__doc__ = family.__module__, family.__doc__
    variant.__name__ = variant.__qualname__ = name
    builder: Callable[Arguments, Model] = register_model(name)(variant)
    return builder


# What arguments of these names are, in every model.
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(
        ("classes", "in_channels", "filters", "filter_size", "hidden"), functools.partial(whole, least=1)
    ),
    **dict.fromkeys(("small_images", "batch_norm", "local_response_norm", "aux", "bias"), flag),
    "dropout": functools.partial(real, least=0, most=1),
}


def _checked(model: str, name: str, value: Any, default: Any) -> Any:
    """Return a builder's argument, of the type that its parameter has."""
    if name == "dtype":
        return floating(model, value)
    if name == "filters" and isinstance(default, tuple):
        return sizes(model, name, value)
    if name == "input_shape":
        shape = sizes(model, name, value)
        if len(shape) != 3:
            raise ArgumentError(f"{model}: input_shape must be (channels, height, width), got {value!r}")
        return shape
    return _CHECKS[name](f"{model}: {name}", value) if name in _CHECKS else value


def model_names() -> tuple[str, ...]:
    """Return the names `build` takes: the published models, those registered, and those of distributions."""
    return tuple(MODELS)


def parameters_of(name: str) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a model by name, their annotations as types; none for an unknown name."""
    if name not in MODELS:
        return {}
    try:
        return inspect.signature(MODELS[name], eval_str=True).parameters
    except NameError:  # annotations that only a type checker knows
        return inspect.signature(MODELS[name]).parameters


def build(name: str, **arguments: Any) -> Layer:
    """Return a new model by name.

    Raises
    ------
    ArgumentError
        For an unknown name, or an argument its builder does not take.

    Examples
    --------
    >>> build("tiny_convnet", filters=4).conv1.weight.shape
    (4, 1, 3, 3)
    """
    if not isinstance(name, str) or name not in MODELS:
        raise ArgumentError(
            f"unknown model {in_words(name)}; known: {', '.join(MODELS)}; import the file that registers "
            f"one of your own first: on the command line, by --import FILE.py"
        )
    builder = MODELS[name]
    try:
        inspect.signature(builder).bind(**arguments)
    except TypeError as error:
        raise ArgumentError(f"{name}: {error}; it takes {inspect.signature(builder)}") from None
    return builder(**arguments)
