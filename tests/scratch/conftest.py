"""What the tests of the book's names share: a seeded generator, and a MNIST of a few drawn digits."""

import hashlib
import sys
from dataclasses import replace

import numpy as np
import pytest

from xpcnn.data import synthetic_digits
from xpcnn.data.idx import write_idx
from xpcnn.data.mnist import MNIST


@pytest.fixture(autouse=True)
def _seeded():
    """The book's scripts draw from NumPy's global generator."""
    np.random.seed(0)


@pytest.fixture(scope="session")
def mnist_folder(tmp_path_factory):
    """A folder ``mnist`` with IDX files of 300 training and 100 test digits."""
    folder = tmp_path_factory.mktemp("data") / "mnist"
    folder.mkdir()
    digits = synthetic_digits(400, seed=5)
    for part, name in ((digits[:300], "train"), (digits[300:], "t10k")):
        write_idx(folder / f"{name}-images-idx3-ubyte", part.images[:, 0])
        write_idx(folder / f"{name}-labels-idx1-ubyte", part.labels.astype(np.uint8))
    return folder


@pytest.fixture
def small_mnist(mnist_folder, monkeypatch):
    """Lets `data.mnist` take the small files for the right ones, and find them where $XPCNN_DATA_DIR says."""
    files = {name: (mnist_folder / name).read_bytes() for name in MNIST.sha256}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    sizes = {name: len(content) for name, content in files.items()}
    source = replace(MNIST, mirrors=(), sha256=sums, sizes=sizes)
    monkeypatch.setattr(sys.modules["xpcnn.data.mnist"], "MNIST", source)
    monkeypatch.setenv("XPCNN_DATA_DIR", str(mnist_folder.parent))
