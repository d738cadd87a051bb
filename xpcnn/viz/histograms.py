"""How the outputs of each layer are distributed, on which it depends whether a network can learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from xpcnn import nn
from xpcnn.backend import asarray, host_generator, to_numpy
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.nn import Layer
from xpcnn.ops.op import whole
from xpcnn.viz.activations import evenly_spaced, layer_outputs
from xpcnn.viz.canvas import Figure, PathOf, host_array, near_square, panels, write

__all__ = ["plot_activations", "plot_initial_values"]

_BINS = 40
_SAMPLE = 100_000  # values of a layer that go into its histogram; mean and std are of all


def plot_activations(
    models: Layer | Mapping[str, Layer],
    x: Any,
    path: PathOf | None = None,
    *,
    layers: str | None = None,
    limits: tuple[float, float] | None = None,
    most: int = 24,
) -> Figure:
    """Draw a histogram of the outputs of each layer.

    Exact zeros, as relu makes them, are a percentage in the title and not among the bars.

    Parameters
    ----------
    models : Layer or mapping of label to Layer
        Several models are drawn one in each row.
    x : array (N, ...)
        uint8 images, or floating ones that are prepared already.
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file.
    layers : str, optional
        A pattern such as ``"relu*"`` for the paths of the layers to draw; all that make something new of
        their input if not given.
    limits : (low, high), optional
        Of the horizontal axes; values outside are not drawn. If not given, each layer has its own.
    most : int
        How many layers are drawn; of a deeper network, that many evenly spaced.

    Raises
    ------
    ArgumentError
        When no layer's path fits the pattern, there is no model, or `most` is below 1.
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
    whole("plot_activations: most", most, 1)
    if 0 in host_array(x).shape:
        raise ShapeError(f"plot_activations: x is empty, its shape is {host_array(x).shape}")
    rows = dict(models) if isinstance(models, Mapping) else {"": models}
    if not rows:
        raise ArgumentError("plot_activations: no model given")
    found = {
        label: layer_outputs("plot_activations", model, x, layers, _measure) for label, model in rows.items()
    }
    deepest = max(map(len, found.values()))
    widest = min(deepest, most)
    columns = widest if len(rows) > 1 else near_square(widest, aspect=2)
    width = max(4.0 / columns, 2.1)
    figure, grid = panels(widest * len(rows), columns, width, 1.75, top=0.3, gap=0.04)
    if deepest > most:
        figure.suptitle(f"{most} of {deepest} layers", fontsize=11)
    for i, (label, row) in enumerate(found.items()):
        line, drawn = grid[i * widest : (i + 1) * widest], evenly_spaced(row, most)
        for axes, (title, sample) in zip(line, drawn, strict=False):
            axes.set_title(title, fontsize=8)
            _draw(axes, sample, limits or _limits(sample))
        line[0].set_ylabel(label)
        for axes in line[len(drawn) :]:
            axes.remove()
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
    kinds: dict[str, tuple[type[Layer], dict[str, float | str]]] = {
        "sigmoid": (nn.Sigmoid, {"std 1": 1.0, "std 0.01": 0.01, "Xavier": "xavier"}),
        "relu": (nn.ReLU, {"std 0.01": 0.01, "Xavier": "xavier", "He": "he"}),
    }
    if nonlinearity not in kinds:
        raise ArgumentError(
            f"plot_initial_values: unknown nonlinearity {nonlinearity!r}; known: {', '.join(kinds)}"
        )
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


def _draw(axes: Any, sample: np.ndarray, limits: tuple[float, float] | None) -> None:
    if limits is not None:
        heights, edges = np.histogram(sample, bins=_BINS, range=limits)
        axes.stairs(heights, edges, fill=True, color="0.35")
        axes.set_xlim(*limits)
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    axes.tick_params(labelsize=7)
    axes.xaxis.get_major_locator().set_params(nbins=4, min_n_ticks=2, prune="both")
