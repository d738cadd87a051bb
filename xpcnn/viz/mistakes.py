"""The images a model reads wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np

from xpcnn.nn import Layer
from xpcnn.ops.checks import whole
from xpcnn.train import predict
from xpcnn.train.inputs import labelled
from xpcnn.viz.canvas import Figure, PathOf, host_images, new_figure, show, write

__all__ = ["plot_mistakes"]

_COLUMNS = 8


def plot_mistakes(model: Layer, data: Any, path: PathOf | None = None, *, count: int = 24) -> Figure:
    """Draw the images a model reads wrongly, the worst first: those it is surest of.

    Parameters
    ----------
    model : Layer
        Ending in logits.
    data : Dataset or (images, labels)
        Labels (N,) or (N, 1), or rows of probabilities (N, classes).
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file.
    count : int
        How many are drawn at most.

    Returns
    -------
    matplotlib.figure.Figure
        Above each image are its true class, what it was read as, and the probability the model gave that.

    Raises
    ------
    ArgumentError
        When `count` is below 1.

    Examples
    --------
    >>> from xpcnn import data, models
    >>> figure = plot_mistakes(models.tiny_convnet(), data.synthetic_digits(20), count=3)
    >>> len(figure.axes)
    3
    """
    whole("plot_mistakes: count", count, 1)
    images, labels = labelled("plot_mistakes", data)
    probabilities = predict(model, images)
    read, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(read != labels)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:count]
    told = f"{len(wrong):,} of {len(labels):,} read wrongly ({len(wrong) / len(labels):.2%})"
    if len(worst) == 0:
        figure = new_figure(5, 1.5)
        figure.suptitle(told, fontsize=11)
        return write(figure, path, "plot_mistakes")
    columns = min(_COLUMNS, max(4, len(worst)))
    rows = -(-len(worst) // columns)
    figure = new_figure(1.25 * columns, 0.5 + 1.55 * rows)
    figure.suptitle(told if len(worst) == len(wrong) else f"{told}; the {len(worst)} surest", fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, i, picture in zip(grid, worst, host_images(images[worst], "plot_mistakes"), strict=False):
        show(axes, picture)
        axes.set_title(f"true {labels[i]}\nread {read[i]}, {sure[i]:.0%}", fontsize=8)
    for axes in grid[len(worst) :]:
        axes.remove()
    return write(figure, path, "plot_mistakes")
