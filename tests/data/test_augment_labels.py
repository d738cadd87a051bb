"""Augmented digits are still the digits that their labels say."""

import numpy as np
import pytest

from xpcnn.data import Loader, augment, synthetic_digits

MILD = ["shift=1", "rotate=8", "scale=0.1", "shear=8", "elastic=15:4", "crop=1", "brightness=0.3", "cutout=4"]
CHAIN = "shift=1,rotate=5,scale=0.05,elastic=15:4,cutout=3"


@pytest.fixture(scope="module")
def reader():
    """Gives images the label of the nearest of 3000 plain digits."""
    train = synthetic_digits(3000, seed=0)
    known = rows(train.images)
    squares = (known**2).sum(axis=1)
    return lambda images: train.labels[np.argmin(squares - 2 * rows(images) @ known.T, axis=1)]


def rows(images):
    return images.reshape(len(images), -1).astype(np.float32) / 255


@pytest.fixture(scope="module")
def plain(reader):
    test = synthetic_digits(500, seed=1)
    accuracy = (reader(test.images) == test.labels).mean()
    assert accuracy > 0.9, "the reader can read"
    return test, accuracy


@pytest.mark.parametrize("spec", [*MILD, CHAIN])
def test_mildly_augmented_digits_are_still_read(reader, plain, spec):
    test, accuracy = plain
    loader = Loader(test, 100, seed=4, augment=augment.parse(spec))
    read = [(reader(images) == labels) for images, labels in loader]
    assert np.concatenate(read).mean() > accuracy - 0.1


def test_the_reader_notices_labels_that_do_not_belong(reader, plain):
    test, _ = plain
    upside_down = augment.VerticalFlip(1)(test.images, 0)
    assert (reader(upside_down) == test.labels).mean() < 0.5


@pytest.mark.parametrize("spec", [*MILD, CHAIN])
def test_ink_stays_about_what_it_was(spec):
    digits = synthetic_digits(500, seed=2).images
    before, after = (
        images.sum(axis=(1, 2, 3), dtype=float) for images in (digits, augment.parse(spec)(digits, 0))
    )
    assert 0.85 < (after / before).mean() < 1.1
