"""A labelled set of images in host memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xpcnn.data._check import check_integer
from xpcnn.errors import ArgumentError, DtypeError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Index = slice | Sequence[int] | Sequence[bool] | NDArray[Any]

__all__ = ["Dataset"]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images with one label each, as NumPy arrays.

    Nothing is normalised here: uint8 images stay uint8 until they are on the device.

    Parameters
    ----------
    images : ndarray, shape (N, C, H, W), uint8 or floating
        Kept by reference, not copied.
    labels : ndarray, shape (N,), any integer dtype
        Class numbers in ``0 … classes - 1``; held as int64.
    classes : int
        The number of classes, whether or not all of them occur.
    name : str
        For messages and file names.

    Raises
    ------
    ShapeError
        Images that are not 4-d or have an empty image axis, labels that are not 1-d, different lengths.
    DtypeError
        Something other than a NumPy array, images neither uint8 nor floating, labels that are not integers.
    ArgumentError
        A label outside ``0 … classes - 1``, or ``classes < 1``.

    Notes
    -----
    ``len(dataset)`` is N. ``dataset[i]`` takes a slice (the result holds views), an array of positions or a
    boolean mask (copies), and gives another `Dataset`. ``x, t = dataset`` unpacks images and labels.

    Examples
    --------
    >>> import numpy as np
    >>> from xpcnn.data import Dataset
    >>> digits = Dataset(np.zeros((5, 1, 28, 28), np.uint8), np.array([3, 1, 4, 1, 5]), name="pi")
    >>> digits
    Dataset('pi', 5 images of (1, 28, 28) uint8, 10 classes)
    >>> digits[digits.labels == 1]
    Dataset('pi', 2 images of (1, 28, 28) uint8, 10 classes)
    >>> images, labels = digits[:3]
    >>> labels
    array([3, 1, 4])
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    classes: int = 10
    name: str = "dataset"

    def __post_init__(self) -> None:
        for argument in ("images", "labels"):
            value = getattr(self, argument)
            if not isinstance(value, np.ndarray):
                kind = f"{type(value).__module__}.{type(value).__qualname__}"
                raise DtypeError(
                    f"Dataset: {argument} must be a NumPy array, got {kind}; "
                    f"use xpcnn.to_numpy or numpy.asarray"
                )
        if self.images.ndim != 4 or 0 in self.images.shape[1:]:
            raise ShapeError(
                f"Dataset: images must have shape (N, C, H, W) with C, H, W of at least 1, "
                f"got {self.images.shape}"
            )
        if self.images.dtype != np.uint8 and not np.issubdtype(self.images.dtype, np.floating):
            raise DtypeError(f"Dataset: images must be uint8 or floating, got {self.images.dtype}")
        if self.labels.ndim != 1:
            raise ShapeError(f"Dataset: labels must have shape (N,), got {self.labels.shape}")
        if not np.issubdtype(self.labels.dtype, np.integer):
            raise DtypeError(f"Dataset: labels must be integers, got {self.labels.dtype}")
        if len(self.images) != len(self.labels):
            raise ShapeError(f"Dataset: {len(self.images)} images but {len(self.labels)} labels")
        if not isinstance(self.name, str):
            raise ArgumentError(f"Dataset: name must be a string, got {self.name!r}")
        classes = check_integer("Dataset", "classes", self.classes, minimum=1)
        outside = np.flatnonzero((self.labels < 0) | (self.labels >= classes))
        if outside.size:
            at = int(outside[0])
            raise ArgumentError(
                f"Dataset: labels[{at}] is {self.labels[at]}, outside 0 … {classes - 1} "
                f"({outside.size} such labels, classes={classes})"
            )
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "labels", self.labels.astype(np.int64, copy=False))

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        yield self.images
        yield self.labels

    def __getitem__(self, index: Index) -> Dataset:
        where = index if isinstance(index, slice) else self._positions(index)
        return Dataset(self.images[where], self.labels[where], self.classes, self.name)

    def _positions(self, index: Any) -> NDArray[Any]:
        positions = np.asarray(index)
        if positions.size == 0 and positions.ndim == 1 and positions.dtype != np.bool_:
            positions = positions.astype(np.int64)  # [] would be float64
        if positions.ndim != 1 or positions.dtype.kind not in "iub":
            raise ArgumentError(
                f"Dataset: index with a slice, a 1-d array of positions or a boolean mask, got {index!r}; "
                f"one sample is dataset[i : i + 1]"
            )
        if positions.dtype == np.bool_:
            if len(positions) != len(self):
                raise ShapeError(f"Dataset: a mask of {len(positions)} entries for {len(self)} samples")
        elif positions.size and (positions.min() < -len(self) or positions.max() >= len(self)):
            raise ArgumentError(
                f"Dataset: positions {positions.min()} … {positions.max()} reach outside {len(self)} samples"
            )
        return positions

    def __repr__(self) -> str:
        shape = tuple(self.images.shape[1:])
        kind = f"{shape} {self.images.dtype}"
        return f"Dataset({self.name!r}, {len(self)} images of {kind}, {self.classes} classes)"
