"""The book's ``dataset/mnist.py``."""

from __future__ import annotations

import numpy

from xpcnn import data
from xpcnn.backend import Array, asarray

__all__ = ["load_mnist"]

Part = tuple[Array, Array]


def load_mnist(
    normalize: bool = True, flatten: bool = True, one_hot_label: bool = False
) -> tuple[Part, Part]:
    """Return MNIST as arrays of the current backend.

    The files are found, or fetched from mirrors and checked, by `xpcnn.data.mnist`.

    Parameters
    ----------
    normalize : bool
        Pixels as float32 in [0, 1], instead of uint8 in 0 … 255.
    flatten : bool
        Images as (N, 784), instead of (N, 1, 28, 28).
    one_hot_label : bool
        Labels as float32 rows (N, 10), instead of int64 numbers (N,).

    Returns
    -------
    (x_train, t_train), (x_test, t_test)
        60,000 and 10,000 samples.

    Raises
    ------
    DatasetError
        A file that is missing, damaged, or that no mirror gave.

    Examples
    --------
    >>> from xpcnn.scratch.mnist import load_mnist
    >>> (x_train, t_train), (x_test, t_test) = load_mnist()        # doctest: +SKIP
    >>> x_train.shape                                               # doctest: +SKIP
    (60000, 784)
    """
    train, test = (_arrays(part, normalize, flatten, one_hot_label) for part in data.mnist())
    return train, test


def _arrays(part: data.Dataset, normalize: bool, flatten: bool, one_hot_label: bool) -> Part:
    images, labels = part
    if normalize:
        images = images.astype(numpy.float32) / 255
    if flatten:
        images = images.reshape(len(images), -1)
    if one_hot_label:
        labels = numpy.eye(10, dtype=numpy.float32)[labels]
    return asarray(images), asarray(labels)
