"""How a model is built, and which pictures it takes: what its weight file says beside the weights.

A model that a function of `xpcnn.models` built is described by that function's name and arguments, for as
long as it is what they build; any other model by its structure, which `Layer.config` returns.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from xpcnn.arguments import plain
from xpcnn.backend import use_backend
from xpcnn.errors import ArgumentError, CheckpointError
from xpcnn.io import Range, checked, parse_json
from xpcnn.nn.config import INITIAL, from_config
from xpcnn.nn.init import without_memory
from xpcnn.nn.tree import join_paths, walk

if TYPE_CHECKING:
    from xpcnn.nn.layer import Layer

__all__ = ["PREPARATIONS", "ModelSpec"]

PREPARATIONS = ("mnist-digit", "crop", "pad", "squash")
"""How pictures can become a model's images; `xpcnn.data.prepare` has the same names, and does it."""

MOST_PIXELS = 1 << 26
"""Of an image that a file says a model takes: pictures are enlarged to it."""

_Size = Annotated[int, Range(1, 2**31 - 1)]


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
    if noted.builder is not None and model._structure == structure_of(model):
        with suppress(ArgumentError):
            if _read_back(noted).arguments == plain(noted.arguments):  # as they are after a file, too
                return noted
    noted = noted._replace(builder=None, arguments={})
    try:
        described = noted._replace(structure=model.config())
        _require_rebuilt(model, _read_back(described))
    except ArgumentError as error:
        return noted._replace(missing=str(error))
    return described


def _read_back(spec: ModelSpec) -> ModelSpec:
    """Return what a file makes of a description; an ArgumentError where no file can hold it."""
    try:
        return parse_spec(describe_spec(spec), "its description")
    except (CheckpointError, TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"no file can hold its description: {error}") from error


def _require_rebuilt(model: Layer, spec: ModelSpec) -> None:
    """Require that a model comes out of its structure as it is."""
    total = sum(math.prod(state.shape) for state in model._states().values())
    with use_backend("numpy"), without_memory(own=2 * total):
        again: Layer = from_config(spec.structure)
    if [path for path, _ in walk(model)] != [path for path, _ in walk(again)]:
        raise ArgumentError("its layers are others than their arguments build, or in another order")
    ours, theirs = dict(structure_of(model)), dict(structure_of(again))
    for what in [*ours, *theirs]:
        is_option, both = ": " in what, what in ours and what in theirs
        if ours.get(what) != theirs.get(what) and (both or not is_option):
            raise ArgumentError(
                f"{what} is {ours.get(what, 'not there'):.60}, but its layer's arguments build "
                f"{theirs.get(what, 'nothing'):.60}" + ("; define config_arguments" if is_option else "")
            )


# -- whether it was changed ---------------------------------------------------------------

# How a result is computed is no part of what it is. The dtype is that of the weights.
_PASSED_OVER = INITIAL | {"spec", "algorithm", "_structure", "_layers", "dtype"}


def structure_of(model: Layer) -> list[tuple[str, str]]:
    """Return kinds, options and shapes of all layers of a model, with paths; values and dtypes do not count.

    Examples
    --------
    >>> from xpcnn import nn
    >>> structure_of(nn.Sequential(act=nn.LeakyReLU(0.1)))
    [('the model', 'Sequential'), ('act', 'LeakyReLU'), ('act: LeakyReLU.slope', '0.1')]
    """
    found = []
    for path, layer in walk(model):
        where, kind = path or "the model", type(layer)
        found.append((where, kind.__qualname__))
        for name, value in vars(layer).items():
            # Of somebody's own layer, options are attributes with public names.
            if name not in _PASSED_OVER and (kind.__module__.startswith("xpcnn.") or name[0] != "_"):
                found.append((f"{where}: {kind.__name__}.{name}", _in_words(value)))
        for name, state in layer.own_states().items():
            found.append((join_paths(path, name), str(state.shape)))
    return found


def _in_words(value: Any) -> str:
    """Return an option as JSON has it; of what JSON cannot hold, the kind."""

    def kind(other: Any) -> Any:
        number = plain(other) if getattr(other, "shape", None) == () else None  # one of NumPy's
        return number if isinstance(number, bool | int | float) else type(other).__qualname__

    return json.dumps(value, default=kind, skipkeys=True)


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


class _Recipe(NamedTuple):
    """What earlier versions kept of a published model."""

    name: str
    arguments: dict[str, Any]
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    input_shape: tuple[_Size, _Size, _Size] | None = None
    preparation: str | None = None


def parse_recipe(text: str, where: str) -> tuple[ModelSpec, Any, Any]:
    """Return what a weight file of an earlier version says: the spec, mean and std of its `Preprocess`."""
    name, arguments, mean, std, *images = checked(_Recipe, parse_json(text, where), where)
    for removed, nothing in (("deskew", False), ("digit_size", None)):  # of every deep_convnet
        if name == "deep_convnet" and arguments.get(removed, ...) is nothing:
            del arguments[removed]
    fields = ModelSpec(name, arguments, None, None, *images)._asdict()
    return checked_spec(fields, where), mean, std
