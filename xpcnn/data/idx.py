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
        many bytes. The message names the file, what was expected and what was found.

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


def read_content(path: str | os.PathLike[str], name: str | None = None) -> bytes:
    """The whole content of a file, decompressed if it is gzipped; `name` stands for it in errors."""
    name = os.fspath(path) if name is None else name
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DatasetError(f"{name}: cannot be read: {error.strerror or error}") from error
    if not content.startswith(GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except EOFError as error:
        raise DatasetError(
            f"{name}: truncated: the gzip stream breaks off after {len(content)} bytes"
        ) from error
    except (OSError, zlib.error) as error:
        raise DatasetError(f"{name}: damaged gzip stream: {error}") from error


def parse_idx(content: bytes, name: str) -> NDArray[Any]:
    """The array in the decompressed `content` of an IDX file; `name` stands for the file in errors."""
    if len(content) < 4:
        raise DatasetError(
            f"{name}: truncated: an IDX file begins with 4 bytes of magic, found {len(content)}"
        )
    code, dimensions = content[2], content[3]
    if content[:2] != b"\x00\x00" or dimensions == 0:
        raise DatasetError(
            f"{name}: not an IDX file: the magic number should be 00 00 TT DD "
            f"(type, dimensions of at least 1), found {content[:4].hex(' ')}"
        )
    if code not in _DTYPES:
        known = ", ".join(f"{known:02x}" for known in _DTYPES)
        raise DatasetError(f"{name}: unknown IDX type code {code:02x}, expected one of {known}")
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise DatasetError(
            f"{name}: truncated: a header of {dimensions} sizes takes {start} bytes, found {len(content)}"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count=dimensions, offset=4))
    dtype = np.dtype(_DTYPES[code])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        problem = "truncated" if len(content) < expected else f"{len(content) - expected} trailing bytes"
        raise DatasetError(
            f"{name}: {problem}: shape {shape} of {dtype.newbyteorder('=')} takes {expected} bytes, "
            f"found {len(content)}"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def write_idx(path: str | os.PathLike[str], array: NDArray[Any]) -> None:
    """Write `array` as an IDX file, gzipped if the name ends in ``.gz``.

    Raises
    ------
    DtypeError
        A dtype that IDX has no code for.
    ShapeError
        No dimension, or more than 255.
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
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
