"""Sobel's edge filters: a convolution whose weights nobody had to learn."""

from __future__ import annotations

from typing import Any

import numpy as np

from xpcnn import ops
from xpcnn.backend import asarray, to_numpy
from xpcnn.errors import ShapeError
from xpcnn.viz.canvas import Figure, PathOf, host_array, panels, show, write

__all__ = ["plot_sobel", "sobel"]

# The difference of neighbours along one axis, averaged with weights 1 2 1 along the other.
_ACROSS_ROWS = ((-1.0, -2.0, -1.0), (0.0, 0.0, 0.0), (1.0, 2.0, 1.0))
_ACROSS_COLUMNS = tuple(zip(*_ACROSS_ROWS, strict=True))


def sobel(image: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the horizontal and the vertical edges of an image, each (H − 2, W − 2), with their signs.

    The convolution runs on the current backend, in float32.

    Parameters
    ----------
    image : array (H, W), (C, H, W) or (1, C, H, W)
        uint8 is scaled to [0, 1]; the mean of the channels is taken.

    Returns
    -------
    horizontal : ndarray
        Positive where it gets lighter downwards.
    vertical : ndarray
        Positive where it gets lighter to the right.

    References
    ----------
    Sobel and Feldman, "A 3×3 isotropic gradient operator for image processing", 1968.

    Examples
    --------
    >>> horizontal, vertical = sobel([[0.0, 0.0, 1.0]] * 3)
    >>> horizontal.item(), vertical.item()
    (0.0, 4.0)
    """
    return _responses(_grey(image))


def plot_sobel(image: Any, path: PathOf | None = None) -> Figure:
    """Draw an image, its horizontal and vertical edges as Sobel's kernels find them, and their magnitude.

    Parameters
    ----------
    image : array (H, W), (C, H, W) or (1, C, H, W)
        As `sobel` takes it.
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file.

    Returns
    -------
    matplotlib.figure.Figure
        In the two middle panels mid-grey is 0, on one scale for both; in the magnitude, √(h² + v²), black
        is 0. Under each panel is its kernel.

    Raises
    ------
    ShapeError
        When `image` is not one image, or is smaller than the kernels.

    Examples
    --------
    >>> [axes.get_title() for axes in plot_sobel(np.eye(8)).axes]
    ['image', 'horizontal edges', 'vertical edges', 'magnitude']
    """
    grey = _grey(image)
    horizontal, vertical = _responses(grey)
    magnitude = np.hypot(horizontal, vertical)
    strongest = max(float(np.abs([horizontal, vertical]).max()), 1e-6)
    low, high = float(grey.min()), float(grey.max())
    shown = (
        ("image", grey, low, max(high, low + 1e-6), ""),
        ("horizontal edges", horizontal, -strongest, strongest, _kernel_text(_ACROSS_ROWS)),
        ("vertical edges", vertical, -strongest, strongest, _kernel_text(_ACROSS_COLUMNS)),
        ("magnitude", magnitude, 0.0, max(float(magnitude.max()), 1e-6), ""),
    )
    height, width = grey.shape
    figure, grid = panels(4, 4, 2.6, min(5.2, 2.6 * height / width), top=0.8)
    for axes, (title, picture, low, high, kernel) in zip(grid, shown, strict=True):
        show(axes, picture, low, high)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(kernel, family="monospace", fontsize=8)
    return write(figure, path, "plot_sobel")


def _responses(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Without padding: a border of zeros would be an edge of its own.
    weight = asarray([[_ACROSS_ROWS], [_ACROSS_COLUMNS]], "float32")
    y, _ = ops.conv2d(asarray(grey[None, None], "float32"), weight)
    horizontal, vertical = to_numpy(y)[0]
    return horizontal, vertical


def _grey(image: Any) -> np.ndarray:
    grey = host_array(image)
    scale = 255 if grey.dtype == np.uint8 else 1
    if grey.ndim == 4 and grey.shape[0] == 1:
        grey = grey[0]
    if grey.ndim == 3:
        grey = grey.mean(axis=0)
    if grey.ndim != 2 or min(grey.shape) < 3:
        raise ShapeError(
            f"sobel: image must be one image (H, W), (C, H, W) or (1, C, H, W) of at least 3x3, "
            f"got shape {host_array(image).shape}"
        )
    return grey / scale


def _kernel_text(kernel: tuple[tuple[float, ...], ...]) -> str:
    return "\n".join(" ".join(f"{value:2.0f}" for value in row) for row in kernel).replace("-", "−")
