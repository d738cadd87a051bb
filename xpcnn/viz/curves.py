"""The learning curves of a run: its loss step by step, its accuracies epoch by epoch."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xpcnn.errors import ArgumentError
from xpcnn.io import replacing
from xpcnn.train import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_curves"]


def plot_curves(history: History, path: str | PathLike[str] | None = None) -> Figure:
    """Draw a history, and write the picture to a file if one is named.

    No display is needed and no pyplot state is touched.

    Parameters
    ----------
    history : History
        Of a whole run or of one that was cut short; a loss that is no number leaves a gap.
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file; an existing one is replaced whole or not at all.

    Returns
    -------
    matplotlib.figure.Figure
        The loss of every step (light) with its running mean (dark), on a logarithmic axis, and the
        accuracies on training and test set.

    Raises
    ------
    ArgumentError
        When matplotlib does not know the file's ending.
    CheckpointError
        When the file cannot be written.

    Examples
    --------
    >>> from xpcnn.train import History
    >>> figure = plot_curves(History(losses=[2.3, 1.1, 0.6]))
    >>> [axes.get_title() for axes in figure.axes]
    ['Loss', 'Accuracy']
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_losses(left, np.array(history.losses, dtype=np.float64))
    _draw_accuracies(right, history)
    if path is not None:
        ending = Path(path).suffix.lstrip(".").lower()
        known = figure.canvas.get_supported_filetypes()
        if ending not in known:
            raise ArgumentError(f"plot_curves: {path} must end in one of .{', .'.join(sorted(known))}")
        with replacing(path) as temporary:
            figure.savefig(temporary, format=ending, dpi=150)
    return figure


def _draw_losses(axes: Any, losses: np.ndarray) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title("Loss")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    # A logarithmic axis has no place for 0; NaN leaves a gap.
    drawn = np.where(np.isfinite(losses) & (losses > 0), losses, np.nan)
    if not np.isfinite(drawn).any():
        return
    steps = np.arange(1, len(drawn) + 1)
    window = len(drawn) // 40
    smooth = window > 1
    look = {"color": "0.75", "linewidth": 0.8} if smooth else {"color": "black", "marker": "."}
    axes.plot(steps, drawn, label="each step", **look)
    if smooth:
        mean = _running_mean(drawn, window)
        axes.plot(steps, mean, color="black", linewidth=1.8, label=f"mean of {window} steps")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = np.nanmin(drawn), np.nanmax(drawn)
    if low < high < 10 * low:  # hardly a power of ten to label
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(frameon=False)


def _draw_accuracies(axes: Any, history: History) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.set_title("Accuracy")
    axes.set_xlabel("epoch")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    epochs = [record.epoch for record in history.epochs]
    if not epochs:
        axes.text(0.5, 0.5, "no epoch finished yet", transform=axes.transAxes, ha="center", color="0.4")
        return
    sets = (
        ("training set", np.array(history.train_accuracy), "o--", "0.55"),
        ("test set", np.array(history.test_accuracy, dtype=np.float64), "s-", "black"),  # None becomes NaN
    )
    for name, accuracies, style, color in sets:
        if np.isfinite(accuracies).any():
            label = f"{name}, {accuracies[np.isfinite(accuracies)][-1]:.2%} at the end"
            axes.plot(epochs, accuracies, style, color=color, markersize=4, label=label)
    axes.legend(frameon=False)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of the `window` values around each one that are numbers; NaN where there are none."""
    known = np.isfinite(values)
    kernel = np.ones(window)
    total = np.convolve(np.where(known, values, 0), kernel, mode="same")
    count = np.convolve(known.astype(np.float64), kernel, mode="same")
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
