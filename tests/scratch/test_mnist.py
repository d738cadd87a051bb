"""load_mnist: its arguments, and the backend it loads to."""

import itertools

import numpy as np
import pytest

from xpcnn import data
from xpcnn.scratch.mnist import load_mnist


@pytest.mark.usefixtures("small_mnist")
def test_every_combination(make):
    for normalize, flatten, one_hot in itertools.product([True, False], repeat=3):
        with make.use():
            found = load_mnist(normalize, flatten, one_hot)
        for (x, t), part in zip(found, data.mnist(), strict=True):
            pixels = part.images.reshape(len(part), 784) if flatten else part.images
            pixels = pixels.astype(np.float32) / 255 if normalize else pixels
            rows = np.eye(10, dtype=np.float32)[part.labels] if one_hot else part.labels
            for array, expected in ((x, pixels), (t, rows)):
                make.check_kind(array, expected.shape, expected.dtype.name)
                np.testing.assert_array_equal(make.to_numpy(array), expected)
                array[...] = 0  # the script's own
