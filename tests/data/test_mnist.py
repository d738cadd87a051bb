"""MNIST itself, where its files are at hand."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from xpcnn.data import fashion_mnist, mnist
from xpcnn.data.mnist import FASHION_MNIST, MNIST
from xpcnn.errors import DatasetError

FOLDER = Path(os.environ.get("XPCNN_DATA_DIR", "nowhere"))


def needs(name):
    found = list((FOLDER / name).glob("t10k-images-idx3-ubyte*"))
    return pytest.mark.skipif(not found, reason=f"no {name} under $XPCNN_DATA_DIR")


LOADERS = [
    pytest.param(mnist, [5, 0, 4, 1, 9], marks=needs("mnist")),
    pytest.param(fashion_mnist, [9, 0, 0, 3, 0], marks=needs("fashion-mnist")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("load", "first"), LOADERS)
def test_the_real_data(load, first):
    train, test = load()
    assert (train.images.shape, test.images.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert train.images.dtype == np.uint8
    assert train.labels[:5].tolist() == first
    assert [np.unique(part.labels).tolist() for part in (train, test)] == [list(range(10))] * 2
    assert (train.name, test.name) == (f"{train.name[:-6]}-train", f"{train.name[:-6]}-test")
    assert train.images.max() == 255


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(DatasetError, match=r"^fashion-mnist: no train-images-idx3-ubyte .* holds nothing$"):
        fashion_mnist(tmp_path)
    (tmp_path / "a\n\x1b[31m").touch()
    with pytest.raises(DatasetError, match=r"^mnist: .*, \S*/MNIST/raw, .* holds 'a\\n\\x1b\[31m'$"):
        mnist(tmp_path)
    for root in ("n" * 5000, "a\0b"):
        with pytest.raises(DatasetError, match=r"(?s)no train-images-idx3-ubyte .*none of these is a folder"):
            mnist(root)

    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(DatasetError, match="holds what cannot be read: Permission denied"):
        mnist(tmp_path)


@pytest.mark.parametrize("source", [MNIST, FASHION_MNIST], ids=lambda source: source.name)
def test_sources_are_well_formed(source):
    assert len(source.mirrors) >= 3
    assert all(re.fullmatch(r"https://.*/", mirror) for mirror in source.mirrors)
    assert not any("lecun" in mirror for mirror in source.mirrors)  # answers 403
    assert source.sizes.keys() == source.sha256.keys()
    assert len(set(source.sha256.values())) == 4
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in source.sha256.values())
