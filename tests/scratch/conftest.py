"""What the tests of the book's names share: a seeded generator, and a MNIST of a few drawn digits."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from xpcnn.data import synthetic_digits
from xpcnn.data.fetch import Source
from xpcnn.data.idx import write_idx

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The book's scripts draw from NumPy's global generator."""
    np.random.seed(0)


@pytest.fixture(scope="session")
def mnist_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``mnist`` with IDX files of 300 training and 100 test digits, and the folder that it is in."""
    root = tmp_path_factory.mktemp("data")
    (root / "mnist").mkdir()
    digits = synthetic_digits(400, seed=5)
    parts = digits[:300], digits[300:]
    contents = [values for part in parts for values in (part.images[:, 0], part.labels.astype(np.uint8))]
    for name, values in zip(FILES, contents, strict=True):
        write_idx(root / "mnist" / name, values)
    return root


@pytest.fixture
def small_mnist(mnist_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Lets `data.mnist` take the small files for the right ones, and find them where $XPCNN_DATA_DIR says."""
    sums = {name: hashlib.sha256((mnist_folder / "mnist" / name).read_bytes()).hexdigest() for name in FILES}
    source = Source("mnist", (), sums)
    monkeypatch.setattr(sys.modules["xpcnn.data.mnist"], "MNIST", source)
    monkeypatch.setenv("XPCNN_DATA_DIR", str(mnist_folder))
    return source
