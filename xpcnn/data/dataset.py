"""A set of images with their targets in host memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xpcnn.arguments import whole
from xpcnn.data.prepare import PREPARATIONS
from xpcnn.errors import ArgumentError, DtypeError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Index = slice | Sequence[int] | Sequence[bool] | NDArray[Any]

__all__ = ["Dataset"]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images with one target each, as NumPy arrays.

    Nothing is normalised here: uint8 images stay uint8 until they are on the device.

    Parameters
    ----------
    images : ndarray, shape (N, C, H, W), uint8 or floating
        Kept by reference, not copied.
    targets : ndarray, shape (N, ...)
        Integers or bools of shape (N,) or (N, 1) are labels: class numbers, held as (N,) int64. All others
        are kept as they are: rows (N, K) of numbers or probabilities, maps (N, H, W).
    classes : int, optional
        The number of classes of labels, whether or not all of them occur; by default as many as there are
        `class_names`, else the largest label + 1. None for targets that are no class numbers.
    class_names : sequence of str, optional
        The name of each class, or of each column of rows.
    preparation : str, optional
        How a picture becomes such an image: "mnist-digit", "crop", "pad" or "squash". A model trained on
        this dataset notes it, and ``xpcnn predict`` prepares pictures likewise.
    name : str
        For messages and file names.

    Raises
    ------
    ShapeError
        Images that are not 4-d or have an empty image axis, targets without an axis, different lengths.
    DtypeError
        Something other than a NumPy array, images neither uint8 nor floating, targets that are no real
        numbers, or class numbers asked for where targets have none.
    ArgumentError
        A label outside ``0 … classes - 1``, ``classes < 1``, or another number of `class_names`.

    Notes
    -----
    ``len(dataset)`` is N. ``dataset[i]`` takes a slice (the result holds views), an array of positions or a
    boolean mask (copies), and gives another `Dataset`. ``x, t = dataset`` unpacks images and targets.

    Examples
    --------
    >>> import numpy as np
    >>> from xpcnn.data import Dataset
    >>> digits = Dataset(np.zeros((5, 1, 28, 28), np.uint8), np.array([3, 1, 4, 1, 5]), 10, name="pi")
    >>> digits
    Dataset('pi', 5 images of (1, 28, 28) uint8, 10 classes)
    >>> digits[digits.labels == 1]
    Dataset('pi', 2 images of (1, 28, 28) uint8, 10 classes)
    >>> images, labels = digits[:3]
    >>> labels
    array([3, 1, 4])
    >>> Dataset(digits.images, np.zeros((5, 2)), name="positions")
    Dataset('positions', 5 images of (1, 28, 28) uint8, targets (2,) float64)
    """

    images: NDArray[Any]
    targets: NDArray[Any]
    classes: int | None = None
    _: KW_ONLY
    class_names: Sequence[str] | None = None
    preparation: str | None = None
    name: str = "dataset"

    def __post_init__(self) -> None:
        images, targets = self.images, self.targets
        for argument, value in (("images", images), ("targets", targets)):
            if not isinstance(value, np.ndarray):
                raise DtypeError(
                    f"Dataset: {argument} must be a NumPy array, got {type(value)}; use xpcnn.to_numpy"
                )
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise ShapeError(f"Dataset: images must be (N, C, H, W), none but N of 0, got {images.shape}")
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise DtypeError(f"Dataset: images must be uint8 or floating, got {images.dtype}")
        if targets.ndim < 1 or 0 in targets.shape[1:]:
            raise ShapeError(f"Dataset: targets must have shape (N, ...), got {targets.shape}")
        if targets.dtype.kind not in "biuf":
            raise DtypeError(f"Dataset: targets must be integers, bools or floats, got {targets.dtype}")
        if len(images) != len(targets):
            raise ShapeError(f"Dataset: {len(images)} images but {len(targets)} targets")
        if self.preparation not in (None, *PREPARATIONS):
            known = ", ".join(map(repr, PREPARATIONS))
            raise ArgumentError(
                f"Dataset: preparation must be None or one of {known}, got {self.preparation!r}"
            )
        self._set_class_names()
        if targets.dtype.kind != "f" and targets.shape[1:] in ((), (1,)):
            self._set_labels()
        elif self.classes is not None:
            raise DtypeError(
                f"Dataset: classes={self.classes!r} is for labels, integers of shape (N,), but targets are "
                f"{targets.dtype} of shape {targets.shape}"
            )

    def _set_class_names(self) -> None:
        if self.class_names is None:
            return
        given, columns = self.class_names, self.targets.shape[1:]
        names = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else None
        if not names or not all(isinstance(name, str) for name in names):
            raise ArgumentError(f"Dataset: class_names must be a sequence of strings, got {given!r}")
        object.__setattr__(self, "class_names", names)
        named = columns[0] if len(columns) == 1 and columns[0] > 1 else self.classes
        if named is not None and named != len(names):
            raise ArgumentError(f"Dataset: {len(names)} class_names for {named} classes")

    def _set_labels(self) -> None:
        labels = self.targets.reshape(-1).astype(np.int64, copy=False)
        object.__setattr__(self, "targets", labels)
        if self.classes is not None:
            classes = whole("Dataset: classes", self.classes, 1)
        elif self.class_names is not None:
            classes = len(self.class_names)
        else:
            if labels.size and labels.min() < 0:
                return  # numbers of another meaning than a class
            classes = int(labels.max(initial=0)) + 1
        outside = np.flatnonzero((labels < 0) | (labels >= classes))
        if outside.size:
            at = int(outside[0])
            raise ArgumentError(
                f"Dataset: labels[{at}] is {labels[at]}, outside 0 … {classes - 1} "
                f"({outside.size} such labels, classes={classes})"
            )
        object.__setattr__(self, "classes", classes)

    @property
    def labels(self) -> NDArray[Any]:
        """The targets by the name that they have where they are class numbers."""
        return self.targets

    def __len__(self) -> int:
        return len(self.targets)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        yield self.images
        yield self.targets

    def __getitem__(self, index: Index) -> Dataset:
        where: Any = index if isinstance(index, slice) else np.asarray(index)
        if not isinstance(where, slice) and where.shape == (0,):
            where = where.astype(np.int64)  # [] would be float64
        if not isinstance(where, slice) and where.ndim != 1:
            raise ArgumentError(
                f"Dataset: index with a slice, a 1-d array of positions or a boolean mask, got {index!r}; "
                f"one sample is dataset[i : i + 1]"
            )
        try:
            return replace(self, images=self.images[where], targets=self.targets[where])
        except IndexError as error:
            raise ArgumentError(f"Dataset of {len(self)} samples: {error}") from None

    def __repr__(self) -> str:
        kind = f"{self.images.shape[1:]} {self.images.dtype}"
        goal = f"targets {self.targets.shape[1:]} {self.targets.dtype}"
        if self.classes is not None:
            goal = f"{self.classes} classes"
        return f"Dataset({self.name!r}, {len(self)} images of {kind}, {goal})"
