"""The IDX format of MNIST and its kin: a magic number, the sizes, then the elements, all big-endian.

=========  ==================================================
bytes      meaning
=========  ==================================================
0, 1       zero
2          type code: 08 uint8, 09 int8, 0B int16, 0C int32,
           0D float32, 0E float64
3          D, the number of dimensions
4 … 4+4D   the sizes, uint32 each
the rest   the elements, last dimension fastest
=========  ==================================================
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xpcnn.errors import DatasetError, DtypeError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["parse_idx", "read_content", "read_idx", "write_idx"]

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"
_LONGEST_HEADER = 4 + 4 * 255
_ALWAYS, _RATIO = 1 << 28, 100
"""Without a known size, a file may decompress to 256 MiB, and to 100 times its size."""


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an IDX file, plain or gzipped.

    Gzip is recognised by the file's first bytes, not by its name.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    ndarray
        A new, writable array of the shape and type that the file states, in native byte order.

    Raises
    ------
    DatasetError
        A file that cannot be read, a damaged gzip stream, a wrong magic number or type code, too few or too
        many bytes, of which no more are decompressed than the header says. The message names the file, what
        was expected and what was found.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from pathlib import Path
    >>> from xpcnn.data import read_idx
    >>> from xpcnn.data.idx import write_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels-idx1-ubyte.gz"
    ...     write_idx(path, np.array([7, 2, 1], np.uint8))
    ...     read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    return parse_idx(read_content(path), os.fspath(path))


def read_content(path: str | os.PathLike[str], name: str | None = None, most: int | None = None) -> bytes:
    """The whole content of an IDX file, decompressed if it is gzipped; `name` stands for it in errors.

    No more than `most` bytes are read; without it, no more are decompressed than the header in the first of
    them says that there are. A stream that goes on is refused.
    """
    name = os.fspath(path) if name is None else name
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            gzipped = file.peek(2).startswith(GZIP_MAGIC)
            stream = gzip.GzipFile(fileobj=file) if gzipped else file
            start = stream.read(_LONGEST_HEADER)
            if most is None:
                most = _declared_size(start, size, name) if gzipped else size
            content = start + stream.read(max(0, most + 1 - len(start)))
    except EOFError as error:
        raise DatasetError(f"{name}: truncated: the gzip stream breaks off after {size} bytes") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(f"{name}: damaged gzip stream: {error}") from error
    except OSError as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{name}: cannot be read: {error.strerror or error}") from error
    if len(content) > most:
        raise DatasetError(f"{name}: wrong content: more than the {most:,} bytes it should decompress to")
    return content


def _declared_size(content: bytes, compressed: int, name: str) -> int:
    """How many bytes a gzipped file decompresses to by its header, as far as that is plausible."""
    declared = _header(content, name)[0]
    if declared > max(_ALWAYS, _RATIO * compressed):
        raise DatasetError(
            f"{name}: {compressed:,} bytes should decompress to {declared:,}, more than {_RATIO} times as "
            f"many; decompress it by hand if that is right"
        )
    return declared


def parse_idx(content: bytes, name: str) -> NDArray[Any]:
    """The array in the decompressed `content` of an IDX file; `name` stands for the file in errors."""
    expected, shape, dtype = _header(content, name)
    if len(content) != expected:
        problem = "truncated" if len(content) < expected else f"{len(content) - expected} trailing bytes"
        raise DatasetError(
            f"{name}: {problem}: shape {shape!s:.200} of {dtype.newbyteorder('=')} takes {expected} bytes, "
            f"found {len(content)}"
        )
    try:
        array = np.frombuffer(content, dtype, offset=4 + 4 * len(shape)).reshape(shape)
    except ValueError as error:  # too many axes for NumPy, or 0 elements in sizes whose product overflows
        raise DatasetError(f"{name}: an array of {len(shape)} axes, which cannot be made: {error}") from error
    return array.astype(dtype.newbyteorder("="))


def _header(content: bytes, name: str) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    """How many bytes an IDX file has by its header, the array's shape, and its type in the file."""
    code, dimensions = (content[2], content[3]) if len(content) >= 4 else (0x08, 1)
    if content[:2].strip(b"\0") or code not in _DTYPES or dimensions == 0:
        known = ", ".join(f"{known:02x}" for known in _DTYPES)
        raise DatasetError(
            f"{name}: not an IDX file: it should begin with 00 00 TT DD (type: one of {known}; dimensions: "
            f"at least 1), found {content[:4].hex(' ')}"
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise DatasetError(f"{name}: truncated: its header takes {start} bytes, found {len(content)}")
    shape = tuple(np.frombuffer(content, ">u4", count=dimensions, offset=4).tolist())
    dtype = np.dtype(_DTYPES[code])
    return start + math.prod(shape) * dtype.itemsize, shape, dtype


def write_idx(path: str | os.PathLike[str], array: NDArray[Any]) -> None:
    """Write `array` as an IDX file, gzipped if the name ends in ``.gz``.

    Raises
    ------
    DtypeError
        A dtype that IDX has no code for.
    ShapeError
        No dimension, or more than 255.
    DatasetError
        When the file cannot be written.
    """
    codes = {np.dtype(text).newbyteorder("="): code for code, text in _DTYPES.items()}
    dtype = array.dtype.newbyteorder("=")
    if dtype not in codes:
        raise DtypeError(f"write_idx: IDX cannot hold {array.dtype}, only {', '.join(map(str, codes))}")
    if not 1 <= array.ndim <= 255:
        raise ShapeError(f"write_idx: IDX holds 1 to 255 dimensions, got shape {array.shape}")
    header = bytes((0, 0, codes[dtype], array.ndim)) + np.array(array.shape, ">u4").tobytes()
    content = header + array.astype(_DTYPES[codes[dtype]]).tobytes()
    path = Path(path)
    try:
        path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be written: {error.strerror or error}") from error
