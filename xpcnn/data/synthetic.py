"""Digits drawn by the program itself: a data set that needs no network.

Each image draws a writing style for its digit, jitters the style's control points, bends and slants the
curve, scales it to about 20×20 pixels, and inks it with a pen of varying pressure. Everything comes from raw
64-bit random numbers through ``+ - * / sqrt``, which round alike everywhere, so the pixels are the same on
every platform.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xpcnn.arguments import whole
from xpcnn.data._strokes import STYLES
from xpcnn.data.dataset import Dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["synthetic_digits"]

_STREAM = 2  # sets these random numbers apart from others of the same seed
_BLOCK = 250  # images drawn together, always whole, so that a longer set begins with the shorter one
_SIZE = 28
_POINTS = 96  # points that a digit is drawn with, shared among its strokes by length


def synthetic_digits(n: int, seed: int = 0) -> Dataset:
    """Draw `n` handwriting-like digits, white on black as MNIST's.

    Parameters
    ----------
    n : int
        How many, at least 1.
    seed : int
        Not negative. For a training and a test set take two seeds, or slices of one set.

    Returns
    -------
    Dataset
        Images (n, 1, 28, 28) uint8 and labels (n,) int64. Every ten images from the first on hold each digit
        once, in random order. The same `n` and `seed` give the same pixels on every platform, and
        ``synthetic_digits(k, seed)`` is the first k images of ``synthetic_digits(n, seed)``.

    Raises
    ------
    ArgumentError
        ``n < 1`` or a negative seed.

    Examples
    --------
    >>> from xpcnn.data import synthetic_digits
    >>> digits = synthetic_digits(1000)
    >>> digits
    Dataset('synthetic-digits', 1000 images of (1, 28, 28) uint8, 10 classes)
    >>> sorted(int(label) for label in digits.labels[:10])
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    n = whole("synthetic_digits: n", n, 1)
    seed = whole("synthetic_digits: seed", seed, 0)
    images = np.empty((n, 1, _SIZE, _SIZE), np.uint8)
    labels = np.empty(n, np.int64)
    for block, start in enumerate(range(0, n, _BLOCK)):
        drawn, digits = _draw_block(seed, block)
        count = min(_BLOCK, n - start)
        images[start : start + count, 0] = drawn[:count]
        labels[start : start + count] = digits[:count]
    return Dataset(images, labels, classes=10, preparation="mnist-digit", name="synthetic-digits")


