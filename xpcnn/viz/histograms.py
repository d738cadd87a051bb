"""How the outputs of each layer are distributed, on which it depends whether a network can learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from xpcnn import nn
from xpcnn.backend import asarray, host_generator, to_numpy
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.nn import Layer
from xpcnn.ops.op import whole
from xpcnn.viz.canvas import Figure, PathOf, host_array, near_square, new_figure, write
from xpcnn.viz.walk import evenly, outputs

__all__ = ["plot_activations", "plot_initial_values"]

_BINS = 40
_SAMPLE = 100_000  # values of a layer that go into its histogram; mean and std are of all


class _Outputs(NamedTuple):
    """The outputs of one layer: which part of them is exactly 0, and a sample of the others."""

    name: str
    mean: float
    std: float
    zeros: float
    sample: np.ndarray


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

    Exact zeros, as relu makes them, are told as a share and left out of the bars, which they would dwarf.

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
    found = {label: outputs("plot_activations", model, x, layers, _measure) for label, model in rows.items()}
    drawn = {label: evenly(row, most) for label, row in found.items()}
    widest = max(map(len, drawn.values()))
    columns = widest if len(rows) > 1 else near_square(widest, aspect=2)
    deep = len(rows) if len(rows) > 1 else -(-widest // columns)
    figure = new_figure(max(4.0, 2.1 * columns), 0.3 + 1.75 * deep, gap=0.04)
    deepest = max(map(len, found.values()))
    if deepest > most:
        figure.suptitle(f"{most} of {deepest} layers", fontsize=11)
    grid = figure.subplots(deep, columns, squeeze=False)
    lines = grid if len(rows) > 1 else [grid.ravel()]
    for (label, row), line in zip(drawn.items(), lines, strict=True):
        for axes, layer in zip(line, row, strict=False):
            _draw(axes, layer, limits or _limits(layer.sample))
        line[0].set_ylabel(label)
        for axes in line[len(row) :]:
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


def _measure(name: str, y: Any) -> _Outputs:
    values = to_numpy(y).astype(np.float64).reshape(-1)
    values = values[np.isfinite(values)]
    others = values[values != 0]
    mean, std = (float(values.mean()), float(values.std())) if values.size else (np.nan, np.nan)
    zeros = 1 - others.size / values.size if values.size else 0.0
    return _Outputs(name, mean, std, zeros, others[:: -(-others.size // _SAMPLE) or 1])


def _limits(sample: np.ndarray) -> tuple[float, float] | None:
    """Return the range that all but the last thousandth of the values on either side are in."""
    if sample.size == 0:
        return None
    low, high = np.quantile(sample, (0.001, 0.999))
    return (float(low), float(high)) if low < high else (float(low) - 0.5, float(high) + 0.5)


def _draw(axes: Any, layer: _Outputs, limits: tuple[float, float] | None) -> None:
    told = f"{layer.mean:.2g} ± {layer.std:.2g}".replace("-", "−")
    if layer.zeros > 0:
        told += f", {layer.zeros:.0%} zeros"
    axes.set_title(f"{layer.name}\n{told}", fontsize=8)
    if limits is not None:
        heights, edges = np.histogram(layer.sample, bins=_BINS, range=limits)
        axes.stairs(heights, edges, fill=True, color="0.35")
        axes.set_xlim(*limits)
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    axes.tick_params(labelsize=7)
    axes.xaxis.get_major_locator().set_params(nbins=4, min_n_ticks=2, prune="both")
