"""Drawn digits: the same everywhere, prefix-stable, balanced, varied, and shaped like MNIST's."""

import hashlib

import numpy as np
import pytest

from tests.support.files import at_most_mib
from xpcnn.data import synthetic_digits
from xpcnn.errors import ArgumentError


@pytest.fixture(scope="module")
def digits():
    return synthetic_digits(1000)


def test_pixels_are_the_same_on_every_platform_and_release(digits):
    assert digits.images.shape == (1000, 1, 28, 28)
    assert (digits.images.dtype, digits.labels.dtype) == (np.uint8, np.int64)
    assert (digits.classes, digits.name) == (10, "synthetic-digits")
    assert digits.images.flags.c_contiguous
    content = digits.images.tobytes() + digits.labels.astype("<i8").tobytes()
    assert hashlib.sha256(content).hexdigest() == (
        "41bb6eadeab063c6c34161ba76be29d3bf450cf7ba21213a05ab1b2e796283d6"
    )


@pytest.mark.parametrize("k", [1, 250, 251])
def test_a_shorter_set_is_the_beginning_of_a_longer_one(digits, k):
    short = synthetic_digits(k)
    np.testing.assert_array_equal(short.images, digits.images[:k])
    np.testing.assert_array_equal(short.labels, digits.labels[:k])


def test_every_ten_hold_each_digit_once_and_seeds_differ(digits):
    assert (np.sort(digits.labels.reshape(-1, 10), axis=1) == np.arange(10)).all()
    images, others = (
        {image.tobytes() for image in part.images} for part in (digits, synthetic_digits(1000, 1))
    )
    assert len(images | others) == 2000


def test_classes_can_be_told_apart_but_not_by_their_mean_alone():
    train, test = synthetic_digits(2000), synthetic_digits(500, seed=1)
    flat = train.images.reshape(2000, -1).astype(np.float64)
    means = np.stack([flat[train.labels == digit].mean(axis=0) for digit in range(10)])
    distance = ((test.images.reshape(500, 1, -1) - means) ** 2).sum(axis=2)
    accuracy = (distance.argmin(axis=1) == test.labels).mean()
    assert 0.70 < accuracy < 0.88  # MNIST, with as many images: 0.75


def test_scratch_memory_is_bounded():
    with at_most_mib(31):  # 2.3 of which are the images
        synthetic_digits(3000)


def test_bad_arguments_are_named():
    for arguments, name, least in (((0,), "n", 1), ((1.5,), "n", 1), ((5, -1), "seed", 0)):
        message = f"synthetic_digits: {name} must be an integer of at least {least}, got {arguments[-1]}"
        with pytest.raises(ArgumentError, match=message):
            synthetic_digits(*arguments)
