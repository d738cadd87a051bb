"""NumPy's npz archives, looked at before they are unpacked: what is in them, and how large it becomes."""

from __future__ import annotations

import math
import os
import zipfile
from os import PathLike
from typing import IO

import numpy as np

from xpcnn.errors import CheckpointError

__all__ = ["NUMBERS", "read_npz"]

NUMBERS = "biuf"
"""The kinds of dtype that weight files hold: bool, signed, unsigned, floating."""

_TEXT = "US"
_ALWAYS = 1 << 28
_RATIO = 100
"""An archive may unpack to 256 MiB, and to 100 times its size: weights are hardly compressible."""


def read_npz(path: str | PathLike[str], text: str) -> dict[str, np.ndarray]:
    """Return the arrays of an archive by name, those of numbers and the one of text that is named `text`.

    Other texts are what another program notes, and passed over. The sizes that the archive declares are
    compared with its own before anything is unpacked, and each header with its entry before that is read.

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
            size, most = os.fstat(file.fileno()).st_size, sum(entry.file_size for entry in entries.values())
            if most > max(_ALWAYS, _RATIO * size):
                raise ValueError(
                    f"{size:,} bytes would become {most:,}, more than {_RATIO} times as many; "
                    f"numpy.savez writes it uncompressed"
                )
            kinds = {}
            for name, entry in entries.items():
                with archive.open(entry) as stream:
                    kinds[name] = _kind(name, entry, stream, NUMBERS + _TEXT if name != text else "U")
            arrays = {}
            for name, entry in entries.items():
                if kinds[name] in NUMBERS or name == text:
                    with archive.open(entry) as stream:
                        arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
            return arrays
    except Exception as error:  # zipfile, zlib and NumPy's header parser raise a dozen kinds
        reason = str(error) or type(error).__name__
        raise CheckpointError(f"{path}: not a readable npz file: {reason:.300}") from error


def _kind(name: str, entry: zipfile.ZipInfo, stream: IO[bytes], kinds: str) -> str:
    """Return the kind of an entry; a ValueError unless it is one of `kinds`, as large as its header says."""
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
    return dtype.kind
