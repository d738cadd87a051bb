"""What a random search found: the curves of the best trials, and where the good values lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xpcnn.errors import ArgumentError
from xpcnn.train import SearchResults, Trial
from xpcnn.viz.canvas import PathOf, near_square, new_figure, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_search"]

_SMALLEST, _LARGEST = 15, 110  # areas of the dots, in square points


def plot_search(results: SearchResults, path: PathOf | None = None, *, best: int = 20) -> Figure:
    """Draw what a random search found, and write the picture to a file if one is named.

    Parameters
    ----------
    results : SearchResults
        Of a whole search or of one that was cut short.
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file; an existing one is replaced whole or not at all.
    best : int
        How many trials' curves are drawn.

    Returns
    -------
    matplotlib.figure.Figure
        At the left the best trials, a small picture for each: accuracy by epoch on the validation set
        (solid) and on the training set (dashed). At the right every trial by its first two values, on
        logarithmic axes: the darker and larger a dot, the better; a cross failed. Of a search for one value,
        the accuracies by that value.

    Raises
    ------
    ArgumentError
        When there are no trials, or `best` is below 1.
    CheckpointError
        When the file cannot be written.

    References
    ----------
    Saito, "Deep Learning from Scratch", 2016, section 6.5: the best 20 of 100 trials.

    Examples
    --------
    >>> from xpcnn.train import SearchResults, Trial
    >>> trials = [Trial(i, {"lr": 10.0**-i}, [0.1, 0.5], [0.1, 0.8 / i], 1.0) for i in (1, 2, 3)]
    >>> figure = plot_search(SearchResults(trials))
    >>> [axes.get_title() for axes in figure.axes[:3]]
    ['1: 80.0%', '2: 40.0%', '3: 26.7%']
    """
    if not results.trials or best < 1:
        raise ArgumentError(
            f"plot_search: needs at least 1 trial, and best of at least 1, "
            f"got {len(results.trials)} and {best}"
        )
    figure = new_figure(13, 5.8)
    halves: Any = figure.subfigures(1, 2, width_ratios=(3, 2))
    curves, values = halves
    finished = [trial for trial in results.ranked if trial.failure is None]
    _draw_curves(curves, finished[:best], len(finished))
    _draw_values(values, results)
    return write(figure, path, "plot_search")


def _draw_curves(figure: Any, trials: list[Trial], of: int) -> None:
    if not trials:
        figure.text(0.5, 0.5, "no trial finished", ha="center", color="0.4")
        return
    columns = near_square(len(trials))
    rows = -(-len(trials) // columns)
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for rank, (axes, trial) in enumerate(zip(grid, trials, strict=False), start=1):
        for accuracies, look in (
            (trial.train_accuracy, {"color": "0.55", "linestyle": "--"}),
            (trial.validation_accuracy, {"color": "black", "linestyle": "-"}),
        ):
            mark = "" if len(accuracies) > 1 else "o"
            axes.plot(range(1, len(accuracies) + 1), accuracies, marker=mark, markersize=4, **look)
        axes.set_title(f"{rank}: {trial.accuracy:.1%}", fontsize=9)
        drawn = "\n".join(f"{name} {value:.1e}" for name, value in trial.sample.items())
        below = max(trial.validation_accuracy) > 0.5  # where the curve leaves room
        axes.text(
            0.96,
            0.06 if below else 0.94,
            drawn,
            transform=axes.transAxes,
            ha="right",
            va="bottom" if below else "top",
            fontsize=6,
        )
        axes.tick_params(labelsize=7)
        axes.grid(color="0.9")
    for axes in grid[len(trials) :]:
        axes.set_visible(False)
    _share_axes(grid[0], len(trials[0].validation_accuracy))
    figure.suptitle(
        f"The best {len(trials)} of {of}: accuracy on the validation set (solid) and training set (dashed)",
        fontsize=11,
    )
    figure.supxlabel("epoch", fontsize=9)


def _share_axes(axes: Any, epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.set_ylim(0, 1.03)
    axes.set_xlim(1 if epochs > 1 else 0, max(epochs, 2))
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))


def _draw_values(figure: Any, results: SearchResults) -> None:
    from matplotlib.ticker import PercentFormatter

    axes = figure.subplots()
    ranked = results.ranked
    names = list(ranked[0].sample)
    finished = [trial for trial in reversed(ranked) if trial.failure is None]  # the best are drawn last
    failed = [trial for trial in ranked if trial.failure is not None]
    accuracies = [trial.accuracy or 0.0 for trial in finished]
    single = len(names) == 1

    def heights(trials: list[Trial]) -> list[float]:
        return [(trial.accuracy or 0.0) if single else trial.sample[names[1]] for trial in trials]

    if finished:
        low, high = min(accuracies), max(accuracies)
        parts = [(accuracy - low) / ((high - low) or 1) for accuracy in accuracies]
        dots = axes.scatter(
            [trial.sample[names[0]] for trial in finished],
            heights(finished),
            c=accuracies,
            s=[_SMALLEST + (_LARGEST - _SMALLEST) * part for part in parts],
            cmap="Greys",
            # White would not be seen, though an edge is around each.
            vmin=low - 0.15 * ((high - low) or 1),
            vmax=high,
            edgecolors="black",
            linewidths=0.5,
        )
        if not single:
            bar = figure.colorbar(dots, ax=axes, format=PercentFormatter(xmax=1, decimals=0), shrink=0.8)
            bar.set_label("validation accuracy at the end")
            if high > low:
                bar.ax.set_ylim(low, high)
    if failed:
        axes.scatter(
            [trial.sample[names[0]] for trial in failed],
            heights(failed),
            marker="x",
            color="black",
            label=f"{len(failed)} diverged",
        )
        axes.legend(fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel(names[0])
    if single:
        axes.set_ylabel("validation accuracy at the end")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    else:
        axes.set_yscale("log")
        axes.set_ylabel(names[1])
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.set_title(f"All {len(ranked)} trials", fontsize=11)
