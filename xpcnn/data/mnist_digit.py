"""A drawn digit as MNIST would have it: white on black, in a box of 20×20, its mass in the middle of 28×28.

A picture says on its border what its ground is: dark or light, even or shaded. A frame around the paper is
taken off first, as it is neither ground nor ink. What differs from the ground by more than its noise is ink.

References
----------
LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998, section
III.A; Otsu, "A threshold selection method from gray-level histograms", 1979.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from xpcnn.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Grey = NDArray[np.float32]

__all__ = ["SIZE", "as_mnist_digit"]

SIZE, _BOX = 28, 20
_CLEAN = 16  # of 255: ground as near to black or white as this is left as it is
_STRONG = 170  # and ink of this contrast as strong as it is
_EVEN = 0.1  # ground that varies by less on the border, as a part of the ink's contrast, is even
_LEAST = 3.0  # grey levels of 255 that ink differs from the ground by
_NOISE = 10.0  # and so many standard deviations of the ground's noise
_PLAIN = 64.0  # but not more than this for the noise
_ONE_SIDED = 2.5  # and so many times what is on the other side of the ground
_RINGING = 0.15  # what is left of a frame, as by JPEG
_SHADOWED = 64  # shadows are looked for on pictures of this many pixels
_FRAME = 0.12  # the part of a side, at each end, that may be a frame


def as_mnist_digit(grey: Grey) -> tuple[NDArray[np.uint8], list[str]]:
    """Return a grey picture (H, W) of 0 … 255 as MNIST would have it, (28, 28) uint8, and what was done.

    A picture of 28×28 keeps its digit's place and size; and its values, where they are white on black or
    black on white. In any other, the digit is cut out, scaled and centred.

    Raises
    ------
    DatasetError
        When nothing can be seen on it.
    """
    placed = grey.shape == (SIZE, SIZE)
    inside, where, edge = _remove_frame(grey)
    steps = ["frame removed"] * (inside is not grey)
    ground = _surface(inside)
    contrast = np.abs(inside - ground).max()
    shaded = bool(np.ptp(ground) > _EVEN * contrast)
    if placed and shaded and contrast < np.ptp(inside) / 4 > _STRONG / 4:
        return np.rint(grey).astype(np.uint8), []  # all shades, and none of them ground or ink
    if not shaded:
        ground[:] = np.median(_border(inside))
    if (ground - inside).max() > (inside - ground).max():  # lighter than what is drawn on it
        inside, ground = 255 - inside, 255 - ground
        steps.append("inverted")
    if min(inside.shape) >= _SHADOWED and _is_uneven(inside - ground):
        opened = _opening(inside)
        if (inside - opened).max() > _ONE_SIDED * (opened - inside).max():  # else it took strokes for paper
            ground, shaded = opened, True
    ink = inside - ground
    if not _is_visible(ink, edge):
        raise DatasetError("nothing to see on it")
    if edge:
        outer = _outliers(ink > _threshold(ink), True)  # what rounded corners left
        inside[outer], ink[outer] = ground[outer], 0
    if placed and not shaded and ground[0, 0] <= _CLEAN and ink.max() >= _STRONG:
        ink = inside
    else:
        ink = np.maximum(ink - min(2 * _spread(_border(ink)), ink.max() / 2), 0)
        ink *= 255 / ink.max()
        steps += ["shading removed"] * shaded + ["contrast raised"] * placed
    if not placed:
        return _center(_fit_box(ink)), [*steps, "cropped"]
    whole = np.zeros_like(grey)
    whole[where] = ink
    return np.rint(whole).astype(np.uint8), steps


# -- the ground ------------------------------------------------------------------------


def _border(grey: Grey) -> Grey:
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def _remove_frame(grey: Grey) -> tuple[Grey, tuple[slice, slice], float]:
    """Return the paper without a frame or edges of another grey, where it is, and how much they differ.

    A frame is on three sides or more: lines near the edge are of another grey than even lines further in.
    What an uneven or round one leaves at the paper's edge becomes paper. On fewer sides, only lines from
    corner to corner are edges, and one of them must touch nothing: a scan's shadow, not the bar of a seven.
    """
    sides = [_frame_side(lines) for lines in _from_sides(grey)]
    is_frame = sum(side.width > 0 for side in sides) >= 3
    are_edges = any(side.whole and side.apart for side in sides)
    widths = [side.width if is_frame or (are_edges and side.whole) else 0 for side in sides]
    levels = [(side.frame, side.paper) for side, width in zip(sides, widths, strict=True) if width]
    frame, paper = np.median(levels, axis=0) if levels else (0.0, 0.0)
    if frame == paper:
        return grey, (slice(None), slice(None)), 0
    top, bottom, left, right = widths
    where = slice(top, grey.shape[0] - bottom), slice(left, grey.shape[1] - right)
    inside = grey[where].copy()
    for lines in _from_sides(inside) if is_frame else ():
        near = lines[: _depth(lines)]
        for corner in near[:, : _depth(lines.T)], near[:, -_depth(lines.T) :]:
            corner[(corner - paper) / (frame - paper) > 0.125] = paper
        framed = np.logical_and.accumulate((near - paper) / (frame - paper) > 0.25, axis=0)
        framed[1:] |= framed[:-1]  # blurred
        behind = np.minimum(framed.sum(axis=0), len(near) - 1)
        near[framed] = np.broadcast_to(near[behind, np.arange(near.shape[1])], near.shape)[framed]
    return inside, where, abs(float(frame - paper))


class _Side(NamedTuple):
    """How many lines of a side are a frame, its grey and the paper's; if it is whole, and touches nothing."""

    width: int = 0
    frame: float = 0.0
    paper: float = 0.0
    whole: bool = False
    apart: bool = False