class _Random:
    """Numbers made from a bit generator's raw output, which NumPy promises never to change."""

    def __init__(self, seed: int, block: int) -> None:
        self._bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(_STREAM, block)))

    def raw(self, *shape: int) -> NDArray[np.uint64]:
        return self._bits.random_raw(math.prod(shape)).reshape(shape)

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """Evenly spread over 0 … 1."""
        return (self.raw(*shape) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def bell(self, *shape: int) -> NDArray[np.float64]:
        """Bell-shaped over -1 … 1, with standard deviation 1/3: the sum of three uniforms."""
        total: NDArray[np.float64] = self.uniform(*shape) + self.uniform(*shape) + self.uniform(*shape)
        return total * (2 / 3) - 1


class _Styles(NamedTuple):
    """All styles as arrays: every drawn point is a weighted sum of four control points."""

    control: Floats
    """(styles, points at most, 2)"""
    neighbours: NDArray[np.int64]
    weights: Floats
    """(styles, drawn points, 4) both, in drawing order"""
    first: NDArray[np.int64]
    number: NDArray[np.int64]
    """(10,) both: digit d has the ``number[d]`` styles from ``first[d]`` on."""


@cache
def _styles() -> _Styles:
    lines = STYLES.splitlines()
    number = np.bincount([int(line[0]) for line in lines])
    control, neighbours, weights = zip(*(_compile(line[1:]) for line in lines), strict=True)
    padded = np.zeros((len(lines), max(map(len, control)), 2))
    for row, points in zip(padded, control, strict=True):
        row[: len(points)] = points
    return _Styles(padded, np.stack(neighbours), np.stack(weights), np.cumsum(number) - number, number)


def _compile(style: str) -> tuple[Floats, NDArray[np.int64], Floats]:
    """The control points of a style, and of each drawn point its four neighbours and their weights."""
    strokes = [[tuple(map(int, point.split(","))) for point in stroke.split()] for stroke in style.split("/")]
    control = list(dict.fromkeys(point for stroke in strokes for point in stroke))
    lengths = [sum(map(math.dist, stroke[:-1], stroke[1:])) for stroke in strokes]
    counts = [round(_POINTS * length / sum(lengths)) for length in lengths[:-1]]
    counts.append(_POINTS - sum(counts))
    neighbours, positions = [], []
    for stroke, count in zip(strokes, counts, strict=True):
        points = np.array([control.index(point) for point in stroke])
        segments = np.flatnonzero(np.diff(points))  # a corner's has no length and gets no points
        steps = np.arange(count) * len(segments)
        chosen = np.minimum(steps // (count - 1), len(segments) - 1)
        near = np.clip(segments[chosen][:, None] + np.arange(-1, 3), 0, len(points) - 1)
        neighbours.append(points[near])
        positions.append(steps / (count - 1) - chosen)
    t = np.concatenate(positions)
    weights = (((-t + 2) * t - 1) * t, (3 * t - 5) * t * t + 2, ((-3 * t + 4) * t + 1) * t, (t - 1) * t * t)
    return np.array(control) / 100, np.concatenate(neighbours), np.stack(weights, axis=1) / 2


def _draw_block(seed: int, block: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    random, table = _Random(seed, block), _styles()
    labels = np.argsort(random.raw(_BLOCK // 10, 10), axis=1, kind="stable").reshape(-1)
    style = table.first[labels] + (random.uniform(_BLOCK) * table.number[labels]).astype(np.int64)
    x, y = _curves(random, table, style)
    x, y = _bend(random, x, y)
    x, y, scale = _place(random, x, y)
    return _ink(random, x, y, scale), labels


def _curves(random: _Random, table: _Styles, style: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The curves of the chosen styles with jittered control points; x and y (points, images)."""
    control = table.control[style] + 0.115 * random.bell(_BLOCK, *table.control.shape[1:])
    neighbours, weights = table.neighbours[style], table.weights[style]
    points = np.zeros((_BLOCK, _POINTS, 2))
    for k in range(4):
        points += weights[:, :, k, None] * np.take_along_axis(control, neighbours[:, :, k, None], axis=1)
    return points[..., 0].T - 0.5, points[..., 1].T - 0.5


def _bend(random: _Random, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """A smooth quadratic warp, then slant, aspect and rotation."""
    a, b, c, d, e, f = 0.42 * random.bell(6, _BLOCK)
    x, y = x + a * x * x + b * x * y + c * y * y, y + d * x * x + e * x * y + f * y * y
    slant = 0.15 + 0.45 * random.bell(_BLOCK)
    aspect = 0.80 + 0.25 * random.bell(_BLOCK)
    x = aspect * x - slant * y
    half = 0.19 * random.bell(_BLOCK)  # the tangent of half the angle: cosine and sine without calling them
    cosine = (1 - half * half) / (1 + half * half)
    sine = 2 * half / (1 + half * half)
    return cosine * x - sine * y, sine * x + cosine * y


def _place(random: _Random, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Scale the larger side to about 18 pixels and put the middle near the image's; pixel coordinates."""
    left, right, top, bottom = x.min(axis=0), x.max(axis=0), y.min(axis=0), y.max(axis=0)
    scale = (17.5 + 3.0 * random.bell(_BLOCK)) / np.maximum(right - left, bottom - top)
    shift_x, shift_y = (_SIZE - 1) / 2 + 2.2 * random.bell(2, _BLOCK)
    return ((x - (left + right) / 2) * scale + shift_x, (y - (top + bottom) / 2) * scale + shift_y, scale)


def _ink(random: _Random, x: Floats, y: Floats, scale: Floats) -> NDArray[np.uint8]:
    """Ink every pixel by its distance from the nearest point of the curve, over the pen's radius there."""
    radius = 1.25 + 0.65 * random.bell(_BLOCK)
    along = np.linspace(-1, 1, _POINTS)[:, None]
    fade, swell = 0.35 * random.bell(2, _BLOCK)
    pressure = 1 + fade * along + swell * (along * along - 1 / 3)
    inverse = (1 / (radius * pressure)).astype(np.float32)
    pixels = np.arange(_SIZE, dtype=np.float32)[:, None]
    # The images are the last axis, so the inner loops run over 250 of them and the scratch stays in cache.
    nearest = np.full((_SIZE, _SIZE, _BLOCK), np.inf, np.float32)
    squared = np.empty_like(nearest)
    for px, py, scaled in zip(x.astype(np.float32), y.astype(np.float32), inverse, strict=True):
        dx, dy = (pixels - px) * scaled, (pixels - py) * scaled
        np.add((dy * dy)[:, None], (dx * dx)[None], out=squared)
        np.minimum(nearest, squared, out=nearest)
    edge = (0.9 + 0.25 * random.bell(_BLOCK)).astype(np.float32)  # pixels from full ink to none
    cover = (1 - np.sqrt(nearest)) * (radius.astype(np.float32) / edge) + np.float32(0.5)
    peak = (225 + 55 * random.bell(_BLOCK)).astype(np.float32)
    return _grain(random, np.clip(cover, 0, 1) * peak)


def _grain(random: _Random, ink: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Uneven paper: noise of the image's own strength, from four 16-bit numbers a pixel; (images, 28, 28)."""
    raw = random.raw(_SIZE, _SIZE, _BLOCK)
    total = np.zeros(raw.shape, np.float32)
    for bits in (0, 16, 32, 48):
        total += ((raw >> np.uint64(bits)) & np.uint64(0xFFFF)).astype(np.float32)
    noise = total * np.float32(2 / (4 * 65535)) - 1
    strength = (20 + 20 * random.bell(_BLOCK)).astype(np.float32)
    return np.clip(ink + noise * strength, 0, 255).astype(np.uint8).transpose(2, 0, 1)
