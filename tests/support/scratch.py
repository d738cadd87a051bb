"""Drawn numbers, and derivatives of whatever a layer computes."""

from typing import Any

import numpy as np

from tests.support import oracles

Array = np.ndarray[Any, Any]


def draw(*shape, dtype="float64", seed=0):
    """Normal numbers, a function of shape and seed alone; none within 1e-3 of 0, where relu has a kink."""
    drawn = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return (drawn + np.where(drawn < 0, -1e-3, 1e-3)).astype(dtype)


def slope_at(f, at, dout):
    """The derivative of ``Σ dout·f(at)`` by finite differences; `f` takes and gives NumPy arrays."""
    return oracles.numeric_gradient(lambda x: float(np.sum(dout * f(x))), at)


def writable(make, values, dtype=None):
    """An array of the backend that may be changed in place, where `make` otherwise makes read-only ones."""
    array = make.array(values, dtype)
    if make.readonly:
        array.flags.writeable = True
    return array


TINY = {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1}
"""The convolution of a small `SimpleConvNet`."""

LABEL_FORMS = {
    "labels": lambda labels, _: labels,
    "uint8 labels": lambda labels, _: labels.astype(np.uint8),
    "a column": lambda labels, _: labels[:, None],
    "one-hot": lambda labels, classes: np.eye(classes)[labels],
    "one-hot float32": lambda labels, classes: np.eye(classes, dtype=np.float32)[labels],
    "one-hot integers": lambda labels, classes: np.eye(classes, dtype=np.int64)[labels],
    "one-hot bool": lambda labels, classes: np.eye(classes, dtype=bool)[labels],
}
"""What labels may be given as, made of labels (N,) and the number of classes."""
