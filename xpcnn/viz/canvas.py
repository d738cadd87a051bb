"""What the pictures share: figures without a display, files written whole, images as they are shown.

No pyplot state is touched, and matplotlib is imported when the first figure is made.
"""

from __future__ import annotations

import math
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xpcnn.backend import is_array, to_numpy
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.io import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure
else:
    Figure = Any

PathOf = str | PathLike[str]
DPI = 120


def new_figure(width: float, height: float, gap: float = 0.02) -> Figure:
    """Return an empty figure of that many inches; `gap` is the space between its axes, as a fraction."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        error.add_note("pip install 'xpcnn[plot]' brings matplotlib")
        raise
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", wspace=gap, hspace=gap)
    return figure


def panels(
    count: int, columns: int, width: float, height: float, *, top: float = 0.0, gap: float = 0.02
) -> tuple[Figure, list[Any]]:
    """Return a figure and `count` axes in rows, each of so many inches, below `top` inches for a title."""
    rows = -(-count // columns)
    figure = new_figure(columns * width, top + rows * height, gap)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def write(figure: Figure, path: PathOf | None, function: str) -> Figure:
    """Write a figure to a file if one is named, and return the figure.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path or None
        Of a ``.png``, ``.svg`` or ``.pdf`` file; an existing one is replaced whole or not at all.
    function : str
        Whose picture it is, for messages.

    Raises
    ------
    ArgumentError
        When matplotlib does not know the file's ending.
    CheckpointError
        When the file cannot be written.
    """
    if path is not None:
        ending = Path(path).suffix.lstrip(".").lower()
        known = figure.canvas.get_supported_filetypes()
        if ending not in known:
            raise ArgumentError(f"{function}: {path} must end in one of .{', .'.join(sorted(known))}")
        with replacing(path) as temporary:
            figure.savefig(temporary, format=ending, dpi=DPI)
    return figure


def host_array(x: Any) -> np.ndarray:
    """Return an array of any library, or a sequence, on the host."""
    return to_numpy(x) if is_array(x) else np.asarray(x)


def host_images(x: Any, function: str) -> np.ndarray:
    """Return images (N, C, H, W) as matplotlib shows them: floats from 0 to 1, (N, H, W) or (N, H, W, 3).

    Bytes are divided by 255; floating images are stretched, each from its smallest to its largest value.
    Images of three channels are in colour; of two, or more than three, the mean of the channels is shown.

    Raises
    ------
    ShapeError
        When `x` has another number of axes.
    """
    images = host_array(x)
    if images.ndim != 4 or 0 in images.shape:
        raise ShapeError(f"{function}: images must have shape (N, C, H, W), got {images.shape}")
    shown = images.astype(np.float64)
    low, high = 0.0, 255.0
    if images.dtype != np.uint8:
        low, high = (limit(shown, axis=(1, 2, 3), keepdims=True) for limit in (np.min, np.max))
    shown = (shown - low) / np.where(high > low, high - low, 1)
    return np.moveaxis(shown, 1, -1) if shown.shape[1] == 3 else shown.mean(axis=1)


def near_square(count: int, aspect: float = 1.0) -> int:
    """Return how many columns make a grid of `count` cells about `aspect` times as wide as it is high."""
    return max(1, min(count, math.ceil(math.sqrt(count * aspect))))


def mosaic(tiles: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Return tiles (N, h, w) or (N, h, w, 3) as one picture, row by row, with NaN between them.

    Parameters
    ----------
    tiles : ndarray, floating
    columns : int, optional
        About as many columns as rows if not given.

    Examples
    --------
    >>> mosaic(np.ones((3, 1, 1)))
    array([[ 1., nan,  1.],
           [nan, nan, nan],
           [ 1., nan, nan]])
    """
    count, height, width, *color = tiles.shape
    places = corners(count, height, width, columns or near_square(count))
    bottom, right = np.max(places, axis=0)
    picture = np.full((bottom + height, right + width, *color), np.nan)
    for tile, (top, left) in zip(tiles, places, strict=True):
        picture[top : top + height, left : left + width] = tile
    return picture


def corners(count: int, height: int, width: int, columns: int) -> list[tuple[int, int]]:
    """Return the (row, column) in a `mosaic` of each tile's first pixel."""
    gap = 1 + max(height, width) // 20
    return [(i // columns * (height + gap), i % columns * (width + gap)) for i in range(count)]


def show(axes: Any, picture: np.ndarray, low: float = 0.0, high: float = 1.0) -> None:
    """Draw a picture without axes, pixel by pixel: `low` is black, `high` white, NaN left blank."""
    if picture.ndim == 3:
        blank = np.isnan(picture[..., :1])
        picture = np.concatenate([np.where(blank, 1, picture), np.where(blank, 0.0, 1.0)], axis=-1)
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set(xticks=[], yticks=[], frame_on=False)