def _frame_side(lines: Grey) -> _Side:
    margin = lines.shape[1] // 8  # where the frame's other sides may be
    near = lines[: _depth(lines) + 1, margin : lines.shape[1] - margin]
    levels = np.median(near, axis=1)
    contrast = max(np.ptp(np.percentile(lines, (1, 99))), np.ptp(levels))  # the edge may be thin
    even = np.flatnonzero((np.abs(near - levels[:, None]) < contrast / 4).mean(axis=1) >= 0.9)
    if not even.size:
        return _Side()
    paper = levels[even[-1]]
    differ = np.flatnonzero(np.abs(levels[: even[-1]] - paper) > contrast / 8)
    if not differ.size:
        return _Side()
    width = int(differ[-1]) + 1
    frame = levels[width - 1]
    blurred = abs(levels[width] - paper) > contrast / 10
    middle = (frame + paper) / 2
    corners = ((lines[0] < middle) == (frame < paper)).mean()
    behind = ((near[width + blurred] < middle) == (paper < frame)).mean()
    return _Side(width + blurred, frame, paper, corners > 0.98, behind > 0.98)


def _from_sides(picture: NDArray[Any]) -> list[NDArray[Any]]:
    """Return views whose first lines are the picture's top, bottom, left and right."""
    return [picture, picture[::-1], picture.T, picture.T[::-1]]


def _depth(lines: NDArray[Any]) -> int:
    return math.ceil(_FRAME * len(lines))


def _is_uneven(ink: Grey) -> bool:
    border = _border(ink)
    low, high = np.percentile(border, (5, 95))
    # Two thirds of a standard deviation, from neighbour to neighbour.
    noise = np.median(np.abs(np.diff(border)))
    return bool(high - low > _EVEN * ink.max() + 4 * noise)


def _surface(grey: Grey) -> Grey:
    """Return smooth shading: the quadratic surface that is nearest to the border, by absolute differences."""
    y, x = (np.linspace(-1, 1, size) for size in grey.shape)
    terms = np.stack(np.broadcast_arrays(1, x, y[:, None], x**2, y[:, None] ** 2, x * y[:, None]), axis=-1)
    known = np.concatenate([terms[0], terms[-1], terms[:, 0], terms[:, -1]])
    values, weights = _border(grey), 1.0
    for _ in range(20):  # reweighted least squares: ink on the border counts for less and less
        fit = np.linalg.lstsq(known * np.reshape(weights, (-1, 1)), values * weights, rcond=None)[0]
        weights = 1 / np.sqrt(np.maximum(np.abs(values - known @ fit), 1))
    return np.asarray(terms @ fit, np.float32)


