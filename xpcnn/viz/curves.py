"""The learning curves of one run or of several: losses step by step, accuracies epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from xpcnn.errors import ArgumentError
from xpcnn.train import History
from xpcnn.viz.canvas import PathOf, new_figure, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_curves"]

# Told apart by their strokes and marks, in grey too.
_LOOKS = tuple(
    {"color": color, "linestyle": stroke, "marker": mark}
    for color, stroke, mark in (
        ("black", "-", "o"),
        ("0.45", "--", "s"),
        ("black", ":", "^"),
        ("0.45", "-", "D"),
        ("black", "--", "v"),
        ("0.45", "-.", "P"),
    )
)


def plot_curves(
    history: History | Mapping[str, History], path: PathOf | None = None, *, smooth: int | None = None
) -> Figure:
    """Draw a history, or several to compare, and write the picture to a file if one is named.

    No display is needed and no pyplot state is touched.

    Parameters
    ----------
    history : History, or mapping of label to History
        Of whole runs or of ones that were cut short; a loss that is no number leaves a gap. Up to six lines
        can be told apart.
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file; an existing one is replaced whole or not at all.
    smooth : int, optional
        The smoothed loss at a step is the mean of so many steps around it; 1 draws each step alone. A
        fortieth of the run if not given.

    Returns
    -------
    matplotlib.figure.Figure
        The loss of every step (light) with its running mean (dark), on a logarithmic axis, and the
        accuracies on training and test set. Of several histories, the running means alone, and the accuracies
        on the test set, or on the training set if no history has a test set's. Where targets have no classes,
        the losses on the test set stand in place of accuracies.

    Raises
    ------
    ArgumentError
        When matplotlib does not know the file's ending, `smooth` is below 1, or there is no history.
    CheckpointError
        When the file cannot be written.

    Examples
    --------
    >>> from xpcnn.train import History
    >>> figure = plot_curves(History(losses=[2.3, 1.1, 0.6]))
    >>> [axes.get_title() for axes in figure.axes]
    ['Loss', 'Accuracy']
    """
    if smooth is not None and smooth < 1:
        raise ArgumentError(f"plot_curves: smooth must be at least 1, got {smooth}")
    if not isinstance(history, History):
        if not isinstance(history, Mapping) or not all(isinstance(h, History) for h in history.values()):
            raise ArgumentError(
                f"plot_curves: history must be a History, or a mapping of names to some, "
                f"got {type(history).__name__}"
            )
        if not history:
            raise ArgumentError("plot_curves: no history given")
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    _prepare(left, "Loss", "step")
    _prepare(right, "Accuracy", "epoch")
    if isinstance(history, History):
        _draw_losses(left, _losses(history), smooth)
        _draw_accuracies(right, history)
    else:
        _compare_losses(left, history, smooth)
        _compare_accuracies(right, history)
    return write(figure, path, "plot_curves")


def _prepare(axes: Any, title: str, counted: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    axes.set_xlabel(counted)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="0.9")
    axes.set_axisbelow(True)


def _losses(history: History) -> np.ndarray:
    losses = np.array(history.losses, dtype=np.float64)
    # A logarithmic axis has no place for 0; NaN leaves a gap.
    return np.where(np.isfinite(losses) & (losses > 0), losses, np.nan)


def _draw_losses(axes: Any, losses: np.ndarray, smooth: int | None) -> None:
    if not np.isfinite(losses).any():
        return
    steps = np.arange(1, len(losses) + 1)
    window = smooth or len(losses) // 40
    look = {"color": "0.75", "linewidth": 0.8} if window > 1 else {"color": "black", "marker": "."}
    axes.plot(steps, losses, label="each step", **look)
    if window > 1:
        mean = _running_mean(losses, window)
        axes.plot(steps, mean, color="black", linewidth=1.8, label=f"mean of {window} steps")
    _make_logarithmic(axes, losses)
    axes.legend(frameon=False)


def _compare_losses(axes: Any, histories: Mapping[str, History], smooth: int | None) -> None:
    drawn: list[np.ndarray] = []
    for i, (label, history) in enumerate(histories.items()):
        losses = _losses(history)
        if np.isfinite(losses).any():
            mean = _running_mean(losses, smooth or max(1, len(losses) // 40))
            every = max(1, len(mean) // 8)
            # The marks of different lines are set off against each other, as the lines may coincide.
            where = (i * every // len(histories), every)
            axes.plot(
                np.arange(1, len(mean) + 1), mean, markevery=where, markersize=4, label=label, **_look(i)
            )
            drawn.append(mean)
    if drawn:
        _make_logarithmic(axes, np.concatenate(drawn))
        axes.legend(frameon=False)


def _make_logarithmic(axes: Any, losses: np.ndarray) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = np.nanmin(losses), np.nanmax(losses)
    if low < high < 100 * low:  # hardly a power of ten to label
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter("{x:g}")


def _draw_accuracies(axes: Any, history: History) -> None:
    epochs = [record.epoch for record in history.epochs]
    if _no_epochs(axes, [history]):
        return
    if _has_no_classes([history]):
        _prepare_losses(axes)
        losses = np.array(history.test_loss, dtype=np.float64)
        if np.isfinite(losses).any():
            label = f"test set, {_last(losses):.4g} at the end"
            axes.plot(epochs, losses, "s-", color="black", markersize=4, label=label)
            axes.legend(frameon=False)
        return
    sets = (
        ("training set", np.array(history.train_accuracy, dtype=np.float64), "o--", "0.55"),
        ("test set", np.array(history.test_accuracy, dtype=np.float64), "s-", "black"),  # None becomes NaN
    )
    for name, accuracies, style, color in sets:
        if np.isfinite(accuracies).any():
            label = f"{name}, {_last(accuracies):.2%} at the end"
            axes.plot(epochs, accuracies, style, color=color, markersize=4, label=label)
    axes.legend(frameon=False)


def _compare_accuracies(axes: Any, histories: Mapping[str, History]) -> None:
    if _no_epochs(axes, histories.values()):
        return
    losses = _has_no_classes(histories.values())
    tested = any(value is not None for history in histories.values() for value in history.test_accuracy)
    if losses:
        _prepare_losses(axes)
    else:
        axes.set_title(f"Accuracy on the {'test' if tested else 'training'} set")
    for i, (label, history) in enumerate(histories.items()):
        accuracies = history.test_accuracy if tested else history.train_accuracy
        values = np.array(history.test_loss if losses else accuracies, dtype=np.float64)
        if np.isfinite(values).any():
            last = f"{_last(values):.4g}" if losses else f"{_last(values):.2%}"
            epochs = [record.epoch for record in history.epochs]
            axes.plot(epochs, values, markersize=4, label=f"{label}, {last}", **_look(i))
    axes.legend(frameon=False)


def _has_no_classes(histories: Iterable[History]) -> bool:
    """Return whether there is a loss on a test set, and no accuracy at all."""
    records = [record for history in histories for record in history.epochs]
    if any(record.train_accuracy is not None or record.test_accuracy is not None for record in records):
        return False
    return any(record.test_loss is not None for record in records)


def _prepare_losses(axes: Any) -> None:
    axes.set_title("Loss on the test set")
    axes.yaxis.set_major_formatter("{x:g}")


def _no_epochs(axes: Any, histories: Any) -> bool:
    """Return whether there are no accuracies to draw, and say so in the picture."""
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    if any(history.epochs for history in histories):
        return False
    axes.text(0.5, 0.5, "no epoch finished yet", transform=axes.transAxes, ha="center", color="0.4")
    return True


def _look(i: int) -> dict[str, Any]:
    return dict(_LOOKS[i % len(_LOOKS)])


def _last(values: np.ndarray) -> float:
    return float(values[np.isfinite(values)][-1])


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of the `window` values around each one that are numbers; NaN where there are none."""
    known = np.isfinite(values)
    kernel = np.ones(window)
    total = _centred(np.convolve(np.where(known, values, 0), kernel), len(values))
    count = _centred(np.convolve(known.astype(np.float64), kernel), len(values))
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _centred(full: np.ndarray, length: int) -> np.ndarray:
    """Return the middle of a full convolution, even where the window is longer than the values."""
    start = (len(full) - length) // 2
    return full[start : start + length]
