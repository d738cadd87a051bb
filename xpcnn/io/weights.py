"""Arrays with metadata in one file: safetensors, or npz by the file's ending."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcnn.backend import to_numpy
from xpcnn.backend.numbers import plain
from xpcnn.errors import CheckpointError
from xpcnn.io.files import replacing
from xpcnn.io.narrow import NARROW, read_narrow
from xpcnn.nn.layer import Layer, Recipe
from xpcnn.nn.records import PREPARATIONS

__all__ = ["FORMAT_VERSION", "WeightFile", "load_arrays", "load_weights", "save_arrays", "save_weights"]

FORMAT_VERSION = 1
_ENDINGS = (".safetensors", ".npz")
_NUMPY_TYPES = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64", "C64"}
_METADATA = "__metadata__"  # the npz entry, and the entry of a safetensors header, that holds it all


class WeightFile(NamedTuple):
    """The arrays of a weight file, on the host, and the recipe of its model if it says one."""

    arrays: dict[str, np.ndarray]
    recipe: Recipe | None


def save_weights(path: str | PathLike[str], model: Layer) -> None:
    """Write a model's `state_dict` and recipe; see `Layer.save`."""
    arrays = {name: to_numpy(array) for name, array in model.state_dict().items()}
    described = model.fitting_recipe
    recipe = None if described is None else json.dumps(plain(described._asdict()))
    save_arrays(path, arrays, {} if recipe is None else {"recipe": recipe})


def load_weights(path: str | PathLike[str]) -> WeightFile:
    """Read a weight file: xpcnn's own, or any safetensors or npz file of named arrays.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged, of a newer format, or a checkpoint.
    """
    arrays, metadata = load_arrays(path)
    if metadata.get("kind", "").startswith("xpcnn "):
        raise CheckpointError(f"{path}: an {metadata['kind']}, not the weights of a model")
    if "recipe" not in metadata:
        return WeightFile(arrays, None)
    try:
        recipe = Recipe(**json.loads(metadata["recipe"]))
        recipe = recipe._replace(
            mean=_numbers(recipe.mean), std=_numbers(recipe.std), input_shape=_shape(recipe.input_shape)
        )
        typed = isinstance(recipe.name, str) and isinstance(recipe.arguments, dict)
        stds = recipe.std if isinstance(recipe.std, tuple) else (recipe.std,)
        known = recipe.preparation is None or recipe.preparation in PREPARATIONS
        if not typed or not known or not all(std > 0 for std in stds):
            raise ValueError(recipe)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: the model's description is unreadable: {error}") from error
    # JSON has no tuples
    return WeightFile(arrays, recipe._replace(arguments=plain(recipe.arguments)))


def _numbers(value: Any) -> float | tuple[float, ...]:
    """Return a finite number, or a tuple of them for a list."""
    for number in value if isinstance(value, list) else [value]:
        if not math.isfinite(number):
            raise ValueError(value)
    return tuple(value) if isinstance(value, list) else value


def _shape(value: Any) -> tuple[int, int, int] | None:
    """Return an image's (C, H, W), or None for None."""
    if value is None:
        return None
    channels, height, width = value
    if not all(type(size) is int and size > 0 for size in value):
        raise ValueError(value)
    return channels, height, width


def save_arrays(
    path: str | PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write named host arrays and text metadata to a ``.safetensors`` or ``.npz`` file.

    Raises
    ------
    CheckpointError
        For another ending, or when the file cannot be written; an existing file stays as it was.
    """
    ending = _ending(path)
    # Contiguous copies: safetensors' writer takes the raw memory of a strided array for its values.
    contiguous = {name: np.array(array, order="C") for name, array in arrays.items()}
    described = {"format_version": str(FORMAT_VERSION), **metadata}
    with replacing(path) as temporary:
        if ending == ".safetensors":
            from safetensors.numpy import save_file

            # One entry: safetensors writes several in random order, and the same weights make the same file.
            save_file(contiguous, temporary, {_METADATA: json.dumps(described)})
        else:
            with open(temporary, "wb") as file:
                entry = {_METADATA: np.array(json.dumps(described))}
                np.savez(file, allow_pickle=False, **contiguous, **entry)


def load_arrays(path: str | PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the named arrays and the metadata of a ``.safetensors`` or ``.npz`` file.

    bfloat16 and 8-bit floats (``F8_E4M3``, ``F8_E5M2``) are widened to float32, which is exact. The metadata
    are those that `save_arrays` wrote; what other tools noted in a file is passed over.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged, or of a newer format. Pickled objects are never loaded.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file")
    ending = _ending(path)
    arrays, metadata = _read_safetensors(path) if ending == ".safetensors" else _read_npz(path)
    version = metadata.get("format_version", "1")
    if not version.isdecimal() or int(version) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: has format version {version}, but this xpcnn reads up to {FORMAT_VERSION}; "
            f"upgrade xpcnn"
        )
    return arrays, metadata


def _read_safetensors(path: str | PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            for name, kind in kinds.items():
                if kind not in NARROW and kind not in _NUMPY_TYPES:
                    raise TypeError(f"{name} is {kind}, a type that is not supported; convert it to float32")
            narrow = read_narrow(path, {name: kind for name, kind in kinds.items() if kind in NARROW})
            arrays = {name: narrow[name] if name in narrow else file.get_tensor(name) for name in kinds}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
    # What other tools say stands beside this entry: their format_version and recipe are not ours.
    return arrays, _parsed(path, metadata[_METADATA]) if _METADATA in metadata else {}


def _read_npz(path: str | PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        # Opened here, as numpy.load leaves a file that is no archive open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and NumPy's header parser raise a dozen kinds
        raise CheckpointError(f"{path}: not a readable npz file: {error}") from error
    described = arrays.pop(_METADATA, None)
    return arrays, {} if described is None else _parsed(path, str(described))


def _parsed(path: str | PathLike[str], described: str) -> dict[str, str]:
    try:
        metadata = json.loads(described)
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata is unreadable: {error}") from error
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise CheckpointError(f"{path}: its metadata is unreadable: expected names with texts")
    return metadata


def _ending(path: str | PathLike[str]) -> str:
    ending = Path(path).suffix
    if ending not in _ENDINGS:
        raise CheckpointError(f"{path}: weight files end in {' or '.join(_ENDINGS)}, not {ending!r}")
    return ending
