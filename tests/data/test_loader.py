"""Loader: every sample once, in an order that is a function of seed and epoch alone."""

import re

import numpy as np
import pytest

from xpcnn.data import Dataset, Loader, augment
from xpcnn.errors import ArgumentError


def numbered(n):
    """A dataset whose images carry their own position and whose labels follow from it."""
    images = np.zeros((n, 1, 1, 2), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    return Dataset(images, np.arange(n) % 7, 7, name="numbered")


def positions(images):
    return (images[:, 0, 0].astype(int) @ [1, 256]).tolist()


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("n", "size", "sizes"), [(10, 3, [3, 3, 3, 1]), (9, 3, [3, 3, 3]), (2, 5, [2])])
def test_an_epoch_visits_every_sample_exactly_once(shuffle, n, size, sizes):
    loader = Loader(numbered(n), size, shuffle=shuffle)
    for epoch in range(3):
        batches = list(loader.epoch(epoch))
        assert [len(labels) for _, labels in batches] == sizes
        assert len(batches) == len(loader)
        assert sorted(position for images, _ in batches for position in positions(images)) == list(range(n))
        for images, labels in batches:
            assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
            assert labels.tolist() == [position % 7 for position in positions(images)]


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    first, second = (Loader(numbered(500), 100, seed=3) for _ in range(2))
    list(first.epoch(7))  # no hidden state to disturb
    for epoch in (0, 1, 7):
        np.testing.assert_array_equal(first.order(epoch), second.order(epoch))
    orders = [Loader(numbered(500), seed=seed).order(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    orders += [list(range(500))]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_the_order_is_the_same_in_every_release():
    assert Loader(numbered(12), seed=1).order(2).tolist() == [3, 6, 7, 0, 11, 5, 8, 4, 1, 9, 10, 2]


def test_shuffling_is_even():
    loader = Loader(numbered(5), 5)
    places = np.stack([loader.order(epoch) for epoch in range(2000)])
    counts = np.stack([(places == sample).sum(axis=0) for sample in range(5)])
    assert abs(counts - 400).max() < 100  # 5.6 standard deviations


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_resuming_in_mid_epoch_gives_the_same_batches(shuffle, start):
    loader = Loader(numbered(10), 3, shuffle=shuffle, seed=5)
    whole, rest = list(loader.epoch(4)), list(loader.epoch(4, start=min(3 * start, 10)))
    assert len(rest) == 4 - start
    for (images, labels), (again, labels_again) in zip(whole[start:], rest, strict=True):
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, labels_again)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("size", [1, 2, 4, 7, 50])
def test_an_epoch_is_finished_with_another_batch_size(shuffle, drop_last, size):
    dataset = numbered(40)
    begun = Loader(dataset, 3, shuffle=shuffle, seed=5)
    rest = Loader(dataset, size, shuffle=shuffle, seed=5, drop_last=drop_last and size <= 40)
    seen = [p for _, (images, _) in zip(range(5), begun.epoch(2), strict=False) for p in positions(images)]
    batches = list(rest.epoch(2, start=len(seen)))
    assert len(batches) == rest.batches(15)
    seen += [p for images, _ in batches for p in positions(images)]
    assert len(set(seen)) == len(seen)
    assert len(seen) == (15 + 25 // size * size if rest.drop_last else 40)


def test_each_loop_is_the_next_epoch():
    loader = Loader(numbered(10), 4)
    expected = [[positions(images) for images, _ in loader.epoch(i)] for i in range(3)]
    assert [[positions(images) for images, _ in loader] for _ in range(3)] == expected
    assert expected[0] != expected[1] != expected[2]


def test_a_loop_that_was_left_counts():
    loader = Loader(numbered(10), 4)
    for _ in loader:
        break
    assert positions(next(iter(loader))[0]) == positions(next(loader.epoch(1))[0])


def test_unshuffled_batches_are_views_and_shuffled_ones_copies():
    dataset = numbered(10)
    for shuffle, shares in ((False, True), (True, False)):
        for images, labels in Loader(dataset, 3, shuffle=shuffle):
            assert np.shares_memory(images, dataset.images) is shares
            assert np.shares_memory(labels, dataset.labels) is shares


def test_drop_last_leaves_the_short_batch_out():
    loader = Loader(numbered(10), 3, drop_last=True)
    assert len(loader) == 3
    assert [len(labels) for _, labels in loader] == [3, 3, 3]
    assert len(Loader(numbered(9), 3, drop_last=True)) == 3


@pytest.mark.parametrize(
    ("n", "arguments", "message"),
    [
        (0, {}, "Loader: Dataset('numbered', 0 images of (1, 1, 2) uint8, 7 classes) is empty"),
        (5, {"batch_size": 0}, "Loader: batch_size must be an integer of at least 1, got 0"),
        (5, {"batch_size": 2.5}, "Loader: batch_size must be an integer of at least 1, got 2.5"),
        (5, {"seed": -1}, "Loader: seed must be an integer of at least 0, got -1"),
        (5, {"batch_size": 6, "drop_last": True}, "drop_last with batch_size=6 leaves no batch of 5 samples"),
    ],
)
def test_bad_arguments_are_named(n, arguments, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        Loader(numbered(n), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "index must be an integer of at least 0, got -1"),
        ((0, -1), "start must be an integer of at least 0, got -1"),
        ((0, 11), "start=11 is beyond the 10 samples of an epoch"),
    ],
)
def test_bad_epochs_are_refused_at_once(arguments, message):
    loader = Loader(numbered(10), 3)
    with pytest.raises(ArgumentError, match=re.escape(message)):
        loader.epoch(*arguments)  # before the first batch is asked for


# -- augmentation -------------------------------------------------------------------------------------------


class Recorder:
    """An augmentation that leaves the images as they are and keeps what its generators draw."""

    def __init__(self):
        self.drawn = []

    def __call__(self, images, rng):
        self.drawn.append(int(rng.integers(2**62)))
        return images.copy()


@pytest.mark.parametrize("shuffle", [True, False])
def test_augmented_images_keep_their_labels(shuffle):
    plain = Loader(numbered(300), 40, shuffle=shuffle, seed=2)
    assert plain.augment is None
    tagged = Loader(
        numbered(300),
        40,
        shuffle=shuffle,
        seed=2,
        augment=lambda images, rng: np.concatenate([images] * 2, 1),
    )
    seen = 0
    for (images, labels), (changed, same_labels) in zip(plain.epoch(3), tagged.epoch(3), strict=True):
        np.testing.assert_array_equal(changed, np.concatenate([images, images], axis=1))
        np.testing.assert_array_equal(labels, same_labels)
        assert same_labels.tolist() == [position % 7 for position in positions(changed[:, 1:])]
        seen += len(labels)
    assert seen == 300


def test_every_batch_of_every_epoch_and_seed_draws_by_itself():
    drawn = []
    for seed in (0, 1):
        recorder = Recorder()
        loader = Loader(numbered(10), 3, seed=seed, augment=recorder)
        for epoch in (0, 1, 5):
            list(loader.epoch(epoch))
        drawn += recorder.drawn
    assert len(set(drawn)) == len(drawn) == 2 * 3 * 4


def test_the_generator_is_a_function_of_seed_epoch_and_first_sample():
    recorder = Recorder()
    list(Loader(numbered(10), 3, seed=5, augment=recorder).epoch(4, start=6))
    keys = [np.random.SeedSequence(5, spawn_key=(3, 4, first)) for first in (6, 9)]
    assert recorder.drawn == [int(np.random.Generator(np.random.Philox(key)).integers(2**62)) for key in keys]


@pytest.mark.parametrize("start", [0, 1, 3])
def test_an_epoch_resumed_gives_the_same_augmented_batches(start):
    images = np.random.default_rng(0).integers(0, 256, (40, 2, 9, 9), dtype=np.uint8)
    dataset = Dataset(images, np.arange(40) % 7, 7, name="noise")
    change = augment.parse("elastic=20:3,rotate=20,brightness=0.2,hflip,cutout=3")
    loader = Loader(dataset, 12, seed=9, augment=change)
    whole = list(loader.epoch(1))
    list(loader.epoch(2))
    rest = list(Loader(dataset, 12, seed=9, augment=change).epoch(1, start=12 * start))
    assert len(rest) == 4 - start
    for (batch, labels), (again, labels_again) in zip(whole[start:], rest, strict=True):
        np.testing.assert_array_equal(batch, again)
        np.testing.assert_array_equal(labels, labels_again)
    assert (dataset.images == images).all()
    assert not np.array_equal(whole[0][0], next(Loader(dataset, 12, seed=9).epoch(1))[0])


def test_augmenting_changes_no_order():
    assert [labels.tolist() for _, labels in Loader(numbered(20), 6, seed=1)] == [
        labels.tolist() for _, labels in Loader(numbered(20), 6, seed=1, augment=Recorder())
    ]


@pytest.mark.parametrize("start", ["1", -1, 1.0, None])
def test_a_start_that_is_no_number_of_samples(start):
    with pytest.raises(ArgumentError, match="start"):
        Loader(numbered(10), 3).batches(start)
