"""The picture of a random search: what is on it, and that it can be read in grey."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn.errors import ArgumentError
from xpcnn.train import SearchResults, Trial
from xpcnn.viz import plot_search

pytest.importorskip("matplotlib")

FAILURE = "the loss became nan at step 3"


def results(count: int, failed: tuple[int, ...] = (), epochs: int = 6) -> SearchResults:
    """Trials whose accuracies grow with their number."""
    trials = []
    for number in range(1, count + 1):
        sample = {"lr": 10 ** -(number % 7 + 1.5), "weight_decay": 10 ** -(number % 5 + 3.5)}
        accuracies = [number / count * (epoch + 1) / epochs for epoch in range(epochs)]
        if number in failed:
            trials.append(Trial(number, sample, [], [], 0.5, FAILURE))
        else:
            trials.append(Trial(number, sample, [0.9 * value for value in accuracies], accuracies, 1.0))
    return SearchResults(trials)


def panels(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_title()[:1].isdecimal()]


def test_the_best_trials_curves() -> None:
    found = results(30, failed=(30, 3))
    shown = panels(plot_search(found))
    assert len(shown) == 20
    for rank, (axes, trial) in enumerate(zip(shown, found.ranked, strict=False), start=1):
        assert axes.get_title() == f"{rank}: {trial.accuracy:.1%}"
        train, validation = axes.get_lines()
        assert list(validation.get_xdata()) == [1, 2, 3, 4, 5, 6]
        assert list(validation.get_ydata()) == trial.validation_accuracy
        assert list(train.get_ydata()) == trial.train_accuracy
        assert (train.get_linestyle(), validation.get_linestyle()) == ("--", "-")
        assert axes.texts[0].get_text() == "\n".join(f"{k} {v:.1e}" for k, v in trial.sample.items())
        assert axes.get_ylim() == shown[0].get_ylim()
    assert shown[0].get_title() == f"1: {29 / 30:.1%}"
    figure = plot_search(found, best=3)
    assert len(panels(figure)) == 3


def test_all_trials_by_their_values() -> None:
    found = results(30, failed=(30, 3))
    (axes,) = [axes for axes in plot_search(found).axes if axes.get_title() == "All 30 trials"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("lr", "weight_decay")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    dots, crosses = axes.collections
    finished = list(reversed([trial for trial in found.ranked if trial.failure is None]))
    np.testing.assert_allclose(dots.get_offsets(), [list(trial.sample.values()) for trial in finished])
    np.testing.assert_allclose(dots.get_array(), [trial.accuracy for trial in finished])
    failed = [found.trials[2], found.trials[29]]
    np.testing.assert_allclose(crosses.get_offsets(), [list(trial.sample.values()) for trial in failed])
    assert axes.get_legend().get_texts()[0].get_text() == "2 diverged"


def test_dots_differ_in_size_and_shade() -> None:
    figure = plot_search(results(10))
    (axes,) = [axes for axes in figure.axes if axes.get_title() == "All 10 trials"]
    (dots,) = axes.collections
    assert (np.diff(dots.get_sizes()) > 0).all()  # the best are the largest, and lie on top
    figure.draw_without_rendering()
    shades = dots.get_facecolors()[:, :3]
    np.testing.assert_array_equal(shades.min(axis=1), shades.max(axis=1))
    assert (np.diff(shades[:, 0]) < 0).all()
    assert shades[0, 0] < 1


def test_a_search_for_one_value() -> None:
    trials = [Trial(i, {"lr": 10.0**-i}, [0.5], [0.9 / i], 1.0) for i in (1, 2, 3)]
    figure = plot_search(SearchResults([*trials, Trial(4, {"lr": 1.0}, [], [], 0.1, FAILURE)]))
    (axes,) = [axes for axes in figure.axes if axes.get_title() == "All 4 trials"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[1e-3, 0.3], [1e-2, 0.45], [0.1, 0.9]])
    np.testing.assert_allclose(axes.collections[1].get_offsets(), [[1.0, 0.0]])
    assert axes.get_ylabel() == "validation accuracy at the end"


@pytest.mark.parametrize(
    "found",
    [results(1), results(2, epochs=1), results(3, failed=(1, 2, 3)), results(21), results(7, failed=(2,))],
    ids=["one", "one epoch", "all failed", "many", "some"],
)
def test_any_search_can_be_drawn(tmp_path: Path, found: SearchResults) -> None:
    plot_search(found, tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert os.listdir(tmp_path) == ["s.png"]


def test_equal_accuracies_and_svg(tmp_path: Path) -> None:
    trials = [Trial(i, {"a": 0.1, "b": 10.0**-i}, [0.5], [0.1], 1.0) for i in (1, 2)]
    plot_search(SearchResults(trials), tmp_path / "s.svg")
    assert (tmp_path / "s.svg").read_bytes().startswith(b"<?xml")


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="plot_search: needs at least 1 trial"):
        plot_search(SearchResults())
    with pytest.raises(ArgumentError, match="got 2 and 0"):
        plot_search(results(2), best=0)
    with pytest.raises(ArgumentError, match=r"plot_search: .*s\.txt must end in one of"):
        plot_search(results(2), tmp_path / "s.txt")
