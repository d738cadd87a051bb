"""Images that a model is given: what augmentation makes of them, what is read rightly, and what wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.nn import Layer
from xpcnn.ops.op import whole
from xpcnn.train import predict
from xpcnn.train.inputs import labelled
from xpcnn.viz.canvas import Figure, PathOf, host_array, host_images, mosaic, new_figure, panels, show, write

_SAMPLES = 8  # of each image


def plot_augmentations(
    transform: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    images: Any,
    path: PathOf | None = None,
    *,
    seed: int = 0,
) -> Figure:
    """Draw images, and beside each several samples of what a transform makes of it.

    Parameters
    ----------
    transform : callable
        ``transform(images, rng)`` returns new images, as those of `xpcnn.data.augment` do, whose `spec` is
        put over the picture.
    images : array (N, C, H, W)
        uint8 or floating; a row of the picture for each.
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file.
    seed : int
        What the samples are drawn from.

    Raises
    ------
    ShapeError
        When the images have another number of axes, or there are none.
    ArgumentError
        When `transform` is no function.

    Examples
    --------
    >>> from xpcnn import data
    >>> digits = data.synthetic_digits(3).images
    >>> figure = plot_augmentations(data.augment.parse("shift=2,rotate=10"), digits)
    >>> [axes.get_title() for axes in figure.axes]
    ['original', '8 samples of each']
    """
    if not callable(transform):
        raise ArgumentError(f"plot_augmentations: transform must be callable, got {type(transform).__name__}")
    images = host_array(images)
    originals = host_images(images, "plot_augmentations")
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = [host_images(transform(images, rng), "plot_augmentations") for _ in range(_SAMPLES)]
    rows = np.stack(drawn, axis=1)  # (N, samples, H, W[, 3])
    samples = mosaic(rows.reshape(-1, *originals.shape[1:]), columns=_SAMPLES)
    pictures = {"original": mosaic(originals, columns=1), f"{_SAMPLES} samples of each": samples}
    widths = [picture.shape[1] for picture in pictures.values()]
    figure = new_figure(9.3, 0.8 + 9 / sum(widths) * len(samples))
    grid = figure.subplots(1, 2, width_ratios=widths)
    for axes, (title, picture) in zip(grid, pictures.items(), strict=True):
        show(axes, picture)
        axes.set_title(title, fontsize=10)
    figure.suptitle(getattr(transform, "spec", ""), fontsize=11)
    return write(figure, path, "plot_augmentations")


_MOST_WRITTEN = 20  # classes of a matrix whose counts are written into it
_COLUMNS = 8  # of images read wrongly


def confusion_matrix(model: Layer, data: Any) -> np.ndarray:
    """Return how often each class was read as each.

    Parameters
    ----------
    model : Layer
        Ending in logits.
    data : Dataset or (images, labels)
        Labels (N,) or (N, 1), or rows of probabilities (N, classes).

    Returns
    -------
    ndarray (classes, classes), int64
        On the host. Entry [i, j] counts the images of class i that were read as class j.

    Examples
    --------
    >>> from xpcnn import data, models
    >>> confusion_matrix(models.tiny_convnet(), data.synthetic_digits(50)).sum()
    np.int64(50)
    """
    images, labels = labelled("confusion_matrix", data)
    probabilities = predict(model, images)
    classes = max(probabilities.shape[1], int(labels.max()) + 1)
    pairs = labels * classes + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def plot_confusion(matrix: Any, path: PathOf | None = None) -> Figure:
    """Draw a confusion matrix.

    Parameters
    ----------
    matrix : array (classes, classes)
        Counts as `confusion_matrix` returns them.
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file.

    Returns
    -------
    matplotlib.figure.Figure
        A row for each true class; the darker a field, the larger its part of the row. Shades go with the
        square root of it, so that rare mistakes are seen too. At the right of each row is the part
        that was read correctly. Counts are written in for up to 20 classes; the fields of 0 stay empty.

    Raises
    ------
    ShapeError
        When the matrix is not square, or empty.
    ArgumentError
        When an entry is no count.

    Examples
    --------
    >>> plot_confusion([[8, 2], [0, 10]]).axes[0].get_title()
    '18 of 20 right: 90.00%'
    """
    counts = host_array(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.size == 0:
        raise ShapeError(f"plot_confusion: matrix must have shape (classes, classes), got {counts.shape}")
    if counts.dtype.kind not in "iu" or counts.min() < 0:
        raise ArgumentError("plot_confusion: matrix must hold counts: whole numbers, none below 0")
    classes = len(counts)
    totals = counts.sum(axis=1)
    fractions = counts / np.maximum(totals, 1)[:, None]
    written = classes <= _MOST_WRITTEN
    side = 2.0 + 0.45 * (classes if written else _MOST_WRITTEN / 2)
    figure = new_figure(side + 0.6, side)
    axes = figure.subplots()
    shades = np.sqrt(fractions)
    axes.imshow(shades, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="read as", ylabel="true class")
    right, total = int(np.trace(counts)), int(totals.sum())
    axes.set_title(f"{right:,} of {total:,} right: {right / max(total, 1):.2%}", fontsize=11)
    if written:
        axes.set(xticks=range(classes), yticks=range(classes))
        for i, j in np.argwhere(counts > 0):
            color = "white" if shades[i, j] > 0.55 else "black"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=color, fontsize=8)
        recalls = axes.secondary_yaxis("right")
        recall = [f"{fractions[i, i]:.1%}" if totals[i] else "none" for i in range(classes)]
        recalls.set_yticks(range(classes), recall)
        recalls.tick_params(length=0)
        recalls.set_ylabel("of the class read correctly")
    return write(figure, path, "plot_confusion")


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
    title = f"{len(wrong):,} of {len(labels):,} read wrongly ({len(wrong) / len(labels):.2%})"
    pictures = host_images(images[worst], "plot_mistakes") if len(worst) else ()
    figure, grid = panels(len(worst), min(_COLUMNS, max(4, len(worst))), 1.25, 1.55, top=0.5)
    figure.suptitle(title if len(worst) == len(wrong) else f"{title}; the {len(worst)} surest", fontsize=11)
    for axes, i, picture in zip(grid, worst, pictures, strict=True):
        show(axes, picture)
        axes.set_title(f"true {labels[i]}\nread {read[i]}, {sure[i]:.0%}", fontsize=8)
    return write(figure, path, "plot_mistakes")