def _opening(grey: Grey) -> Grey:
    """Return what a dark paper with shadows looks like without the light strokes on it.

    The darkest value near each pixel, then the lightest of these (a morphological opening): a fifth of the
    picture is wider than a stroke, and narrower than a shadow.
    """
    from PIL import Image, ImageFilter

    picture = Image.fromarray(grey)
    coarse = picture.reduce(max(1, round(max(grey.shape) / 64))).convert("L")
    window = max(coarse.size) // 5 // 2 * 2 + 1
    coarse = coarse.filter(ImageFilter.MinFilter(window)).filter(ImageFilter.MaxFilter(window))
    coarse = coarse.filter(ImageFilter.GaussianBlur(window / 3))
    return np.asarray(coarse.resize(picture.size, Image.Resampling.BILINEAR), dtype=np.float32)


# -- the ink ---------------------------------------------------------------------------


def _is_visible(ink: Grey, edge: float) -> bool:
    """Return whether there is more than noise, judged by means of 3×3 pixels.

    Noise is as dark as it is light; ink is on one side of the ground. Of a frame that differed by `edge`,
    something is left near: what was round, or JPEG's on blocks of 8 pixels.
    """
    smooth = sliding_window_view(np.pad(ink, 1, mode="edge"), (3, 3)).mean(axis=(2, 3))
    border = _border(smooth)
    ground = np.median(border)
    if edge:
        left = smooth - ground < _RINGING * edge
        top, side = (max(8, math.ceil(_FRAME * size)) for size in ink.shape)
        left[top:-top, side:-side] = False
        smooth[left] = ground
    even = np.ptp(_border(ink)) == 0  # drawn by a program
    least = max(
        _LEAST / 3 if even else _LEAST,
        min(_NOISE * _spread(border), _PLAIN),
        _ONE_SIDED * float(ground - smooth.min()),
    )
    return bool(smooth.max() - ground > least)


def _spread(values: Grey) -> float:
    """Return the standard deviation of normal noise, from those of the values that are no ink."""
    low, middle = np.percentile(values, (16, 50))
    return float(middle - low)


def _fit_box(ink: Grey) -> Grey:
    """Return what was drawn, cut out and scaled to 20 pixels on its longer side."""
    from PIL import Image

    drawn = ink > _threshold(ink)
    drawn &= ~_outliers(drawn, False)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(_BOX * size / max(cut.shape))) for size in cut.shape)
    boxed = np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.BILINEAR))
    return np.asarray(np.clip(boxed * (255 / boxed.max()), 0, 255))


def _outliers(drawn: NDArray[np.bool_], framed: bool) -> NDArray[np.bool_]:
    """Return what is drawn near the edge apart from the rest: where no frame was, on three sides or more."""
    from PIL import Image, ImageFilter

    inner = np.zeros_like(drawn)
    top, left = (math.ceil(_FRAME * size) for size in drawn.shape)
    inner[top:-top, left:-left] = drawn[top:-top, left:-left]
    count = 0
    while count != (count := int(inner.sum())):  # grows to all that hangs together with it
        grown = Image.fromarray(inner.astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
        inner = drawn & (np.asarray(grown) > 0)
    outer = drawn & ~inner
    sides = [lines[: _depth(lines)].any(axis=0).mean() > 0.6 for lines in _from_sides(outer)]
    return outer if inner.any() and (framed or sum(sides) >= 3) else np.zeros_like(drawn)


def _threshold(ink: Grey) -> float:
    """Return the value that parts light from dark best: Otsu's, of the largest variance between the two."""
    fractions, edges = np.histogram(ink, bins=256, range=(0, ink.max()))
    fractions = fractions / ink.size
    middles = (edges[1:] + edges[:-1]) / 2
    below, moment = np.cumsum(fractions)[:-1], np.cumsum(fractions * middles)[:-1]
    mean = float(fractions @ middles)
    variance = (mean * below - moment) ** 2 / np.maximum(below * (1 - below), 1e-12)
    return float(edges[1 + int(np.argmax(variance))])


def _center(boxed: Grey) -> NDArray[np.uint8]:
    """Return the picture on black, (28, 28) uint8, its centre of mass in the middle."""
    margins = []
    for axis, size in enumerate(boxed.shape):
        mass = boxed.sum(axis=1 - axis) @ np.arange(size) / boxed.sum()
        before = min(max(round((SIZE - 1) / 2 - float(mass)), 0), SIZE - size)
        margins.append((before, SIZE - size - before))
    return np.pad(np.rint(boxed).astype(np.uint8), margins)
