"""Loader: every sample once, in an order that is a function of seed and epoch alone."""

import re

import numpy as np
import pytest

from xpcnn.data import Dataset, Loader
from xpcnn.errors import ArgumentError

either_order = pytest.mark.parametrize("shuffle", [True, False])


def numbered(n):
    """A dataset whose images carry their own position and whose labels follow from it."""
    images = np.zeros((n, 1, 1, 2), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    return Dataset(images, np.arange(n) % 7, 7, name="numbered")


def positions(images):
    return (images[:, 0, 0].astype(int) @ [1, 256]).tolist()


def seen(batches):
    return [position for images, _ in batches for position in positions(images)]


@either_order
@pytest.mark.parametrize(("n", "size", "sizes"), [(10, 3, [3, 3, 3, 1]), (9, 3, [3, 3, 3]), (2, 5, [2])])
def test_an_epoch_visits_every_sample_exactly_once(shuffle, n, size, sizes):
    loader = Loader(numbered(n), size, shuffle=shuffle)
    for epoch in range(3):
        batches = list(loader.epoch(epoch))
        assert [len(labels) for _, labels in batches] == sizes
        assert len(batches) == len(loader)
        assert sorted(seen(batches)) == list(range(n))
        for images, labels in batches:
            assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
            assert labels.tolist() == [position % 7 for position in positions(images)]
            assert np.shares_memory(images, loader.dataset.images) is not shuffle  # views, or copies


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    first, second = (Loader(numbered(500), 100, seed=3) for _ in range(2))
    list(first.epoch(7))  # no hidden state to disturb
    for epoch in (0, 1, 7):
        np.testing.assert_array_equal(first.order(epoch), second.order(epoch))
    orders = [Loader(numbered(500), seed=seed).order(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    orders.append(Loader(numbered(500), shuffle=False).order(1).tolist())
    assert orders[-1] == list(range(500))
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    # The same in every release.
    assert Loader(numbered(12), seed=1).order(2).tolist() == [3, 6, 7, 0, 11, 5, 8, 4, 1, 9, 10, 2]


def test_shuffling_is_even():
    loader = Loader(numbered(5), 5)
    places = np.stack([loader.order(epoch) for epoch in range(2000)])
    counts = np.stack([(places == sample).sum(axis=0) for sample in range(5)])
    assert abs(counts - 400).max() < 100  # 5.6 standard deviations


@either_order
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("size", [1, 4, 7, 40])
def test_an_epoch_is_finished_with_another_batch_size(shuffle, drop_last, size):
    begun = Loader(numbered(40), 3, shuffle=shuffle, seed=5)
    rest = Loader(begun.dataset, size, shuffle=shuffle, seed=5, drop_last=drop_last)
    first = seen(batch for _, batch in zip(range(5), begun.epoch(2), strict=False))
    batches = list(rest.epoch(2, start=15))
    assert len(batches) == rest.batches(15)
    assert first + seen(batches) == seen(begun.epoch(2))[: 15 + 25 // size * size if drop_last else 40]


def test_each_loop_is_the_next_epoch_and_one_that_was_left_counts():
    loader = Loader(numbered(10), 4)
    expected = [seen(loader.epoch(i)) for i in range(4)]
    assert [seen(loader) for _ in range(2)] == expected[:2]
    next(iter(loader))
    assert seen(loader) == expected[3]
    assert expected[0] != expected[1] != expected[2]


BAD = {
    "Loader: dataset must be a Dataset, got tuple": lambda: Loader((1, 2)),
    "Loader: augment must be callable or None, got str": lambda: Loader(numbered(5), augment="hflip"),
    "Loader: Dataset('numbered', 0 images of (1, 1, 2) uint8, 7 classes) is empty": lambda: Loader(
        numbered(0)
    ),
    "Loader: batch_size must be an integer of at least 1, got 0": lambda: Loader(numbered(5), 0),
    "Loader: batch_size must be an integer of at least 1, got 2.5": lambda: Loader(numbered(5), 2.5),
    "Loader: seed must be an integer of at least 0, got -1": lambda: Loader(numbered(5), seed=-1),
    "Loader: shuffle must be True or False, got 1": lambda: Loader(numbered(5), shuffle=1),
    "batch_size=6 leaves no batch of 5 samples": lambda: Loader(numbered(5), 6, drop_last=True),
    # Before the first batch is asked for.
    "index must be an integer of at least 0, got -1": lambda: Loader(numbered(5)).epoch(-1),
    "start must be an integer of at least 0, got -1": lambda: Loader(numbered(5)).epoch(0, -1),
    "start=6 is beyond its 5 samples": lambda: Loader(numbered(5)).epoch(0, 6),
    "start must be an integer of at least 0, got '1'": lambda: Loader(numbered(5)).batches("1"),
    "start must be an integer of at least 0, got None": lambda: Loader(numbered(5)).batches(None),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        BAD[message]()


# -- augmentation ----------------------------------------------------------------------


def test_the_generator_is_a_function_of_seed_epoch_and_first_sample():
    drawn = []

    def record(images, rng):
        drawn.append(int(rng.integers(2**62)))
        return images

    for seed in (0, 5):
        for epoch in (0, 4):
            list(Loader(numbered(10), 3, seed=seed, augment=record).epoch(epoch))
    assert len(set(drawn)) == len(drawn) == 2 * 2 * 4
    list(Loader(numbered(10), 3, seed=5, augment=record).epoch(4, start=6))
    keys = [np.random.SeedSequence(5, spawn_key=(3, 4, first)) for first in (6, 9)]
    expected = [int(np.random.Generator(np.random.Philox(key)).integers(2**62)) for key in keys]
    assert drawn[-2:] == drawn[-4:-2] == expected


@either_order
@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_an_epoch_resumed_gives_the_same_augmented_batches(shuffle, start):
    def with_noise(images, rng):
        return np.concatenate([images, rng.integers(0, 256, images.shape, np.uint8)], axis=1)

    plain, change = (Loader(numbered(40), 12, shuffle=shuffle, seed=9, augment=a) for a in (None, with_noise))
    whole, rest = list(change.epoch(1)), list(change.epoch(1, start=min(12 * start, 40)))
    assert len(rest) == 4 - start
    for batches in zip(list(plain.epoch(1))[start:], whole[start:], rest, strict=True):
        images, batch, again = (one for one, _ in batches)
        np.testing.assert_array_equal(batch[:, :1], images)
        np.testing.assert_array_equal(batch, again)
        for _, labels in batches:
            assert labels.tolist() == [position % 7 for position in positions(images)]
