"""How each digit is written: its styles, each a few strokes given by control points.

A stroke is a Catmull–Rom curve through its points; a point written twice in a row makes a corner. Equal
points within one style are one point, so strokes that meet stay joined when the points are jittered.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["POINTS", "Styles", "styles"]

POINTS = 96  # points that a digit is drawn with, shared among its strokes by length

# One string a style: points "x,y" in hundredths of the box, x rightwards and y downwards; "/" parts strokes.
_STYLES: dict[int, tuple[str, ...]] = {
    0: (
        "52,0 24,12 10,50 24,88 50,100 76,88 90,50 76,12 52,0",
        "66,8 40,2 18,26 12,62 30,95 60,94 84,66 86,28 66,6 48,10",
        "60,0 34,20 20,56 28,92 48,98 70,74 80,36 74,6 60,0",
    ),
    1: (
        "50,0 50,35 50,70 50,100",
        "30,24 42,14 54,0 54,0 53,35 52,70 52,100",
        "28,22 42,12 52,0 52,0 52,50 52,100 / 26,100 52,100 78,100",
        "62,0 54,34 46,68 38,100",
    ),
    2: (
        "14,24 26,6 52,0 78,12 80,34 60,60 34,82 12,100 12,100 50,98 90,98",
        "12,20 36,2 68,6 78,30 62,62 36,90 16,94 14,80 32,76 58,92 92,94",
        "16,10 46,2 76,8 74,34 46,66 14,96 14,96 54,92 86,96",
    ),
    3: (
        "16,14 40,0 74,8 76,30 56,44 40,47 40,47 62,49 84,66 76,92 44,100 12,88",
        "18,4 50,2 80,2 80,2 60,22 44,40 44,40 70,44 84,66 70,92 40,100 14,90",
        "22,10 48,0 70,14 62,36 42,46 66,54 76,76 56,96 30,98 12,86",
    ),
    4: (
        "22,0 18,26 14,50 14,50 44,52 84,48 / 72,2 70,34 66,68 64,100",
        "66,0 40,32 10,66 10,66 50,66 92,64 / 66,0 66,32 66,66 64,100",
        "16,4 12,34 28,52 54,46 78,28 / 82,0 78,28 72,64 66,100",
    ),
    5: (
        "84,0 52,1 24,2 24,2 20,22 18,42 18,42 48,36 78,50 82,76 60,96 30,100 10,88",
        "26,4 22,24 20,44 20,44 52,38 78,54 76,82 50,100 14,94 / 26,4 54,6 88,0",
        "80,4 50,2 28,14 24,36 46,48 68,62 66,86 40,100 14,90",
    ),
    6: (
        "66,0 38,18 18,50 16,82 40,100 70,92 80,70 62,52 36,58 18,78",
        "44,0 30,32 20,66 30,94 56,98 74,78 62,58 40,60 24,80",
        "80,4 50,8 24,34 12,68 30,96 62,98 84,78 72,56 42,54 18,70",
    ),
    7: (
        "12,6 48,4 86,4 86,4 66,36 50,68 40,100",
        "12,8 48,3 84,4 84,4 64,36 48,68 40,100 / 30,54 54,52 78,50",
        "14,24 16,6 16,6 50,8 86,2 86,2 68,30 58,64 54,100",
        "10,12 34,2 66,8 82,16 70,42 52,70 36,100",
    ),
    8: (
        "74,12 46,0 22,16 34,38 62,54 80,76 58,98 28,94 20,72 42,52 70,34 76,12",
        "50,0 24,10 26,36 50,47 74,36 76,10 50,0 / 50,47 20,58 18,88 50,100 82,88 80,58 50,47",
        "82,10 52,2 30,20 46,42 58,60 62,84 42,100 24,84 36,62 62,42 84,14",
    ),
    9: (
        "78,20 54,0 24,10 18,36 42,52 68,42 78,18 78,18 76,44 72,72 70,100",
        "76,16 48,0 22,18 26,44 52,50 74,32 78,14 80,42 74,76 54,98 22,94",
        "74,10 46,4 26,22 36,42 60,36 76,10 66,44 54,74 44,100",
        "80,12 50,2 20,16 24,42 56,46 80,26 80,12 78,50 56,86 34,100",
    ),
}


class Styles(NamedTuple):
    """All styles as arrays: every drawn point is a weighted sum of four control points.

    Shapes, for S styles of up to K control points: control (S, K, 2), neighbours and weights (S, POINTS, 4)
    in drawing order, first and number (10,): digit d has the ``number[d]`` styles from ``first[d]`` on.
    """

    control: NDArray[np.float64]
    neighbours: NDArray[np.int64]
    weights: NDArray[np.float64]
    first: NDArray[np.int64]
    number: NDArray[np.int64]


def styles() -> Styles:
    """Work the table out into arrays."""
    number = np.array([len(_STYLES[digit]) for digit in range(10)])
    compiled = [_compile(style) for digit in range(10) for style in _STYLES[digit]]
    control, neighbours, weights = zip(*compiled, strict=True)
    most = max(map(len, control))
    padded = [np.pad(points, ((0, most - len(points)), (0, 0))) for points in control]
    return Styles(
        np.stack(padded), np.stack(neighbours), np.stack(weights), np.cumsum(number) - number, number
    )


def _compile(style: str) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """The control points of a style, and of each drawn point its four neighbours and their weights."""
    strokes = [[tuple(map(int, point.split(","))) for point in stroke.split()] for stroke in style.split("/")]
    control = list(dict.fromkeys(point for stroke in strokes for point in stroke))
    lengths = [sum(map(math.dist, stroke[:-1], stroke[1:])) for stroke in strokes]
    counts = [round(POINTS * length / sum(lengths)) for length in lengths[:-1]]
    counts.append(POINTS - sum(counts))
    neighbours, weights = [], []
    for stroke, count in zip(strokes, counts, strict=True):
        points = np.array([control.index(point) for point in stroke])
        segments = np.flatnonzero(np.diff(points))  # a corner's has no length and gets no points
        steps = np.arange(count) * len(segments)
        chosen = np.minimum(steps // (count - 1), len(segments) - 1)
        t = steps / (count - 1) - chosen
        near = np.clip(segments[chosen][:, None] + np.arange(-1, 3), 0, len(points) - 1)
        neighbours.append(points[near])
        weights.append(
            [
                ((-t + 2) * t - 1) * t / 2,
                ((3 * t - 5) * t * t + 2) / 2,
                ((-3 * t + 4) * t + 1) * t / 2,
                (t - 1) * t * t / 2,
            ]
        )
    return np.array(control) / 100, np.concatenate(neighbours), np.hstack(weights).T
