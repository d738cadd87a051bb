"""How a model is built, and which pictures it takes: what its weight file says beside the weights.

A model that a function of `xpcnn.models` built is described by that function's name and arguments, for as
long as it is what they build; any other model by its structure, which `Layer.config` returns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from xpcnn.backend import use_backend
from xpcnn.backend.numbers import plain
from xpcnn.errors import ArgumentError, CheckpointError
from xpcnn.io import Range, checked, parse_json
from xpcnn.nn.config import INITIAL
from xpcnn.nn.init import LACKING, at_most
from xpcnn.nn.rebuild import from_config
from xpcnn.nn.tree import walk

if TYPE_CHECKING:
    from xpcnn.nn.layer import Layer

__all__ = [
    "PREPARATIONS",
    "ModelSpec",
    "checked_recipe",
    "checked_spec",
    "describe_spec",
    "parse_recipe",
    "parse_spec",
    "spec_fields",
    "spec_of",
    "structure_of",
]

PREPARATIONS = ("mnist-digit", "crop", "pad", "squash")
"""How pictures can become a model's images; `xpcnn.data.prepare` has the same names, and does it."""

MOST_PIXELS = 1 << 26
"""Of an image that a file says a model takes: pictures are enlarged to it."""

_Size = Annotated[int, Range(1, 2**31 - 1)]
_Floating = Literal["float16", "bfloat16", "float32", "float64"]


class ModelSpec(NamedTuple):
    """How a model is built, and which pictures it was trained on.

    `builder` is a name that `xpcnn.models.build` takes, with `arguments`. Where there is none, a file has the
    model's `Layer.config` as `structure`; where there is neither, `missing` says why. `input_shape` is
    (C, H, W) of the images that it was trained on, once it was, and `preparation` is how pictures become such
    images, one of `PREPARATIONS`.
    """

    builder: str | None = None
    arguments: dict[str, Any] = {}  # noqa: RUF012  (nobody changes it)
    structure: dict[str, Any] | None = None
    missing: str | None = None
    input_shape: tuple[_Size, _Size, _Size] | None = None
    preparation: str | None = None


# -- of a model -------------------------------------------------------------------------


def spec_of(model: Layer) -> ModelSpec:
    """Return what a file says of a model as it now is.

    Examples
    --------
    >>> from xpcnn import models, nn
    >>> model = models.tiny_convnet()
    >>> spec_of(model).builder
    'tiny_convnet'
    >>> model.fc = nn.Linear(1352, 3)
    >>> spec_of(model).structure["children"]["fc"]["arguments"]["out_features"]
    3
    """
    noted = model.spec or ModelSpec()
    if noted.builder is not None and model._structure == structure_of(model) and _is_kept(noted):
        return noted
    noted = noted._replace(builder=None, arguments={})
    try:
        described = noted._replace(structure=model.config())
        _require_rebuilt(model, _read_back(described))
    except ArgumentError as error:
        return noted._replace(missing=str(error))
    return described


def _is_kept(spec: ModelSpec) -> bool:
    """Return whether a builder's arguments come out of a file as they are."""
    try:
        return bool(_read_back(spec).arguments == plain(spec.arguments))
    except ArgumentError:
        return False


def _read_back(spec: ModelSpec) -> ModelSpec:
    """Return what a file makes of a description; an ArgumentError where no file can hold it."""
    try:
        return parse_spec(describe_spec(spec), "its description")
    except (CheckpointError, TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"no file can hold its description: {error}") from error


def _require_rebuilt(model: Layer, spec: ModelSpec) -> None:
    """Require that a model comes out of its structure as it is.

    Options are compared of somebody's own layers alone: of this package's, the tests know them.
    """
    states = model._states()
    total = sum(math.prod(state.shape) for state in states.values())
    with use_backend("numpy"), at_most(total + LACKING):
        again: Layer = from_config(spec.structure)
    theirs = {path: state.shape for path, state in again._states().items()}
    ours = {path: state.shape for path, state in states.items()}
    for path in [*ours, *theirs]:
        if ours.get(path) != theirs.get(path):
            raise ArgumentError(
                f"{path} is {ours.get(path, 'not there')}, but its layer's arguments build "
                f"{theirs.get(path, 'nothing')}"
            )
    layers, rebuilt = list(walk(model)), list(walk(again))
    if [path for path, _ in layers] != [path for path, _ in rebuilt]:
        raise ArgumentError(f"it has {len(layers)} layers, but their arguments build {len(rebuilt)} others")
    for (path, layer), (_, other) in zip(layers, rebuilt, strict=True):
        if _is_ours(layer):
            continue
        own, built = dict(_options(layer)), dict(_options(other))
        for name in own.keys() & built.keys():
            if own[name] != built[name]:
                raise ArgumentError(
                    f"{path or 'the model'}: {type(layer).__name__}.{name} is {own[name]:.60}, but the "
                    f"layer's arguments build {built[name]:.60}; define config_arguments"
                )


# -- whether it was changed ---------------------------------------------------------------

_PLAIN = (str, int, float, bool, type(None))
# How a result is computed is no part of what it is. The dtype is that of the weights.
_PASSED_OVER = INITIAL | {"spec", "algorithm", "_structure", "_layers", "dtype"}


def structure_of(model: Layer) -> tuple[str, ...]:
    """Return kinds, options and shapes of all layers of a model, by path; values and dtypes do not count.

    Examples
    --------
    >>> from xpcnn import nn
    >>> structure_of(nn.Sequential(fc=nn.Linear(2, 3), act=nn.LeakyReLU(0.1)))[2:]
    ('fc.weight (3, 2)', 'fc.bias (3,)', 'act LeakyReLU slope=0.1')
    """
    return tuple(line for path, one in walk(model) for line in _lines(one, path))


