"""Arrays with metadata in one file: safetensors, or npz by the file's ending.

Numbers of 16 and 8 bits that NumPy does not know are read as float32, exactly:

=========  ====  ========  ========  ====  ==========================================
name       sign  exponent  fraction  bias  special values
=========  ====  ========  ========  ====  ==========================================
BF16       1     8         7         127   as float32, of which it is the upper half
F8_E5M2    1     5         2         15    as float16, of which it is the upper half
F8_E4M3    1     4         3         7     no infinity; NaN where all other bits are 1
=========  ====  ========  ========  ====  ==========================================

References
----------
Micikevicius et al., "FP8 formats for deep learning", 2022.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcnn.errors import CheckpointError, NonFiniteWarning
from xpcnn.io.digest import DAMAGED, check_digest, digest_of, holds_digest, is_ours
from xpcnn.io.files import replacing
from xpcnn.io.json_files import checked, parse_json
from xpcnn.io.npz import NUMBERS, Wanted, is_wanted, placeholder, read_npz

__all__ = ["FORMAT_VERSION", "WeightFile", "load_arrays", "load_weights", "save_arrays"]

FORMAT_VERSION = 1
_ENDINGS = (".safetensors", ".npz")
_METADATA = "__metadata__"  # the npz entry, and the entry of a safetensors header, that holds it all
_NAMED = 3  # entries that a warning names


def _e4m3(code: int) -> float:
    sign, exponent, fraction = 1 - 2 * (code >> 7), code >> 3 & 15, code & 7
    if exponent == 15 and fraction == 7:
        return sign * float("nan")
    return sign * (fraction * 2.0**-9 if exponent == 0 else (8 + fraction) * 2.0 ** (exponent - 10))


_NARROW: dict[str, tuple[str, Any]] = {
    "BF16": ("<u2", lambda codes: (codes.astype(np.uint32) << 16).view(np.float32)),
    "F8_E4M3": ("u1", np.array([_e4m3(code) for code in range(256)], np.float32).take),
    "F8_E5M2": ("u1", lambda codes: (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)),
}
_PLAIN = {"BOOL": "?", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "F16": "<f2", "F32": "<f4"}
_PLAIN |= {"I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "F64": "<f8"}
_DTYPES = _NARROW | {kind: (dtype, np.ravel) for kind, dtype in _PLAIN.items()}
"""By its name in a safetensors header, a dtype in the file, and what upcasts it."""


class WeightFile(NamedTuple):
    """The arrays of a weight file, on the host, and what it says beside them: texts by name."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def load_weights(path: str | PathLike[str], wanted: Wanted = None) -> WeightFile:
    """Read a weight file: xpcnn's own, or any safetensors or npz file of named arrays.

    Parameters
    ----------
    path : path-like
    wanted : mapping of str to shape, optional
        What is read of another tool's file; see `load_arrays`.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged, of a newer format, or a checkpoint.

    Warns
    -----
    NonFiniteWarning
        When there are NaN or infinite numbers among the weights.
    """
    arrays, metadata = load_arrays(path, wanted=wanted)
    if metadata.get("kind", "").startswith("xpcnn "):
        raise CheckpointError(f"{path}: an {metadata['kind']}, not the weights of a model")
    read = {name: array for name, array in arrays.items() if array.flags.writeable}  # no placeholder
    ruined = sorted(name for name, array in read.items() if not np.isfinite(array).all())
    if ruined:
        more = f" and {len(ruined) - _NAMED} more" if len(ruined) > _NAMED else ""
        warnings.warn(
            f"{path}: NaN or infinite numbers in {', '.join(ruined[:_NAMED])}{more}; a model with these "
            f"weights answers nothing useful",
            NonFiniteWarning,
            stacklevel=2,
        )
    return WeightFile(arrays, metadata)


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
    path: str | PathLike[str], *, ending: str | None = None, wanted: Wanted = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the named arrays and the metadata of a ``.safetensors`` or ``.npz`` file.

    bfloat16 and 8-bit floats (``F8_E4M3``, ``F8_E5M2``) are upcast to float32, which is exact. The metadata
    are those that `save_arrays` wrote; what other tools noted in a file is passed over.

    Parameters
    ----------
    path : path-like
    ending : str, optional
        What the file is, where its name does not say it.
    wanted : mapping of str to shape, optional
        The paths of a model with their shapes. Of a file without our metadata, only the entries that may be
        such are read: of that shape, and of that path, or of one before which there are more segments. Each
        other array has the shape of its entry, but takes no memory and holds zeros.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged, or of a newer format; where its digest is not that of its content.
        Pickled objects are never loaded.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: no such file")
    if (ending or _ending(path)) == ".npz":
        arrays, described = read_npz(path, _METADATA, wanted)
    else:
        arrays, described = _read_safetensors(path, wanted)
    metadata: dict[str, str] = {}
    if described is not None and is_ours(described):
        where = f"{path}: its metadata is unreadable"
        metadata = checked(dict[str, str], parse_json(described, where), where)
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


def _read_safetensors(path: str | PathLike[str], wanted: Wanted) -> tuple[dict[str, np.ndarray], str | None]:
    from safetensors import SafetensorError, safe_open

    arrays = {}
    try:
        with safe_open(path, framework="numpy"):  # checks the header
            pass
        with open(path, "rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(start - 8))
            metadata = entries.pop(_METADATA, None) or {}
            wanted = None if is_ours(metadata.get(_METADATA, "")) else wanted
            for name, entry in entries.items():
                kind, shape = entry["dtype"], tuple(entry["shape"])
                if kind not in _DTYPES:
                    raise TypeError(f"{name} is {kind}, a type that is not supported; convert it to float32")
                dtype, upcast = _DTYPES[kind]
                if is_wanted(wanted, name, shape):
                    file.seek(start + entry["data_offsets"][0])
                    arrays[name] = upcast(np.fromfile(file, dtype, math.prod(shape))).reshape(shape)
                else:
                    arrays[name] = placeholder(shape, np.float32 if kind in _NARROW else dtype)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
    # What other tools say stands beside this entry: their format_version and recipe are not ours.
    if _METADATA not in metadata and any(map(holds_digest, metadata.values())):
        raise CheckpointError(f"{path}: {DAMAGED}")
    return arrays, metadata.get(_METADATA)


def _ending(path: str | PathLike[str]) -> str:
    ending = Path(path).suffix
    if ending not in _ENDINGS:
        raise CheckpointError(f"{path}: weight files end in {' or '.join(_ENDINGS)}, not {ending!r}")
    return ending
