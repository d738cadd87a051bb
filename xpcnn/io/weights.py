"""Arrays with metadata in one file: safetensors, or npz by the file's ending."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from xpcnn.backend import Array, to_numpy
from xpcnn.errors import CheckpointError, NonFiniteWarning
from xpcnn.io.checks import checked
from xpcnn.io.digest import DAMAGED, check_digest, digest_of, holds_digest
from xpcnn.io.files import replacing
from xpcnn.io.json_files import parse_json
from xpcnn.io.narrow import NARROW, read_narrow
from xpcnn.io.npz import NUMBERS, read_npz
from xpcnn.io.recipe import Recipe, describe_recipe, parse_recipe

__all__ = ["FORMAT_VERSION", "WeightFile", "load_arrays", "load_weights", "save_arrays", "save_weights"]

FORMAT_VERSION = 1
_ENDINGS = (".safetensors", ".npz")
_NUMPY_TYPES = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64"}
_METADATA = "__metadata__"  # the npz entry, and the entry of a safetensors header, that holds it all
_OUR_MARKS = ('"digest"', '"format_version"')  # of these, damage to one bit spares one
_NAMED = 3  # entries that a warning names


class Model(Protocol):
    """What `save_weights` needs of a model."""

    @property
    def fitting_recipe(self) -> Recipe | None:
        """How it was built, where that is known."""

    def state_dict(self) -> dict[str, Array]:
        """Return the arrays by name."""


class WeightFile(NamedTuple):
    """The arrays of a weight file, on the host, and the recipe of its model if it says one."""

    arrays: dict[str, np.ndarray]
    recipe: Recipe | None


def save_weights(path: str | PathLike[str], model: Model) -> None:
    """Write a model's `state_dict` and recipe; see `Layer.save`."""
    arrays = {name: to_numpy(array) for name, array in model.state_dict().items()}
    recipe = model.fitting_recipe
    save_arrays(path, arrays, {} if recipe is None else {"recipe": describe_recipe(recipe)})


def load_weights(path: str | PathLike[str]) -> WeightFile:
    """Read a weight file: xpcnn's own, or any safetensors or npz file of named arrays.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged, of a newer format, or a checkpoint.

    Warns
    -----
    NonFiniteWarning
        When there are NaN or infinite numbers among the weights.
    """
    arrays, metadata = load_arrays(path)
    if metadata.get("kind", "").startswith("xpcnn "):
        raise CheckpointError(f"{path}: an {metadata['kind']}, not the weights of a model")
    recipe = None
    if "recipe" in metadata:
        recipe = parse_recipe(metadata["recipe"], f"{path}: the model's description is unreadable")
    ruined = sorted(name for name, array in arrays.items() if not np.isfinite(array).all())
    if ruined:
        more = f" and {len(ruined) - _NAMED} more" if len(ruined) > _NAMED else ""
        warnings.warn(
            f"{path}: NaN or infinite numbers in {', '.join(ruined[:_NAMED])}{more}; a model with these "
            f"weights answers nothing useful",
            NonFiniteWarning,
            stacklevel=2,
        )
    return WeightFile(arrays, recipe)


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
    for name, array in arrays.items():
        if np.asarray(array).dtype.kind not in NUMBERS:
            raise CheckpointError(f"cannot write {path}: {name} is of {array.dtype}, not of real numbers")
    # Contiguous copies: safetensors' writer takes the raw memory of a strided array for its values.
    contiguous = {name: np.array(array, order="C") for name, array in arrays.items()}
    described = {"format_version": str(FORMAT_VERSION), **metadata}
    text = json.dumps(digest_of(contiguous, described) | described)
    with replacing(path) as temporary:
        if ending == ".safetensors":
            _write_safetensors(temporary, contiguous, text)
        else:
            with open(temporary, "wb") as file:
                # The digest comes first: no damage to the directory of what follows can hide it.
                np.savez(file, allow_pickle=False, **{_METADATA: np.array(text)}, **contiguous)


def _write_safetensors(path: Path, arrays: dict[str, np.ndarray], text: str) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        # One entry: safetensors writes several in random order, and the same weights make the same file.
        save_file(arrays, path, {_METADATA: text})
    except SafetensorError as error:  # a full disk, too
        raise OSError(str(error).removeprefix("Error while serializing: ")) from error


def load_arrays(
    path: str | PathLike[str], *, ending: str | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the named arrays and the metadata of a ``.safetensors`` or ``.npz`` file.

    bfloat16 and 8-bit floats (``F8_E4M3``, ``F8_E5M2``) are widened to float32, which is exact. The metadata
    are those that `save_arrays` wrote; what other tools noted in a file is passed over. `ending` says what
    the file is, where its name does not.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged, or of a newer format; where its digest is not that of its content.
        Pickled objects are never loaded.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: no such file")
    ending = ending or _ending(path)
    arrays, metadata = _read_safetensors(path) if ending == ".safetensors" else _read_npz(path)
    try:
        metadata = check_digest(arrays, metadata)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    version = metadata.get("format_version", "1")
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{path}: has format version {version:.20}, but this xpcnn reads up to {FORMAT_VERSION}; "
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
    if _METADATA in metadata:
        return arrays, _parsed(path, metadata[_METADATA])
    if any(map(holds_digest, metadata.values())):
        raise CheckpointError(f"{path}: {DAMAGED}")
    return arrays, {}


def _read_npz(path: str | PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    arrays = read_npz(path, _METADATA)
    described = arrays.pop(_METADATA, None)
    return arrays, {} if described is None else _parsed(path, str(described))


def _parsed(path: str | PathLike[str], described: str) -> dict[str, str]:
    if not any(mark in described for mark in _OUR_MARKS):  # another program's
        return {}
    where = f"{path}: its metadata is unreadable"
    metadata: dict[str, str] = checked(dict[str, str], parse_json(described, where), where)
    return metadata


def _ending(path: str | PathLike[str]) -> str:
    ending = Path(path).suffix
    if ending not in _ENDINGS:
        raise CheckpointError(f"{path}: weight files end in {' or '.join(_ENDINGS)}, not {ending!r}")
    return ending
