"""Files of a `params` dictionary: npz or safetensors when written; old pickles too when read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from xpcnn import io
from xpcnn.backend import Array, backend_of, is_array, to_numpy
from xpcnn.errors import CheckpointError, StateDictError
from xpcnn.io.pickles import read_pickle

__all__ = ["fitting", "read_params", "write_params"]

_PICKLE_ENDING = ".pkl"
_ARCHIVE_MAGIC = b"PK"  # of zip files, which npz files are


def write_params(path: str | PathLike[str], params: Mapping[str, Array]) -> None:
    """Write arrays as safetensors if `path` ends so, else as npz; see `Network.save_params`."""
    arrays = {key: to_numpy(value) for key, value in params.items()}
    if Path(path).suffix != _PICKLE_ENDING:
        io.save_arrays(path, arrays, {})
        return
    # Under the script's own name: where it looks for its params.pkl again, the file is there.
    with io.replacing(path) as temporary:
        archive = temporary.with_suffix(".npz")
        io.save_arrays(archive, arrays, {})
        os.replace(archive, temporary)


def read_params(path: str | PathLike[str], params: Mapping[str, Array]) -> dict[str, Any]:
    """Return the dictionary in a file of `write_params`, or in a pickle; what it is, its content says.

    Of another tool's archive, only entries that fit `params` are read.

    Raises
    ------
    CheckpointError
        When the file is missing or damaged, or is a pickle of anything but arrays, numbers and text.
    """
    wanted = {key: tuple(value.shape) for key, value in params.items()}
    if Path(path).suffix == ".safetensors":
        return dict(io.load_arrays(path, wanted=wanted)[0])
    try:
        with open(path, "rb") as file:
            if file.read(len(_ARCHIVE_MAGIC)) == _ARCHIVE_MAGIC:
                return dict(io.load_arrays(path, ending=".npz", wanted=wanted)[0])
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    found = read_pickle(path)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: a pickle of a {type(found).__name__}, not of a dict of parameters")
    return found


def fitting(
    path: str | PathLike[str], found: Mapping[str, Any], params: Mapping[str, Array]
) -> dict[str, Array]:
    """Return `found` as arrays that can take the places of `params`: on their backends, in their own dtypes.

    Raises
    ------
    StateDictError
        Naming every entry that is missing, not expected, no array of real numbers, or of another shape.
    """
    problems = [f"missing: {key}" for key in params if key not in found]
    for key, array in found.items():
        if key not in params:
            problems.append(f"unexpected: {key!r}")
        elif not is_array(array):
            problems.append(f"{key}: a {type(array).__name__}, not an array of real numbers")
        elif array.dtype.kind not in "fiu":
            problems.append(f"{key}: an array of {array.dtype}, not one of real numbers")
        elif tuple(array.shape) != tuple(params[key].shape):
            problems.append(f"{key}: shape {tuple(array.shape)}, expected {tuple(params[key].shape)}")
    if problems:
        raise StateDictError(f"{path} does not fit this network:\n  " + "\n  ".join(problems))
    return {key: backend_of(params[key]).copy(backend_of(params[key]).asarray(found[key])) for key in params}