def _lines(layer: Layer, path: str) -> Iterator[str]:
    options = [f"{name}={value}" for name, value in _options(layer)]
    yield " ".join([path or "it", type(layer).__qualname__, *options])
    for name, state in layer.own_states().items():
        yield f"{path}.{name} {state.shape}"


def _options(layer: Layer) -> Iterator[tuple[str, str]]:
    """Yield the attributes of a layer in words; of somebody's own layer, those with public names."""
    ours = _is_ours(layer)
    for name, value in vars(layer).items():
        if name not in _PASSED_OVER and (ours or not name.startswith("_")):
            yield name, _in_words(value)


def _is_ours(layer: Layer) -> bool:
    return type(layer).__module__.startswith("xpcnn.")


def _in_words(value: Any) -> str:
    """Return an option in words: a plain value as it is, of anything else its kind."""
    if getattr(value, "shape", None) == ():
        value = plain(value)  # a number of NumPy's
    if isinstance(value, _PLAIN):
        return repr(plain(value))
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_in_words, value))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_in_words(inner)}' for name, inner in value.items())}}}"
    return type(value).__qualname__


# -- in a file ----------------------------------------------------------------------------


def describe_spec(spec: ModelSpec) -> str:
    """Return the text that `parse_spec` reads: what is not as in a new `ModelSpec`."""
    return json.dumps(spec_fields(spec), allow_nan=False)


def spec_fields(spec: ModelSpec) -> dict[str, Any]:
    """Return the fields that are not as in a new `ModelSpec`, as `checked_spec` takes them."""
    fields: dict[str, Any] = plain(
        {name: one for name, one in spec._asdict().items() if one not in (None, {})}
    )
    return fields


def parse_spec(text: str, where: str) -> ModelSpec:
    """Return what a weight file says of its model; `where` stands for the file in messages.

    Raises
    ------
    CheckpointError
        When the text is no such description; the message names the field.

    Examples
    --------
    >>> text = describe_spec(ModelSpec("tiny_convnet", {"filters": 4, "input_shape": (1, 28, 28)}))
    >>> parse_spec(text, "tiny.safetensors").arguments
    {'filters': 4, 'input_shape': (1, 28, 28)}
    """
    return checked_spec(parse_json(text, where), where)


def checked_spec(fields: Any, where: str) -> ModelSpec:
    """Return a description from its fields as JSON has them; see `parse_spec`."""
    spec: ModelSpec = checked(ModelSpec, fields, where)
    arguments: dict[str, Any] = plain(spec.arguments)  # JSON has no tuples
    if "seed" in arguments:
        checked(Annotated[int, Range(0)] | None, arguments["seed"], where, "arguments.seed")
    if "dtype" in arguments:
        checked(_Floating, arguments["dtype"], where, "arguments.dtype")
    checked(Literal[*PREPARATIONS] | None, spec.preparation, where, "preparation")
    if math.prod(spec.input_shape or ()) > MOST_PIXELS:
        shape = "x".join(map(str, spec.input_shape or ()))
        raise CheckpointError(
            f"{where}: input_shape: images of {shape} are too large; {MOST_PIXELS:,} is the most"
        )
    if spec.builder is not None and spec.structure is not None:
        raise CheckpointError(f"{where}: names a builder, and has a structure too")
    return spec._replace(arguments=arguments)


# -- in files of earlier versions ---------------------------------------------------------

# With more, images become infinite, or all the same.
_Mean = Annotated[float, Range(-1_000_000, 1_000_000)]
_Std = Annotated[float, Range(1e-6, 1_000_000)]


class _Recipe(NamedTuple):
    """What earlier versions kept of a published model."""

    name: str
    arguments: dict[str, Any]
    mean: _Mean | tuple[_Mean, ...]
    std: _Std | tuple[_Std, ...]
    input_shape: tuple[_Size, _Size, _Size] | None = None
    preparation: str | None = None


class Older(NamedTuple):
    """What a file of an earlier version says: `mean` and `std` are those of its model's `Preprocess`."""

    spec: ModelSpec
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]


def parse_recipe(text: str, where: str) -> Older:
    """Return what a weight file of an earlier version says of its model, as `checked_recipe` does."""
    return checked_recipe(parse_json(text, where), where)


def checked_recipe(fields: Any, where: str) -> Older:
    """Return the description of a model as earlier versions wrote it.

    Raises
    ------
    CheckpointError
        When a field is missing, unknown or not what it must be.
    """
    recipe: _Recipe = checked(_Recipe, fields, where)
    spec = checked_spec(
        {
            "builder": recipe.name,
            "arguments": recipe.arguments,
            "input_shape": recipe.input_shape,
            "preparation": recipe.preparation,
        },
        where,
    )
    channels = _channels(spec)
    for name, values in (("mean", recipe.mean), ("std", recipe.std)):
        if isinstance(values, tuple) and (not values or channels not in (None, len(values))):
            wanted = "at least 1" if channels is None else f"{channels}, one for each channel"
            raise CheckpointError(f"{where}: {name}: has {len(values)} numbers, expected {wanted}")
    return Older(spec, recipe.mean, recipe.std)


def _channels(spec: ModelSpec) -> int | None:
    """Return how many channels the model's images have; None where the description does not say."""
    if spec.input_shape is not None:
        return spec.input_shape[0]
    shape = spec.arguments.get("input_shape")
    channels = shape[0] if isinstance(shape, tuple) and shape else spec.arguments.get("in_channels")
    return channels if isinstance(channels, int) else None
