"""Picture files: found in folders, opened, upright, and prepared for a model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from xpcnn.data.mnist_digit import SIZE
from xpcnn.data.prepare import Prepared, check_preparation, prepare_picture
from xpcnn.errors import DatasetError, XpcnnError

if TYPE_CHECKING:
    from PIL.Image import Image

_NOT_DRAWN = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")  # which Pillow leaves to other programs
_TOO_LARGE = "too large for the memory there is"


def prepare(path: Path, shape: tuple[int, int, int], preparation: str | None = None) -> Prepared:
    """Read a picture of any size, kind and mode that Pillow reads, for a model of images `shape` (C, H, W).

    Parameters
    ----------
    path : Path
    shape : tuple of int
    preparation : str, optional
        One of `xpcnn.data.prepare.PREPARATIONS`, where each is explained. None, for models that do not say
        how their images were prepared: ``"mnist-digit"`` for (1, 28, 28), else ``"crop"``.

    Raises
    ------
    DatasetError
        When the file cannot be read as a picture or is too large, or nothing can be seen on it.
    XpcnnError
        When Pillow is not installed, the model takes neither 1 nor 3 channels, or the preparation is unknown
        or not for its images.
    """
    preparation = resolved(preparation, shape)
    check_preparation(preparation, shape)
    picture = open_picture(path)
    try:
        return prepare_picture(picture, shape, preparation)
    except (DatasetError, MemoryError) as error:
        reason = error if isinstance(error, DatasetError) else _TOO_LARGE
        raise DatasetError(f"{path}: {reason}") from error


def resolved(preparation: str | None, shape: tuple[int, int, int]) -> str:
    """Return a model's preparation; where its file does not say, as older ones do not, the likely one."""
    return preparation or ("mnist-digit" if shape == (1, SIZE, SIZE) else "crop")


def open_picture(path: Path) -> Image:
    """Return the first picture in a file, upright.

    Raises
    ------
    DatasetError
        When the file cannot be read as a picture, or has more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels.
    XpcnnError
        When Pillow is not installed.
    """
    formats = sorted(_formats().values())
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(action="ignore"):  # of sloppy metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as image:
                ImageOps.exif_transpose(image, in_place=True)
                return image
    except MemoryError as error:
        raise DatasetError(f"{path}: {_TOO_LARGE}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}: too large: {error}") from error
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        raise DatasetError(f"{path}: {getattr(error, 'strerror', None) or 'no readable image'}") from error


def is_picture(path: Path) -> bool:
    """Return whether a file's name ends as those that Pillow reads do."""
    return path.suffix.lower() in _formats()


def _formats() -> dict[str, str]:
    """Return the endings of the files that Pillow reads, and what it calls their formats."""
    try:
        from PIL import Image
    except ImportError:
        raise XpcnnError("reading pictures needs Pillow: pip install 'xpcnn[plot]'") from None
    known = Image.registered_extensions()
    return {end: name for end, name in known.items() if name in Image.OPEN and name not in _NOT_DRAWN}
