"""Data sets and batches in host memory (NumPy); nothing here knows of a device.

``mnist()`` and ``fashion_mnist()`` read or fetch the real thing, ``synthetic_digits(n)`` draws digits without
a network, `Dataset` holds images and labels, and `Loader` cuts them into batches.
"""

from xpcnn.data.dataset import Dataset
from xpcnn.data.idx import read_idx
from xpcnn.data.loader import Loader
from xpcnn.data.mnist import fashion_mnist, mnist
from xpcnn.data.synthetic import synthetic_digits

__all__ = ["Dataset", "Loader", "fashion_mnist", "mnist", "read_idx", "synthetic_digits"]
