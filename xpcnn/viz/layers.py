"""What each layer hands on: the maps of one image, and how the outputs of many are distributed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from xpcnn import nn
from xpcnn.backend import asarray, host_generator, to_numpy
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.nn import Layer
from xpcnn.viz.activations import evenly_spaced, layer_outputs
from xpcnn.viz.canvas import Figure, PathOf, host_array, host_images, mosaic, near_square, panels, show, write

_MOST_LAYERS, _MOST_MAPS, _MOST_BARS, _BINS = 23, 16, 20, 40
_COLUMNS, _PANEL = 4, 2.4
_SAMPLE = 100_000  # values of a layer that go into its histogram; mean and std are of all


def plot_feature_maps(
    model: Layer, image: Any, path: PathOf | None = None, *, layers: str | None = None
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
        A pattern such as ``"conv*"`` for the paths of the layers to draw. Of more than 23, that many evenly
        spaced ones are drawn.

    Returns
    -------
    matplotlib.figure.Figure
        The input first, then the first 16 maps of each layer, in the order in which they are run. An output
        without height and width is drawn as bars if it has up to 20 values, the largest black, else as
        squares, row by row.

    Raises
    ------
    ShapeError
        When `image` is not one image.
    ArgumentError
        When no layer's path fits the pattern.

    Examples
    --------
    >>> from xpcnn import data, models
    >>> figure = plot_feature_maps(models.tiny_convnet(), data.synthetic_digits(1).images)
    >>> [axes.get_title().splitlines()[0] for axes in figure.axes]
    ['input', 'conv1', 'pool1', 'fc']
    """
    images = host_array(image)
    if images.ndim not in (3, 4) or (images.ndim == 4 and len(images) != 1):
        wanted = "(C, H, W) or (1, C, H, W)"
        raise ShapeError(f"plot_feature_maps: image must have shape {wanted}, got {images.shape}")
    images = images.reshape(1, *images.shape[-3:])
    found = layer_outputs("plot_feature_maps", model, images, layers, lambda name, y: (name, to_numpy(y)[0]))
    drawn = evenly_spaced(found, _MOST_LAYERS)
    figure, grid = panels(1 + len(drawn), min(_COLUMNS, 1 + len(drawn)), _PANEL, _PANEL + 0.45)
    if len(drawn) < len(found):
        figure.suptitle(f"{len(drawn)} of {len(found)} layers", fontsize=11)
    show(grid[0], host_images(images, "plot_feature_maps")[0])
    grid[0].set_title(f"input\n{_size(images[0])}", fontsize=8)
    for axes, (name, output) in zip(grid[1:], drawn, strict=True):
        axes.set_title(f"{name}\n{_draw_maps(axes, output)}", fontsize=8)
    return write(figure, path, "plot_feature_maps")


