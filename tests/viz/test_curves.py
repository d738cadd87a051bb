"""The learning curves: drawn from any history, readable without colour, without a display."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from xpcnn.train import EpochRecord, History
from xpcnn.viz import plot_curves

pytest.importorskip("matplotlib")

LOSSES = [2.3 * math.exp(-step / 200) + 0.1 * (step % 7) / 7 for step in range(400)]
EPOCHS = [EpochRecord(i + 1, 1.0, 0.8 + 0.04 * i, 0.8 + 0.03 * i, 1.0, 100.0) for i in range(4)]


def test_what_is_drawn() -> None:
    loss, accuracy = plot_curves(History(LOSSES, EPOCHS)).axes
    raw, mean = loss.get_lines()
    np.testing.assert_array_equal(raw.get_xdata(), np.arange(1, 401))
    np.testing.assert_array_equal(raw.get_ydata(), LOSSES)
    middle = slice(10, -10)
    expected = [np.mean(LOSSES[i - 5 : i + 5]) for i in range(10, 390)]
    np.testing.assert_allclose(mean.get_ydata()[middle], expected)
    assert loss.get_yscale() == "log"
    train, test = accuracy.get_lines()
    assert list(train.get_xdata()) == [1, 2, 3, 4]
    assert list(train.get_ydata()) == [record.train_accuracy for record in EPOCHS]
    assert list(test.get_ydata()) == [record.test_accuracy for record in EPOCHS]
    labels = [text.get_text() for text in accuracy.get_legend().get_texts()]
    assert labels == ["training set, 92.00% at the end", "test set, 89.00% at the end"]


HISTORIES = {
    "empty": History(),
    "one step": History([2.3]),
    "a few steps": History([2.3, 1.2, 0.7], [], interrupted=True),
    "one epoch": History([2.3, 1.2], EPOCHS[:1]),
    "no test set": History(LOSSES, [EpochRecord(1, 1.0, 0.9, None, 1.0, 1.0)]),
    "nothing but NaN": History([math.nan] * 100),
    "gaps": History([*LOSSES[:100], math.nan, math.inf, 0.0, *LOSSES[100:]], EPOCHS),
    "constant": History([1.0] * 100, EPOCHS),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_any_history_can_be_drawn(tmp_path: Path, name: str) -> None:
    plot_curves(HISTORIES[name], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert os.listdir(tmp_path) == ["curves.png"]


def test_a_loss_that_is_no_number_is_a_gap() -> None:
    loss, _ = plot_curves(HISTORIES["gaps"]).axes
    raw, mean = loss.get_lines()
    assert np.isnan(raw.get_ydata()[100:103]).all()
    assert np.isfinite(mean.get_ydata()).all()


# -- the smoothing, and several histories -----------------------------------------------------


@pytest.mark.parametrize("count", [60, 80, 401, 3000])
def test_smoothing(count: int) -> None:
    losses = (HISTORIES["gaps"].losses * 8)[:count]
    loss, _ = plot_curves(History(losses)).axes
    width = count // 40
    if width == 1:
        (raw,) = loss.get_lines()
        np.testing.assert_array_equal(raw.get_ydata(), losses)
        return
    expected = []
    for i in range(count):
        around = losses[max(0, i - width // 2) : i + (width + 1) // 2]
        known = [value for value in around if math.isfinite(value) and value > 0]
        expected.append(sum(known) / len(known) if known else math.nan)
    _, mean = loss.get_lines()
    np.testing.assert_allclose(mean.get_ydata(), expected)
    assert mean.get_label() == f"mean of {width} steps"


def test_several_histories() -> None:
    short = EpochRecord(1, 1.0, 0.7, 0.6, 1.0, 100.0)
    both = {"He": History(LOSSES, EPOCHS), "std 0.01": History([2.3] * 80, [short])}
    loss, accuracy = plot_curves(both).axes
    he, std = loss.get_lines()
    np.testing.assert_array_equal(he.get_xdata(), np.arange(1, 401))
    np.testing.assert_allclose(he.get_ydata()[5:-5], [np.mean(LOSSES[i - 5 : i + 5]) for i in range(5, 395)])
    np.testing.assert_allclose(std.get_ydata(), [2.3] * 80)
    assert accuracy.get_title() == "Accuracy on the test set"
    he, std = accuracy.get_lines()
    assert list(he.get_ydata()) == [record.test_accuracy for record in EPOCHS]
    assert (list(std.get_xdata()), list(std.get_ydata())) == ([1], [0.6])
    assert [line.get_label() for line in (he, std)] == ["He, 89.00%", "std 0.01, 60.00%"]


def test_several_histories_without_a_test_set() -> None:
    one = History(LOSSES, [EpochRecord(1, 1.0, 0.9, None, 1.0, 1.0)])
    _, accuracy = plot_curves({"a": one, "empty": History(), "b": one}).axes
    assert accuracy.get_title() == "Accuracy on the training set"
    assert [list(line.get_ydata()) for line in accuracy.get_lines()] == [[0.9], [0.9]]
    assert len(plot_curves({"empty": History()}).axes) == 2


def test_several_histories_differ_in_more_than_colour() -> None:
    loss, accuracy = plot_curves({str(i): History(LOSSES, EPOCHS) for i in range(6)}).axes
    for axes in (loss, accuracy):
        assert len({(line.get_linestyle(), line.get_marker()) for line in axes.get_lines()}) == 6


def test_without_classes_the_test_losses_are_drawn() -> None:
    def run(*losses: float) -> History:
        records = [EpochRecord(i + 1, 1.0, None, None, 1.0, 9.0, test_loss=x) for i, x in enumerate(losses)]
        return History(losses=[2.0, 1.0], epochs=records)

    axes = plot_curves(run(0.5, 0.25)).axes[1]
    assert axes.get_title() == "Loss on the test set"
    assert axes.lines[0].get_ydata().tolist() == [0.5, 0.25]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["test set, 0.25 at the end"]
    axes = plot_curves({"one": run(0.5, 0.25), "two": run(0.75, 0.125)}).axes[1]
    assert axes.get_title() == "Loss on the test set"
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.5, 0.25], [0.75, 0.125]]
