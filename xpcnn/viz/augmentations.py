"""What augmentation makes of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xpcnn.errors import ArgumentError
from xpcnn.viz.canvas import Figure, PathOf, host_array, host_images, mosaic, new_figure, show, write

__all__ = ["plot_augmentations"]


def plot_augmentations(
    transform: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    images: Any,
    path: PathOf | None = None,
    *,
    seed: int = 0,
    samples: int = 8,
) -> Figure:
    """Draw images, and beside each several samples of what a transform makes of it.

    Parameters
    ----------
    transform : callable
        ``transform(images, rng)`` returns new images, as those of `xpcnn.data.augment` do, whose `spec` is
        put over the picture.
    images : array (N, C, H, W)
        uint8 or floating; a row of the picture for each.
    path : path, optional
        Of a ``.png``, ``.svg`` or ``.pdf`` file.
    seed : int
        What the samples are drawn from.
    samples : int
        How many for each image.

    Raises
    ------
    ShapeError
        When the images have another number of axes.
    ArgumentError
        When there are none, or `samples` is below 1.

    Examples
    --------
    >>> from xpcnn import data
    >>> digits = data.synthetic_digits(3).images
    >>> figure = plot_augmentations(data.augment.parse("shift=2,rotate=10"), digits)
    >>> [axes.get_title() for axes in figure.axes]
    ['original', '8 samples of each']
    """
    if not callable(transform):
        raise ArgumentError(f"plot_augmentations: transform must be callable, got {type(transform).__name__}")
    images = np.atleast_1d(host_array(images))
    if samples < 1 or len(images) == 0:
        raise ArgumentError(
            f"plot_augmentations: needs at least 1 image and 1 sample, got {len(images)} and {samples}"
        )
    originals = host_images(images, "plot_augmentations")
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = [host_images(transform(images, rng), "plot_augmentations") for _ in range(samples)]
    rows = np.stack(drawn, axis=1)  # (N, samples, H, W[, 3])
    pictures = (mosaic(originals, columns=1), mosaic(rows.reshape(-1, *originals.shape[1:]), columns=samples))
    titles = ("original", f"{samples} samples of each")
    widths = [picture.shape[1] for picture in pictures]
    scale = 9 / sum(widths)  # inches for a pixel
    figure = new_figure(9.3, 0.8 + scale * pictures[0].shape[0])
    for axes, picture, title in zip(
        figure.subplots(1, 2, width_ratios=widths), pictures, titles, strict=True
    ):
        show(axes, picture)
        axes.set_title(title, fontsize=10)
    figure.suptitle(getattr(transform, "spec", ""), fontsize=11)
    return write(figure, path, "plot_augmentations")
