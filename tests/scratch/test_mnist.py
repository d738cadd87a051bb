"""load_mnist: its arguments, and the backend it loads to."""

import numpy as np
import pytest

from xpcnn import data
from xpcnn.scratch.mnist import load_mnist

pytestmark = pytest.mark.usefixtures("small_mnist")


def test_the_defaults_are_the_books_and_the_arrays_the_scripts_own():
    (x_train, t_train), (x_test, t_test) = load_mnist()
    train, test = data.mnist()
    assert (x_train.shape, x_test.shape) == ((300, 784), (100, 784))
    assert (x_train.dtype, t_train.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(x_train, train.images.reshape(300, 784).astype(np.float32) / 255)
    np.testing.assert_array_equal(t_test, test.labels)
    assert x_train.max() == 1.0
    for normalize in (True, False):
        (x, t), _ = load_mnist(normalize)
        x[...] = 0
        t[...] = 0
    assert load_mnist()[0][0].any()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("one_hot", [True, False])
def test_every_combination(make, normalize, flatten, one_hot):
    with make.use():
        found = load_mnist(normalize, flatten, one_hot)
    for (x, t), part in zip(found, data.mnist(), strict=True):
        pixels = part.images.reshape(len(part), 784) if flatten else part.images
        pixels = pixels.astype(np.float32) / 255 if normalize else pixels
        rows = np.eye(10, dtype=np.float32)[part.labels] if one_hot else part.labels
        for array, expected in ((x, pixels), (t, rows)):
            make.check_kind(array, expected.shape, expected.dtype.name)
            np.testing.assert_array_equal(make.to_numpy(array), expected)
