"""The learning curves of one run or of several: losses step by step, accuracies epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from xpcnn.errors import ArgumentError
from xpcnn.train import History
from xpcnn.viz.canvas import Figure, PathOf, new_figure, write

# Told apart by their strokes and marks, in grey too.
_COLORS, _LINES, _MARKERS = ("black", "0.45"), ("-", "--", ":", "-", "--", "-."), "os^DvP"
_TITLES = {
    "test_accuracy": "Accuracy on the test set",
    "train_accuracy": "Accuracy on the training set",
    "test_loss": "Loss on the test set",
}


def plot_curves(history: History | Mapping[str, History], path: PathOf | None = None) -> Figure:
    """Draw a history, or several to compare, and write the picture to a file if one is named.

    No display is needed and no pyplot state is touched.

    Parameters
    ----------
    history : History, or mapping of label to History
        Of whole runs or of ones that were cut short; a loss that is no number leaves a gap. Up to six lines
        can be told apart.
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file; an existing one is replaced whole or not at all.

    Returns
    -------
    matplotlib.figure.Figure
        The loss of every step (light) with its mean over a fortieth of the run (dark), on a logarithmic
        axis, and the accuracies on training and test set. Of several histories, the running means alone, and
        the accuracies on the test set, or on the training set if no history has a test set's. Where targets
        have no classes, the losses on the test set stand in place of accuracies.

    Raises
    ------
    ArgumentError
        When matplotlib does not know the file's ending, or there is no history.
    CheckpointError
        When the file cannot be written.

    Examples
    --------
    >>> from xpcnn.train import History
    >>> figure = plot_curves(History(losses=[2.3, 1.1, 0.6]))
    >>> [axes.get_title() for axes in figure.axes]
    ['Loss', 'Accuracy']
    """
    histories = {"": history} if isinstance(history, History) else history
    if not isinstance(histories, Mapping) or not all(isinstance(one, History) for one in histories.values()):
        kind = type(history).__name__
        raise ArgumentError(
            f"plot_curves: history must be a History, or a mapping of names to some, got {kind}"
        )
    if not histories:
        raise ArgumentError("plot_curves: no history given")
    figure = new_figure(10, 4)
    from matplotlib.ticker import MaxNLocator  # after the figure, which says how matplotlib is installed

    left, right = figure.subplots(1, 2)
    for axes, title, counted in ((left, "Loss", "step"), (right, "Accuracy", "epoch")):
        axes.set(title=title, xlabel=counted, axisbelow=True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="0.9")
    compared = not isinstance(history, History)
    for i, (label, one) in enumerate(histories.items()):
        _draw_losses(left, one, _style(i) | {"label": label} if compared else None)
    if left.lines:
        _make_logarithmic(left)
    _draw_evaluations(right, histories, compared)
    for axes in (left, right):
        if axes.lines:
            axes.legend(frameon=False)
    return write(figure, path, "plot_curves")


def _draw_losses(axes: Any, history: History, style: dict[str, Any] | None) -> None:
    """Draw the running mean of a history's losses; of the only one, without a style, each loss too."""
    losses = np.array(history.losses, dtype=np.float64)
    # A logarithmic axis has no place for 0; NaN leaves a gap.
    losses = np.where(np.isfinite(losses) & (losses > 0), losses, np.nan)
    if np.isnan(losses).all():
        return
    steps, window = np.arange(1, len(losses) + 1), max(1, len(losses) // 40)
    mean = _running_mean(losses, window)
    if style is not None:
        every = max(1, len(mean) // 8)
        # The marks of different lines are set off against each other, as the lines may coincide.
        place = (len(axes.lines) * every // len(_LINES), every)
        axes.plot(steps, mean, markevery=place, markersize=4, **style)
    elif window == 1:
        axes.plot(steps, losses, color="black", marker=".", linewidth=0.8, label="each step")
    else:
        axes.plot(steps, losses, color="0.75", linewidth=0.8, label="each step")
        axes.plot(steps, mean, color="black", linewidth=1.8, label=f"mean of {window} steps")


def _make_logarithmic(axes: Any) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    losses = np.concatenate([line.get_ydata() for line in axes.lines])
    if np.nanmin(losses) < np.nanmax(losses) < 100 * np.nanmin(losses):  # hardly a power of ten to label
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter("{x:g}")


def _draw_evaluations(axes: Any, histories: Mapping[str, History], compared: bool) -> None:
    """Draw accuracies, or the losses on the test set where targets have no classes."""
    from matplotlib.ticker import PercentFormatter

    if not any(history.epochs for history in histories.values()):
        axes.text(0.5, 0.5, "no epoch finished yet", transform=axes.transAxes, ha="center", color="0.4")
    measured = (name for name in _TITLES for one in histories.values() if _known(one, name).size)
    name = next(measured, "test_accuracy")
    is_loss = name == "test_loss"
    axes.yaxis.set_major_formatter("{x:g}" if is_loss else PercentFormatter(xmax=1))
    if compared or is_loss:
        axes.set_title(_TITLES[name])
    lines = [(label, one, name) for label, one in histories.items()]
    if not compared:
        one, test = histories[""], name if is_loss else "test_accuracy"
        lines = [("training set", one, "train_accuracy"), ("test set", one, test)]
    for i, (label, one, name) in enumerate(lines):
        known = _known(one, name)
        if known.size:
            last = f"{known[-1]:.4g}" if is_loss else f"{known[-1]:.2%}"
            text = f"{label}, {last}" if compared else f"{label}, {last} at the end"
            values = np.array(getattr(one, name), dtype=np.float64)
            epochs = [record.epoch for record in one.epochs]
            axes.plot(epochs, values, markersize=4, label=text, **_style(i if compared else 1 - i))


def _known(history: History, name: str) -> np.ndarray:
    values = np.array(getattr(history, name), dtype=np.float64)  # None becomes NaN
    return values[np.isfinite(values)]


def _style(i: int) -> dict[str, Any]:
    return {"color": _COLORS[i % 2], "linestyle": _LINES[i % 6], "marker": _MARKERS[i % 6]}


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of the `window` values around each one that are numbers; NaN where there are none."""
    known = np.isfinite(values)
    start = (window - 1) // 2  # of the middle of a full convolution
    middle, ones = slice(start, start + len(values)), np.ones(window)
    total, count = np.convolve(np.where(known, values, 0), ones), np.convolve(known, ones)
    return (np.where(count > 0, total, np.nan) / np.maximum(count, 1))[middle]
