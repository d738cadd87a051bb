"""Deskewing and size normalisation, a pixel or a weight at a time."""

from __future__ import annotations

import math

import numpy as np


def slant_of(image: np.ndarray) -> tuple[float, float]:
    """Return the middle row of an image (C, H, W), and how far rows lie right of the one above, by loops."""
    points = [(i, j, float(value)) for (_, i, j), value in np.ndenumerate(image.astype("float64"))]
    total = sum(value for _, _, value in points) or 1.0
    row, column = (sum(point[axis] * point[2] for point in points) / total for axis in (0, 1))
    spread = sum((i - row) ** 2 * value for i, _, value in points)
    together = sum((i - row) * (j - column) * value for i, j, value in points)
    return row, together / spread if spread > 0 else 0.0


def upright(images: np.ndarray) -> np.ndarray:
    """Shear an image at a time, a row at a time."""
    result = np.zeros(images.shape)
    width = images.shape[3]
    for image, y in zip(images, result, strict=True):
        middle, slant = slant_of(image)
        for c, i, j in np.ndindex(*y.shape):
            place = j + slant * (i - middle)
            left = math.floor(place)
            for column, weight in ((left, left + 1 - place), (left + 1, place - left)):
                if 0 <= column < width:
                    y[c, i, j] += weight * image[c, i, column]
    return result


def resized(line: np.ndarray, size: int) -> np.ndarray:
    """Antialiased linear interpolation of the first axis, a weight at a time."""
    length = len(line)
    scale = length / size
    reach = max(scale, 1.0)
    result = np.zeros((size, *line.shape[1:]))
    for target in range(size):
        middle = (target + 0.5) * scale
        weights = [max(0.0, 1 - abs(place + 0.5 - middle) / reach) for place in range(length)]
        for place, weight in enumerate(weights):
            result[target] += line[place] * weight / sum(weights)
    return result


def normalized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut out, resize and paste, an image at a time."""
    result = np.zeros(images.shape)
    (height, width), (rows, columns) = images.shape[2:], size
    top, left = (height - rows) // 2, (width - columns) // 2
    for image, y in zip(images.astype("float64"), result, strict=True):
        drawn = np.argwhere(image.max(axis=0) > 0.1)
        (r0, c0), (r1, c1) = (drawn.min(0), drawn.max(0)) if len(drawn) else ((0, 0), (height - 1, width - 1))
        for channel, plane in zip(image, y, strict=True):
            box = channel[r0 : r1 + 1, c0 : c1 + 1]
            plane[top : top + rows, left : left + columns] = resized(resized(box, rows).T, columns).T
    return result