def _draw_maps(axes: Any, output: np.ndarray) -> str:
    """Draw what a layer handed on for one image, and return what it is."""
    output = output.astype(np.float64)
    low, high = float(output.min()), float(output.max())
    high = high if high > low else low + 1
    if output.ndim == 3 and output.shape[1:] != (1, 1):
        count = len(output)
        show(axes, mosaic(output[:_MOST_MAPS]), low, high)
        maps = f"{count} maps of {_size(output[0])}"
        return f"{maps}, first {_MOST_MAPS}" if count > _MOST_MAPS else maps
    values = output.reshape(-1)
    caption = f"{len(values)} values, {values.min():.2g} to {values.max():.2g}".replace("-", "−")
    if len(values) > _MOST_BARS:
        columns = near_square(len(values))
        squares = np.full((-(-len(values) // columns), columns), np.nan)
        squares.flat[: len(values)] = values
        show(axes, squares, low, high)
        return caption
    axes.bar(range(len(values)), values, color=np.where(values == values.max(), "black", "0.6"))
    axes.set(xticks=range(len(values)), yticks=[], box_aspect=1)
    axes.tick_params(labelsize=7)
    axes.axhline(0, color="black", linewidth=0.6)
    return caption


def _size(image: np.ndarray) -> str:
    return "×".join(map(str, image.shape))


def plot_activations(
    models: Layer | Mapping[str, Layer],
    x: Any,
    path: PathOf | None = None,
    *,
    layers: str | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw a histogram of the outputs of each layer.

    Exact zeros, as relu makes them, are a percentage in the title and not among the bars.

    Parameters
    ----------
    models : Layer or mapping of label to Layer
        Several models are drawn one in each row, as many layers of each as the shallowest has.
    x : array (N, ...)
        uint8 images, or floating ones that are prepared already.
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file.
    layers : str, optional
        A pattern such as ``"relu*"`` for the paths of the layers to draw; all that make something new of
        their input if not given.
    limits : (low, high), optional
        Of the horizontal axes; values outside are not drawn. If not given, each layer has its own.

    Returns
    -------
    matplotlib.figure.Figure
        Of a network of more than 23 layers, that many evenly spaced ones are drawn.

    Raises
    ------
    ArgumentError
        When no layer's path fits the pattern, or there is no model.
    ShapeError
        When `x` is empty.

    References
    ----------
    Saito, "Deep Learning from Scratch", 2016, section 6.2.

    Examples
    --------
    >>> from xpcnn import data, models
    >>> figure = plot_activations(models.simple_convnet(filters=4), data.synthetic_digits(50).images)
    >>> [axes.get_title().splitlines()[0] for axes in figure.axes]
    ['conv1', 'relu1', 'pool1', 'fc1', 'relu2', 'fc2']
    """
    if 0 in host_array(x).shape:
        raise ShapeError(f"plot_activations: x is empty, its shape is {host_array(x).shape}")
    rows = dict(models) if isinstance(models, Mapping) else {"": models}
    if not rows:
        raise ArgumentError("plot_activations: no model given")
    found = [layer_outputs("plot_activations", model, x, layers, _measure) for model in rows.values()]
    shown, deepest = min(_MOST_LAYERS, *map(len, found)), max(map(len, found))
    columns = shown if len(rows) > 1 else near_square(shown, aspect=2)
    width = max(4.0 / columns, 2.1)
    figure, grid = panels(shown * len(rows), columns, width, 1.75, top=0.3, gap=0.04)
    if deepest > shown:
        figure.suptitle(f"{shown} of {deepest} layers", fontsize=11)
    for axes, label in zip(grid[::shown], rows, strict=True):
        axes.set_ylabel(label)
    drawn = [layer for row in found for layer in evenly_spaced(row, shown)]
    for axes, (title, sample) in zip(grid, drawn, strict=True):
        axes.set_title(title, fontsize=8)
        _draw_histogram(axes, sample, limits or _limits(sample))
    return write(figure, path, "plot_activations")


def plot_initial_values(
    path: PathOf | None = None, *, nonlinearity: str = "sigmoid", seed: int = 0
) -> Figure:
    """Draw what initial values do to the outputs of five hidden layers of 100 units.

    The input is 1,000 rows of 100 standard normal numbers. With sigmoid, initial weights have a standard
    deviation of 1 (outputs pile up at 0 and 1, where there is no gradient), 0.01 (all units do nearly the
    same) and Xavier's; with relu, of 0.01 and Xavier's (outputs die away) and He's (they keep their spread).

    Parameters
    ----------
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file.
    nonlinearity : "sigmoid" or "relu"
    seed : int

    References
    ----------
    Saito, "Deep Learning from Scratch", 2016, section 6.2.

    Examples
    --------
    >>> figure = plot_initial_values(nonlinearity="relu")
    >>> [axes.get_ylabel() for axes in figure.axes[::5]]
    ['std 0.01', 'Xavier', 'He']
    """
    both: dict[str, float | str] = {"std 0.01": 0.01, "Xavier": "xavier"}
    kinds = {"sigmoid": (nn.Sigmoid, {"std 1": 1.0, **both}), "relu": (nn.ReLU, {**both, "He": "he"})}
    if nonlinearity not in kinds:
        known = ", ".join(kinds)
        raise ArgumentError(f"plot_initial_values: unknown nonlinearity {nonlinearity!r}; known: {known}")
    kind, inits = kinds[nonlinearity]
    models = {}
    for label, init in inits.items():
        rng = host_generator(seed)
        x = asarray(rng.standard_normal((1000, 100)), "float32")  # the same for each
        hidden: dict[str, Layer] = {}
        for i in range(1, 6):
            hidden[f"fc{i}"] = nn.Linear(100, 100, bias=False, weight_init=init, seed=rng)
            hidden[f"{nonlinearity}{i}"] = kind()
        models[label] = nn.Sequential(hidden)
    figure = plot_activations(models, x, layers=f"{nonlinearity}*", limits=(0, 1))
    return write(figure, path, "plot_initial_values")


def _measure(name: str, y: Any) -> tuple[str, np.ndarray]:
    """Return a title with mean, deviation and percentage of zeros, and a sample of the other outputs."""
    values = to_numpy(y).astype(np.float64).reshape(-1)
    values = values[np.isfinite(values)]
    others = values[values != 0]
    mean, std = (values.mean(), values.std()) if values.size else (np.nan, np.nan)
    title = f"{name}\n" + f"{mean:.2g} ± {std:.2g}".replace("-", "−")
    if others.size < values.size:
        title += f", {1 - others.size / values.size:.0%} zeros"
    return title, others[:: -(-others.size // _SAMPLE) or 1]


def _limits(sample: np.ndarray) -> tuple[float, float] | None:
    """Return the range that all but the last thousandth of the values on either side are in."""
    if sample.size == 0:
        return None
    low, high = np.quantile(sample, (0.001, 0.999))
    return (float(low), float(high)) if low < high else (float(low) - 0.5, float(high) + 0.5)


def _draw_histogram(axes: Any, sample: np.ndarray, limits: tuple[float, float] | None) -> None:
    if limits is not None:
        heights, edges = np.histogram(sample, bins=_BINS, range=limits)
        axes.stairs(heights, edges, fill=True, color="0.35")
        axes.set_xlim(*limits)
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    axes.tick_params(labelsize=7)
    axes.xaxis.get_major_locator().set_params(nbins=4, min_n_ticks=2, prune="both")
