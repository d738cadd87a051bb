"""What a convolution looks for: filters before and after training, and Sobel's, which nobody had to learn."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from xpcnn import ops
from xpcnn.backend import asarray, to_numpy
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.nn import Layer
from xpcnn.viz.activations import leaf_layers
from xpcnn.viz.canvas import Figure, PathOf, corners, host_array, mosaic, near_square, panels, show, write

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
    some = "" if in_one or channels <= columns else f",\nfirst {columns} channels"
    size = "×".join(map(str, (channels, *kernel)))
    figure.suptitle(f"{found[0][0]}: {shown} filters of {size}{some}", fontsize=11)
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
    if weight.shape[1] == 1:
        return scaled[:_MOST, 0]
    if weight.shape[1] == 3:
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


# The difference of neighbours along one axis, averaged with weights 1 2 1 along the other.
_ACROSS_ROWS = ((-1.0, -2.0, -1.0), (0.0, 0.0, 0.0), (1.0, 2.0, 1.0))
_ACROSS_COLUMNS = tuple(zip(*_ACROSS_ROWS, strict=True))


def sobel(image: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the horizontal and the vertical edges of an image, each (H − 2, W − 2), with their signs.

    The convolution runs on the current backend, in float32.

    Parameters
    ----------
    image : array (H, W), (C, H, W) or (1, C, H, W)
        uint8 is scaled to [0, 1]; the mean of the channels is taken.

    Returns
    -------
    horizontal : ndarray
        Positive where it gets lighter downwards.
    vertical : ndarray
        Positive where it gets lighter to the right.

    References
    ----------
    Sobel and Feldman, "A 3×3 isotropic gradient operator for image processing", 1968.

    Examples
    --------
    >>> horizontal, vertical = sobel([[0.0, 0.0, 1.0]] * 3)
    >>> horizontal.item(), vertical.item()
    (0.0, 4.0)
    """
    # Without padding: a border of zeros would be an edge of its own.
    weight = asarray([[_ACROSS_ROWS], [_ACROSS_COLUMNS]], "float32")
    y, _ = ops.conv2d(asarray(_grey(image)[None, None], "float32"), weight)
    horizontal, vertical = to_numpy(y)[0]
    return horizontal, vertical


def plot_sobel(image: Any, path: PathOf | None = None) -> Figure:
    """Draw an image, its horizontal and vertical edges as Sobel's kernels find them, and their magnitude.

    Parameters
    ----------
    image : array (H, W), (C, H, W) or (1, C, H, W)
        As `sobel` takes it.
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file.

    Returns
    -------
    matplotlib.figure.Figure
        In the two middle panels mid-grey is 0, on one scale for both; in the magnitude, √(h² + v²), black
        is 0. Under each panel is its kernel.

    Raises
    ------
    ShapeError
        When `image` is not one image, or is smaller than the kernels.

    Examples
    --------
    >>> [axes.get_title() for axes in plot_sobel(np.eye(8)).axes]
    ['image', 'horizontal edges', 'vertical edges', 'magnitude']
    """
    grey = _grey(image)
    horizontal, vertical = sobel(grey)
    magnitude = np.hypot(horizontal, vertical)
    strongest = max(float(np.abs([horizontal, vertical]).max()), 1e-6)
    low, high = float(grey.min()), float(grey.max())
    shown = (
        ("image", grey, low, max(high, low + 1e-6), ""),
        ("horizontal edges", horizontal, -strongest, strongest, _kernel_text(_ACROSS_ROWS)),
        ("vertical edges", vertical, -strongest, strongest, _kernel_text(_ACROSS_COLUMNS)),
        ("magnitude", magnitude, 0.0, max(float(magnitude.max()), 1e-6), ""),
    )
    height, width = grey.shape
    figure, grid = panels(4, 4, 2.6, min(5.2, 2.6 * height / width), top=0.8)
    for axes, (title, picture, low, high, kernel) in zip(grid, shown, strict=True):
        show(axes, picture, low, high)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(kernel, family="monospace", fontsize=8)
    return write(figure, path, "plot_sobel")


def _grey(image: Any) -> np.ndarray:
    grey = host_array(image)
    scale = 255 if grey.dtype == np.uint8 else 1
    if grey.ndim == 4 and grey.shape[0] == 1:
        grey = grey[0]
    if grey.ndim == 3:
        grey = grey.mean(axis=0)
    if grey.ndim != 2 or min(grey.shape) < 3:
        wanted = "one image (H, W), (C, H, W) or (1, C, H, W) of at least 3x3"
        raise ShapeError(f"sobel: image must be {wanted}, got shape {host_array(image).shape}")
    return grey / scale


def _kernel_text(kernel: tuple[tuple[float, ...], ...]) -> str:
    return "\n".join(" ".join(f"{value:2.0f}" for value in row) for row in kernel).replace("-", "−")
