"""How one image looks to each layer of a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from xpcnn.backend import to_numpy
from xpcnn.errors import ShapeError
from xpcnn.nn import Layer
from xpcnn.ops.op import whole
from xpcnn.viz.activations import evenly_spaced, layer_outputs
from xpcnn.viz.canvas import Figure, PathOf, host_array, host_images, mosaic, near_square, panels, show, write

__all__ = ["plot_feature_maps"]

_MOST_BARS = 20
_COLUMNS, _PANEL = 4, 2.4


def plot_feature_maps(
    model: Layer,
    image: Any,
    path: PathOf | None = None,
    *,
    layers: str | None = None,
    channels: int = 16,
    most: int = 23,
) -> Figure:
    """Draw an image and what each layer of a model makes of it.

    The maps of a layer are drawn on one scale, its smallest value black and its largest white, so that a
    map without response is dark. Layers that hand their input on unchanged (dropout at inference, flatten)
    are left out.

    Parameters
    ----------
    model : Layer
    image : array (C, H, W) or (1, C, H, W)
        uint8, or floating images that are prepared already.
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file.
    layers : str, optional
        A pattern such as ``"conv*"`` for the paths of the layers to draw.
    channels : int
        How many maps of a layer are drawn: its first.
    most : int
        How many layers are drawn; of a deeper network, that many evenly spaced.

    Returns
    -------
    matplotlib.figure.Figure
        The input first, then the layers in the order in which they are run. An output without height and
        width is drawn as bars if it has up to 20 values, the largest black, else as squares, row by row.

    Raises
    ------
    ShapeError
        When `image` is not one image.
    ArgumentError
        When no layer's path fits the pattern, or a count is below 1.

    Examples
    --------
    >>> from xpcnn import data, models
    >>> figure = plot_feature_maps(models.tiny_convnet(), data.synthetic_digits(1).images)
    >>> [axes.get_title().splitlines()[0] for axes in figure.axes]
    ['input', 'conv1', 'pool1', 'fc']
    """
    whole("plot_feature_maps: channels", channels, 1)
    whole("plot_feature_maps: most", most, 1)
    images = host_array(image)
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or len(images) != 1:
        raise ShapeError(
            f"plot_feature_maps: image must have shape (C, H, W) or (1, C, H, W), "
            f"got {host_array(image).shape}"
        )
    found = layer_outputs("plot_feature_maps", model, images, layers, lambda name, y: (name, to_numpy(y)[0]))
    drawn = evenly_spaced(found, most)
    figure, grid = panels(1 + len(drawn), min(_COLUMNS, 1 + len(drawn)), _PANEL, _PANEL + 0.45)
    if len(drawn) < len(found):
        figure.suptitle(f"{len(drawn)} of {len(found)} layers", fontsize=11)
    show(grid[0], host_images(images, "plot_feature_maps")[0])
    grid[0].set_title(f"input\n{_size(images[0])}", fontsize=8)
    for axes, (name, output) in zip(grid[1:], drawn, strict=True):
        axes.set_title(f"{name}\n{_draw(axes, output, channels)}", fontsize=8)
    return write(figure, path, "plot_feature_maps")


def _draw(axes: Any, output: np.ndarray, channels: int) -> str:
    """Draw what a layer handed on for one image, and return what it is."""
    output = output.astype(np.float64)
    low, high = float(output.min()), float(output.max())
    high = high if high > low else low + 1
    if output.ndim == 3 and output.shape[1:] != (1, 1):
        count = len(output)
        show(axes, mosaic(output[:channels]), low, high)
        maps = f"{count} maps of {_size(output[0])}"
        return f"{maps}, first {channels}" if count > channels else maps
    values = output.reshape(-1)
    caption = f"{len(values)} values, {values.min():.2g} to {values.max():.2g}".replace("-", "−")
    if len(values) > _MOST_BARS:
        columns = near_square(len(values))
        squares = np.full((-(-len(values) // columns), columns), np.nan)
        squares.flat[: len(values)] = values
        show(axes, squares, low, high)
        return caption
    axes.bar(range(len(values)), values, color=np.where(values == values.max(), "black", "0.6"))
    axes.set_xticks(range(len(values)))
    axes.set_yticks([])
    axes.tick_params(labelsize=7)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_box_aspect(1)
    return caption


def _size(image: np.ndarray) -> str:
    return "×".join(map(str, image.shape))
