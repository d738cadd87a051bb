"""How a published model was built, as its weight file says it."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal, NamedTuple

from xpcnn.backend.numbers import plain
from xpcnn.errors import CheckpointError
from xpcnn.io.checks import Range, checked
from xpcnn.io.json_files import parse_json

__all__ = [
    "PREPARATIONS",
    "Preprocessing",
    "Recipe",
    "checked_recipe",
    "describe_recipe",
    "parse_preprocessing",
    "parse_recipe",
]

_Size = Annotated[int, Range(1, 2**31 - 1)]
# With more, images become infinite, or all the same.
_Mean = Annotated[float, Range(-1_000_000, 1_000_000)]
_Std = Annotated[float, Range(1e-6, 1_000_000)]
_Floating = Literal["float16", "bfloat16", "float32", "float64"]


PREPARATIONS = ("mnist-digit", "crop", "pad", "squash")
"""How pictures can become a model's images; `xpcnn.data.prepare` has the same names, and does it."""


MOST_PIXELS = 1 << 26
"""Of an image that a file says a model takes: pictures are enlarged to it."""


class Recipe(NamedTuple):
    """How a published model was built, and which pictures it was trained on: saved with its weights.

    `input_shape` is (C, H, W) of the images that it was trained on, once it was.
    `preparation` is how pictures become such images, one of `PREPARATIONS`.
    """

    name: str
    arguments: dict[str, Any]
    input_shape: tuple[_Size, _Size, _Size] | None = None
    preparation: str | None = None


class Preprocessing(NamedTuple):
    """How bytes become a model's images, ``(x/255 − mean) / std``: numbers, or one for each channel."""

    mean: _Mean | tuple[_Mean, ...]
    std: _Std | tuple[_Std, ...]


def describe_recipe(recipe: Recipe) -> str:
    """Return the text that `parse_recipe` reads.

    Raises
    ------
    CheckpointError
        When a builder's argument is nothing that JSON can hold.
    """
    try:
        return json.dumps(plain(recipe._asdict()), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{recipe.name}: its arguments cannot be written to a file: {error}") from error


def parse_recipe(text: str, where: str) -> tuple[Recipe, Preprocessing | None]:
    """Return the recipe that a weight file holds, as `checked_recipe` does; `where` stands for the file.

    Raises
    ------
    CheckpointError
        When the text is no recipe; the message names the field.

    Examples
    --------
    >>> text = describe_recipe(Recipe("tiny_convnet", {"filters": 4, "input_shape": (1, 28, 28)}))
    >>> parse_recipe(text, "tiny.safetensors")[0].arguments
    {'filters': 4, 'input_shape': (1, 28, 28)}
    """
    return checked_recipe(parse_json(text, where), where)


def parse_preprocessing(text: str, where: str) -> dict[str, Preprocessing]:
    """Return the preprocessing that a weight file holds, by the paths of the layers that do it.

    Raises
    ------
    CheckpointError
        When the text is no such thing; the message names the field.
    """
    found: dict[str, Preprocessing] = checked(dict[str, Preprocessing], parse_json(text, where), where)
    return found


def checked_recipe(fields: Any, where: str) -> tuple[Recipe, Preprocessing | None]:
    """Return a recipe from its fields as JSON has them; `where` stands for their place in messages.

    Older ones have the model's mean and std among their fields, which are returned beside it.

    Raises
    ------
    CheckpointError
        When a field is missing, unknown or not what it must be.
    """
    older: dict[str, Any] = {}
    if isinstance(fields, dict):
        older = {name: fields[name] for name in Preprocessing._fields if name in fields}
        fields = {name: value for name, value in fields.items() if name not in older}
    recipe: Recipe = checked(Recipe, fields, where)
    arguments: dict[str, Any] = plain(recipe.arguments)  # JSON has no tuples
    if "seed" in arguments:
        checked(Annotated[int, Range(0)] | None, arguments["seed"], where, "arguments.seed")
    if "dtype" in arguments:
        checked(_Floating, arguments["dtype"], where, "arguments.dtype")
    checked(Literal[*PREPARATIONS] | None, recipe.preparation, where, "preparation")
    if math.prod(recipe.input_shape or ()) > MOST_PIXELS:
        shape = "x".join(map(str, recipe.input_shape or ()))
        raise CheckpointError(
            f"{where}: input_shape: images of {shape} are too large; {MOST_PIXELS:,} is the most"
        )
    recipe = recipe._replace(arguments=arguments)
    if not older:
        return recipe, None
    preprocessing: Preprocessing = checked(Preprocessing, older, where)
    channels = _channels(recipe, arguments)
    for name, values in preprocessing._asdict().items():
        if isinstance(values, tuple) and (not values or channels not in (None, len(values))):
            wanted = "at least 1" if channels is None else f"{channels}, one for each channel"
            raise CheckpointError(f"{where}: {name}: has {len(values)} numbers, expected {wanted}")
    return recipe, preprocessing


def _channels(recipe: Recipe, arguments: dict[str, Any]) -> int | None:
    """Return how many channels the model's images have; None where the recipe does not say."""
    if recipe.input_shape is not None:
        return recipe.input_shape[0]
    shape = arguments.get("input_shape")
    channels = shape[0] if isinstance(shape, tuple) and shape else arguments.get("in_channels")
    return channels if isinstance(channels, int) else None
