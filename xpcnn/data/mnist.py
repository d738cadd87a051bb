"""MNIST and Fashion-MNIST, which share file names and shapes."""

import os

from xpcnn.data.dataset import Dataset
from xpcnn.data.fetch import Source, load_file
from xpcnn.data.idx import parse_idx

__all__ = ["fashion_mnist", "mnist"]

_SIZES = {
    "train-images-idx3-ubyte": 16 + 60000 * 28 * 28,
    "train-labels-idx1-ubyte": 8 + 60000,
    "t10k-images-idx3-ubyte": 16 + 10000 * 28 * 28,
    "t10k-labels-idx1-ubyte": 8 + 10000,
}

MNIST = Source(
    name="mnist",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://raw.githubusercontent.com/fgnt/mnist/master/",
    ),
    sha256={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    folders=("mnist", "MNIST/raw", "MNIST"),
    sizes=_SIZES,
)

FASHION_MNIST = Source(
    name="fashion-mnist",
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
    ),
    sha256={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    folders=("fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion-mnist/data/fashion"),
    sizes=_SIZES,
)


def mnist(root: str | os.PathLike[str] | None = None) -> tuple[Dataset, Dataset]:
    """MNIST: 60,000 training and 10,000 test images of handwritten digits.

    The files (``train-images-idx3-ubyte`` or ``train-images.idx3-ubyte`` and so on, with or without ``.gz``)
    are looked for in ``$XPCNN_DATA_DIR`` and its folders ``mnist``, ``MNIST/raw``, ``MNIST`` and ``raw``,
    then in the user cache, then fetched from mirrors into the cache. Each is accepted only if the SHA-256 of
    its decompressed content is the known one.

    Parameters
    ----------
    root : path-like, optional
        Look under `root` and nowhere else; nothing is fetched.

    Returns
    -------
    train, test : Dataset
        Images (N, 1, 28, 28) uint8, white on black, and labels (N,) int64 in 0 … 9.

    Raises
    ------
    DatasetError
        A file that is missing, damaged, or that no mirror gave.

    Examples
    --------
    >>> from xpcnn.data import mnist
    >>> train, test = mnist()                                   # doctest: +SKIP
    >>> train                                                   # doctest: +SKIP
    Dataset('mnist-train', 60000 images of (1, 28, 28) uint8, 10 classes)
    """
    return _load(MNIST, "train", root), _load(MNIST, "t10k", root)


def fashion_mnist(root: str | os.PathLike[str] | None = None) -> tuple[Dataset, Dataset]:
    """Fashion-MNIST: as MNIST, with ten kinds of clothing in place of the digits.

    Parameters
    ----------
    root : path-like, optional
        Look under `root` and nowhere else; nothing is fetched. Without it, as `mnist`; the folders are called
        ``fashion-mnist`` and ``FashionMNIST``.

    Returns
    -------
    train, test : Dataset
        Images (N, 1, 28, 28) uint8 and labels (N,) int64: T-shirt, trouser, pullover, dress, coat, sandal,
        shirt, sneaker, bag, ankle boot.

    Raises
    ------
    DatasetError
        A file that is missing, damaged, or that no mirror gave.

    Examples
    --------
    >>> from xpcnn.data import fashion_mnist
    >>> train, test = fashion_mnist()                           # doctest: +SKIP
    >>> len(train), len(test)                                   # doctest: +SKIP
    (60000, 10000)
    """
    return _load(FASHION_MNIST, "train", root), _load(FASHION_MNIST, "t10k", root)


def _load(source: Source, part: str, root: str | os.PathLike[str] | None) -> Dataset:
    files = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    images, labels = (parse_idx(load_file(source, file, root), file) for file in files)
    name = f"{source.name}-{'test' if part == 't10k' else part}"
    preparation = "mnist-digit" if source is MNIST else None
    return Dataset(images[:, None], labels, classes=10, preparation=preparation, name=name)
