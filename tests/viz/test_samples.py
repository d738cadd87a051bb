"""Augmented images, the confusion matrix and the mistakes, beside loops over the images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn import data, models, nn, train
from xpcnn.viz import confusion_matrix, plot_augmentations, plot_confusion, plot_mistakes
from xpcnn.viz.canvas import corners

pytest.importorskip("matplotlib")

IMAGES = data.synthetic_digits(3).images


class Roll:
    """A transform that draws a number for each image."""

    spec = "roll"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.stack([np.roll(image, rng.integers(0, 28), axis=1) for image in images])


def test_what_is_drawn(make: Any) -> None:
    figure = plot_augmentations(Roll(), make.array(IMAGES), seed=7)
    original, samples = (axes.images[0].get_array() for axes in figure.axes)
    for image, (top, left) in zip(IMAGES, corners(3, 28, 28, 1), strict=True):
        np.testing.assert_array_equal(original[top : top + 28, left : left + 28], image[0] / 255)
    rng = np.random.Generator(np.random.Philox(7))
    drawn = [[np.roll(image[0], rng.integers(0, 28), axis=0) for image in IMAGES] for _ in range(8)]
    for place, (top, left) in enumerate(corners(24, 28, 28, 8)):
        expected = drawn[place % 8][place // 8] / 255
        np.testing.assert_array_equal(samples[top : top + 28, left : left + 28], expected)
    assert [axes.get_title() for axes in figure.axes] == ["original", "8 samples of each"]
    assert figure.get_suptitle() == "roll"


def test_colour_and_nameless_transforms() -> None:
    images = np.random.default_rng(0).random((2, 3, 8, 6))
    figure = plot_augmentations(lambda x, rng: x[..., ::-1], images)
    assert figure.get_suptitle() == ""
    assert figure.axes[1].images[0].get_array().shape == (2 * 8 + 1, 8 * 6 + 7, 4)


DIGITS = data.synthetic_digits(30, seed=5)
MODEL = models.tiny_convnet(filters=4, seed=2)


def by_loop() -> list[tuple[int, int, float]]:
    """For each image its class, what it is read as, and with which probability; in float64."""
    rows = []
    for image, label in zip(DIGITS.images, DIGITS.labels, strict=True):
        logits = MODEL((image[None] / 255 - 0.5).astype(np.float32))[0].astype(np.float64)
        powers = np.exp(logits - logits.max())
        read = max(range(10), key=lambda k: powers[k])
        rows.append((int(label), read, float(powers[read] / powers.sum())))
    return rows


def test_confusion_matrix(make: Any) -> None:
    expected = np.zeros((10, 10), int)
    for label, read, _ in by_loop():
        expected[label, read] += 1
    model = models.tiny_convnet(filters=4, seed=2).to(backend=make.backend)
    for given in (DIGITS, (DIGITS.images, make.array(np.eye(10, dtype="f")[DIGITS.labels]))):
        matrix = confusion_matrix(model, given)
        assert type(matrix) is np.ndarray
        assert matrix.dtype == np.int64
        np.testing.assert_array_equal(matrix, expected)


def test_confusion_matrix_of_rows_and_of_unknown_classes() -> None:
    rows = np.eye(3, dtype=np.float32)
    matrix = confusion_matrix(nn.Identity(), (rows, np.array([0, 4, 2])))
    assert matrix.shape == (5, 5)
    assert [tuple(place) for place in np.argwhere(matrix)] == [(0, 0), (2, 2), (4, 1)]


def test_what_of_a_matrix_is_drawn() -> None:
    counts = np.array([[8, 2, 0], [0, 0, 0], [1, 1, 6]])
    (axes,) = plot_confusion(counts).axes
    shares = np.array([[0.8, 0.2, 0], [0, 0, 0], [1 / 8, 1 / 8, 6 / 8]])
    np.testing.assert_allclose(axes.images[0].get_array(), np.sqrt(shares))
    texts = {text.get_position(): text for text in axes.texts}
    assert {place: text.get_text() for place, text in texts.items()} == {
        (0, 0): "8", (1, 0): "2", (0, 2): "1", (1, 2): "1", (2, 2): "6",
    }  # fmt: skip
    assert texts[0, 0].get_color() == "white"  # on black
    assert texts[1, 0].get_color() == "black"
    assert axes.get_title() == "14 of 18 right: 77.78%"
    (recalls,) = axes.child_axes
    assert [label.get_text() for label in recalls.get_yticklabels()] == ["80.0%", "none", "75.0%"]


def test_matrices_of_any_size() -> None:
    (axes,) = plot_confusion(np.eye(50, dtype=int)).axes
    assert not axes.texts
    assert plot_confusion([[0]]).axes[0].get_title() == "0 of 0 right: 0.00%"


def test_mistakes_are_drawn_worst_first(make: Any) -> None:
    wrong = [(sure, i, label, read) for i, (label, read, sure) in enumerate(by_loop()) if label != read]
    wrong.sort(key=lambda row: -row[0])
    model = models.tiny_convnet(filters=4, seed=2).to(backend=make.backend)
    figure = plot_mistakes(model, DIGITS, count=5)
    assert len(wrong) > 5
    assert len(figure.axes) == 5
    for axes, (sure, i, label, read) in zip(figure.axes, wrong, strict=False):
        assert axes.get_title() == f"true {label}\nread {read}, {sure:.0%}"
        np.testing.assert_array_equal(axes.images[0].get_array(), DIGITS.images[i, 0] / 255)
    share = len(wrong) / 30
    assert figure.get_suptitle() == f"{len(wrong)} of 30 read wrongly ({share:.2%}); the 5 surest"
    assert len(plot_mistakes(model, DIGITS, count=1000).axes) == len(wrong)


def test_no_mistakes() -> None:
    read = train.predict(MODEL, DIGITS.images).argmax(axis=1)
    figure = plot_mistakes(MODEL, (DIGITS.images, read))
    assert figure.axes == []
    assert figure.get_suptitle() == "0 of 30 read wrongly (0.00%)"


def test_columns_and_rows_of_probabilities_are_classes() -> None:
    digits = data.synthetic_digits(30)
    model = models.tiny_convnet(seed=0)
    wanted = confusion_matrix(model, digits)
    rows = np.eye(10)[digits.labels] * 0.7 + 0.03
    for targets in (digits.labels[:, None], rows, np.eye(10, dtype=np.int64)[digits.labels]):
        np.testing.assert_array_equal(confusion_matrix(model, (digits.images, targets)), wanted)
        plot_mistakes(model, (digits.images, targets), count=1)
