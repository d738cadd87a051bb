"""What a convolution looks for: its filters, before and after training."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from xpcnn.backend import to_numpy
from xpcnn.errors import ArgumentError
from xpcnn.nn import Layer
from xpcnn.viz.activations import leaf_layers
from xpcnn.viz.canvas import Figure, PathOf, corners, mosaic, near_square, panels, show, write

__all__ = ["plot_filters"]

_MOST = 64  # filters of one grey or colour tile each
_MOST_ROWS, _MOST_CHANNELS = 16, 8  # of filters with a tile for each channel


def plot_filters(
    models: Layer | tuple[Layer, Layer], path: PathOf | None = None, *, layer: str | None = None
) -> Figure:
    """Draw the filters of a convolution; of a pair of models (before, after training), side by side.

    Every filter is drawn on its own scale, the same way before and after: mid-grey is 0, white its largest
    absolute weight and black minus that. So the patterns can be compared, however small initial weights
    are; how much the weights have grown is told by their standard deviation in the titles.

    Parameters
    ----------
    models : Layer or (before, after)
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file.
    layer : str, optional
        A pattern such as ``"conv2"`` or ``"layer1.*"``: the first convolution whose path fits it is drawn.
        The model's first if not given.

    Returns
    -------
    matplotlib.figure.Figure
        Filters of 1 channel are grey, of 3 in colour; the first 64 are drawn. Of others, the first 16 are, a
        row for each filter with a column for each of its first 8 channels.

    Raises
    ------
    ArgumentError
        When no convolution fits, or the two models' are not of one shape.

    References
    ----------
    Saito, "Deep Learning from Scratch", 2016, section 7.6.

    Examples
    --------
    >>> from xpcnn import models
    >>> figure = plot_filters((models.tiny_convnet(seed=0), models.tiny_convnet(seed=1)))
    >>> print(figure.axes[0].get_title().splitlines()[0])
    before training
    """
    pair = models if isinstance(models, tuple) else (models,)
    found = [_convolution(model, layer) for model in pair]
    weights = [weight for _, weight in found]
    if len({weight.shape for weight in weights}) > 1:
        raise ArgumentError(f"plot_filters: the two models' filters differ: {[w.shape for w in weights]}")
    tiles = [_tiles(weight) for weight in weights]
    count, channels, *kernel = weights[0].shape
    in_one = channels in (1, 3)
    columns = near_square(len(tiles[0])) if in_one else min(channels, _MOST_CHANNELS)
    height, width = mosaic(tiles[0], columns).shape[:2]
    panel = max(3.6, 4.0 * min(1.0, width / height))
    figure, grid = panels(len(pair), len(pair), panel, min(5.5, panel * height / width), top=0.8, gap=0.08)
    names = ("before training", "after training") if len(pair) == 2 else ("",)
    for axes, filters, weight, name in zip(grid, tiles, weights, names, strict=True):
        show(axes, mosaic(filters, columns))
        _frame(axes, filters.shape, columns)
        axes.set_title(f"{name}\nstd {weight.std():.3g}".strip(), fontsize=10)
    most = _MOST if in_one else _MOST_ROWS
    shown = f"{most} of {count}" if count > most else str(count)
    title = f"{found[0][0]}: {shown} filters of {'×'.join(map(str, (channels, *kernel)))}"
    figure.suptitle(
        title if in_one or channels <= columns else f"{title},\nfirst {columns} channels", fontsize=11
    )
    return write(figure, path, "plot_filters")


def _convolution(model: Layer, pattern: str | None) -> tuple[str, np.ndarray]:
    """Return the path and the weight, on the host, of the first convolution whose path fits."""
    known = []
    for path, leaf in leaf_layers(model):
        weight: Any = getattr(leaf, "weight", None)
        if weight is not None and len(weight.shape) == 4:
            if pattern is None or fnmatchcase(path, pattern):
                return path or type(leaf).__name__, to_numpy(weight.data).astype(np.float64)
            known.append(path)
    if not known:
        raise ArgumentError("plot_filters: the model has no convolution")
    raise ArgumentError(f"plot_filters: no convolution fits layer={pattern!r}; it has {', '.join(known)}")


def _tiles(weight: np.ndarray) -> np.ndarray:
    """Return what is drawn of filters (K, C, kh, kw), from 0 to 1: (tiles, kh, kw) or (tiles, kh, kw, 3)."""
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    scaled = 0.5 + weight / np.where(largest > 0, 2 * largest, 1)
    channels = weight.shape[1]
    if channels == 1:
        return scaled[:_MOST, 0]
    if channels == 3:
        return np.moveaxis(scaled[:_MOST], 1, -1)
    return scaled[:_MOST_ROWS, :_MOST_CHANNELS].reshape(-1, *scaled.shape[2:])


def _frame(axes: Any, shape: tuple[int, ...], columns: int) -> None:
    """Draw a thin line around each filter, as white weights would not be told from the paper."""
    from matplotlib.patches import Rectangle

    count, height, width = shape[:3]
    for top, left in corners(count, height, width, columns):
        corner = (left - 0.5, top - 0.5)
        frame = Rectangle(corner, width, height, fill=False, edgecolor="0.3", linewidth=0.6, clip_on=False)
        axes.add_patch(frame)
