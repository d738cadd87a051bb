"""Which entries of a weight file are read; and NumPy's npz archives, looked at before they are unpacked."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Mapping
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from xpcnn.errors import CheckpointError
from xpcnn.io.digest import is_ours

__all__ = ["NUMBERS", "Wanted", "is_wanted", "placeholder", "read_npz"]

NUMBERS = "biuf"
"""The kinds of dtype that weight files hold: bool, signed, unsigned, floating."""

_TEXT = "US"
_ALWAYS = 1 << 28
_RATIO = 100
"""What is read may unpack to 256 MiB, and to 100 times the archive: weights are hardly compressible."""
_HEADER = 1 << 14
"""Bytes in which an entry's header must end; NumPy reads none of more than 10,000."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How numpy.savez and savez_compressed write; of other methods, a few bytes may unpack to a gigabyte."""


Wanted = Mapping[str, tuple[int, ...]] | None
"""A model's paths with their shapes; None for every entry."""


def is_wanted(wanted: Wanted, name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a model may take an entry: under its name or without prefixes, and of its shape.

    Examples
    --------
    >>> is_wanted({"fc.weight": (2, 3)}, "module.fc.weight", (2, 3))
    True
    >>> is_wanted({"fc.weight": (2, 3)}, "fc.weight", (4, 3))
    False
    """
    if wanted is None:
        return True
    segments = name.split(".")
    return any(wanted.get(".".join(segments[i:])) == shape for i in range(len(segments)))


def placeholder(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return zeros that take no memory, for an entry that is not read: they say its shape and dtype."""
    return np.broadcast_to(np.zeros((), dtype), shape)


class _Header(NamedTuple):
    """What an entry says of itself."""

    entry: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype


def read_npz(
    path: str | PathLike[str], text: str, wanted: Wanted = None
) -> tuple[dict[str, np.ndarray], str | None]:
    """Return the arrays of numbers in an archive by name, and the text that is named `text`, if there is one.

    Other texts are what another program notes, and passed over. The headers are read first and compared with
    the sizes that the archive declares; these are compared with its own before anything is unpacked.

    Parameters
    ----------
    path : path-like
    text : str
    wanted : mapping of str to shape, optional
        The entries to unpack, as `is_wanted` says; placeholders stand for the others. All, if not given,
        and of an archive of ours: its digest is that of all.

    Raises
    ------
    CheckpointError
        When the file is no such archive or damaged, would become too large, holds anything but arrays of
        numbers and text, or one name twice. Pickled objects are never loaded.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            if len(entries) < len(archive.infolist()):
                raise ValueError("it holds two entries of one name")
            headers = {
                name: _header(archive, name, entry, NUMBERS + _TEXT if name != text else "U")
                for name, entry in entries.items()
            }
            size, found = os.fstat(file.fileno()).st_size, None
            if text in headers:
                found = str(_unpack(archive, size, {text: headers.pop(text)})[text])
                wanted = None if is_ours(found) else wanted
            headers = {name: header for name, header in headers.items() if header.dtype.kind in NUMBERS}
            arrays = {name: placeholder(header.shape, header.dtype) for name, header in headers.items()}
            read = {name: header for name, header in headers.items() if is_wanted(wanted, name, header.shape)}
            return arrays | _unpack(archive, size, read), found
    except Exception as error:  # zipfile, zlib and NumPy's header parser raise a dozen kinds
        reason = str(error) or type(error).__name__
        raise CheckpointError(f"{path}: not a readable npz file: {reason:.300}") from error


def _unpack(archive: zipfile.ZipFile, size: int, headers: dict[str, _Header]) -> dict[str, np.ndarray]:
    """Return entries of an archive of so many bytes; a ValueError where they would become too large."""
    most = sum(header.entry.file_size for header in headers.values())
    if most > max(_ALWAYS, _RATIO * size):
        raise ValueError(
            f"{size:,} bytes would become {most:,}, more than {_RATIO} times as many; "
            f"numpy.savez writes it uncompressed"
        )
    arrays = {}
    for name, header in headers.items():
        with archive.open(header.entry) as stream:
            arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def _header(archive: zipfile.ZipFile, name: str, entry: zipfile.ZipInfo, kinds: str) -> _Header:
    """Return an entry's header; a ValueError unless it is one of `kinds`, as large as its header says."""
    if entry.compress_type not in _METHODS:
        raise ValueError(f"{name!r:.60}: compressed by another method than those of numpy.savez_compressed")
    with archive.open(entry) as packed:
        stream = io.BytesIO(packed.read(_HEADER))
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"{name!r:.60}: an array of format {version}, not one of numbers")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError(f"Object arrays cannot be loaded: {name!r:.60} is one")
    if dtype.kind not in kinds:
        raise ValueError(f"{name!r:.60}: an array of {dtype.name!r:.40}, not one of numbers")
    wanted, there = math.prod(shape) * dtype.itemsize, entry.file_size - stream.tell()
    if min(shape, default=0) < 0 or wanted != there:
        raise ValueError(f"{name!r:.60}: shape {shape!s:.60} takes {wanted} bytes, and {there} are there")
    return _Header(entry, shape, dtype)
