"""Data sets and batches in host memory (NumPy); nothing here knows of a device.

``mnist()`` and ``fashion_mnist()`` read or fetch the real thing, ``synthetic_digits(n)`` draws digits without
a network, `Dataset` holds images and labels, and `Loader` cuts them into batches, which the transforms of
`augment` may change.
"""

from typing import TYPE_CHECKING

from xpcnn.data.catalog import load_dataset, register_dataset
from xpcnn.data.dataset import Dataset
from xpcnn.data.idx import read_idx
from xpcnn.data.loader import Loader
from xpcnn.data.mnist import fashion_mnist, mnist
from xpcnn.data.synthetic import synthetic_digits
from xpcnn.lazy import lazily

if TYPE_CHECKING:
    from xpcnn.data import augment

__getattr__ = lazily(__name__, {__name__: "augment"})

__all__ = [
    "Dataset",
    "Loader",
    "augment",
    "fashion_mnist",
    "load_dataset",
    "mnist",
    "read_idx",
    "register_dataset",
    "synthetic_digits",
]
