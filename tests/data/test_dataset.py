"""Dataset: what it accepts, what it refuses and how, and how it is indexed."""

import copy
import pickle
import re

import numpy as np
import pytest

from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, DtypeError, ShapeError


def make(n=6, classes=10, dtype=np.uint8):
    images = np.arange(n * 2 * 3 * 4).reshape(n, 2, 3, 4).astype(dtype)
    return Dataset(images, np.arange(n) % classes, classes, name="toy")


def test_unpacks_has_a_length_and_a_short_repr():
    dataset = make()
    images, labels = dataset
    assert images is dataset.images
    assert labels is dataset.labels
    assert len(dataset) == 6
    assert repr(dataset) == "Dataset('toy', 6 images of (2, 3, 4) uint8, 10 classes)"


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_images_keep_their_dtype_and_are_not_copied(dtype):
    images = np.zeros((2, 1, 3, 3), dtype)
    assert Dataset(images, np.zeros(2, np.int64)).images is images


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64, ">i4"])
def test_any_integer_labels_become_int64(dtype):
    labels = Dataset(np.zeros((2, 1, 3, 3), np.uint8), np.array([9, 0], dtype)).labels
    assert labels.dtype == np.int64
    assert labels.tolist() == [9, 0]


def test_a_slice_is_a_view_and_keeps_name_and_classes():
    dataset = make(classes=7)
    part = dataset[1:4]
    assert np.shares_memory(part.images, dataset.images)
    assert np.shares_memory(part.labels, dataset.labels)
    assert (part.classes, part.name) == (7, "toy")
    assert len(dataset[4:2]) == 0


@pytest.mark.parametrize("index", [[4, 1, -1, 1], np.array([4, 1, 5, 1], np.uint8), (4, 1, 5, 1)])
def test_positions_choose_and_repeat(index):
    dataset = make()
    part = dataset[index]
    assert part.labels.tolist() == [4, 1, 5, 1]
    np.testing.assert_array_equal(part.images, dataset.images[[4, 1, 5, 1]])


def test_a_mask_chooses():
    dataset = make()
    assert dataset[dataset.labels > 3].labels.tolist() == [4, 5]
    assert dataset[[True, False, False, False, False, True]].labels.tolist() == [0, 5]


def test_an_empty_choice_is_an_empty_dataset():
    assert len(make()[[]]) == 0
    assert len(make()[np.array([], np.int64)]) == 0


IMAGES, LABELS = np.zeros((3, 1, 2, 2), np.uint8), np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((IMAGES[:, 0], LABELS), ShapeError, "images must have shape (N, C, H, W)"),
        ((IMAGES[:, :0], LABELS), ShapeError, "C, H, W of at least 1, got (3, 0, 2, 2)"),
        ((IMAGES.astype(np.int32), LABELS), DtypeError, "images must be uint8 or floating, got int32"),
        ((IMAGES, LABELS[0]), DtypeError, "targets must be a NumPy array"),
        ((IMAGES, np.array(3)), ShapeError, "targets must have shape (N, ...), got ()"),
        ((IMAGES, LABELS[:, None][:, :0]), ShapeError, "targets must have shape (N, ...), got (3, 0)"),
        ((IMAGES, LABELS * 1j), DtypeError, "targets must be integers, bools or floats, got complex128"),
        ((IMAGES, LABELS.astype(str)), DtypeError, "targets must be integers, bools or floats, got <U21"),
        (
            (IMAGES, LABELS.astype(object)),
            DtypeError,
            "targets must be integers, bools or floats, got object",
        ),
        ((IMAGES, LABELS[:2]), ShapeError, "3 images but 2 targets"),
        ((IMAGES, LABELS.astype(float), 3), DtypeError, "classes=3 is for labels, integers of shape (N,)"),
        ((IMAGES, np.eye(3, dtype=int), 3), DtypeError, "targets are int64 of shape (3, 3)"),
        ((IMAGES, LABELS, 2), ArgumentError, "labels[2] is 2, outside 0 … 1 (1 such labels, classes=2)"),
        ((IMAGES, LABELS - 1, 10), ArgumentError, "labels[0] is -1, outside 0 … 9"),
        ((IMAGES, LABELS, 0), ArgumentError, "classes must be an integer of at least 1, got 0"),
        ((IMAGES, LABELS, "toy"), ArgumentError, "classes must be an integer of at least 1, got 'toy'"),
        ((IMAGES.tolist(), LABELS), DtypeError, "images must be a NumPy array, got builtins.list"),
        ((IMAGES, LABELS.tolist()), DtypeError, "targets must be a NumPy array, got builtins.list"),
        ((IMAGES, None), DtypeError, "targets must be a NumPy array, got builtins.NoneType"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Dataset(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": 10}, "name must be a string, got 10"),
        ({"preparation": 3}, "must be None or one of 'mnist-digit', 'crop', 'pad', 'squash', got 3"),
        ({"class_names": "abc"}, "class_names must be a sequence of strings, got 'abc'"),
        ({"class_names": 3}, "class_names must be a sequence of strings, got 3"),
        ({"class_names": []}, "class_names must be a sequence of strings, got []"),
        ({"class_names": ["a", 1, "c"]}, "class_names must be a sequence of strings"),
        ({"class_names": ["a", "b"], "classes": 3}, "2 class_names for 3 classes"),
        ({"class_names": ["a", "b"]}, "labels[2] is 2, outside 0 … 1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        Dataset(IMAGES, LABELS, **options)


def test_columns_are_labels():
    for labels in (LABELS[:, None], LABELS[:, None] > 0, LABELS > 0):
        held = Dataset(IMAGES, labels)
        assert held.targets.dtype == np.int64
        assert held.targets.tolist() == labels.ravel().tolist()
        assert held.classes == int(labels.max()) + 1


@pytest.mark.parametrize(
    "targets",
    [
        LABELS.astype(np.float32),
        LABELS.astype(float)[:, None],
        np.eye(3),
        np.eye(3, dtype=np.int8),
        np.zeros((3, 2, 2), np.uint8),
        np.zeros((3, 2, 2)),
        -LABELS,
    ],
    ids=["floats", "float column", "rows", "integer rows", "maps", "float maps", "negative"],
)
def test_other_targets_are_kept(targets):
    held = Dataset(IMAGES, targets, preparation="pad")
    np.testing.assert_array_equal(held.targets, targets)
    assert held.labels is held.targets
    assert (held.targets.shape, held.classes) == (targets.shape, None)
    if targets.min() >= 0:
        assert held.targets is targets
    assert held[1:].preparation == "pad"
    assert "targets " in repr(held)


def test_classes_have_names():
    held = Dataset(IMAGES, LABELS, class_names=["cat", "dog", "owl", "elk"])
    assert (held.classes, held.class_names) == (4, ("cat", "dog", "owl", "elk"))
    assert held[:1].class_names == held.class_names
    rows = Dataset(IMAGES, np.eye(3)[LABELS], class_names=["cat", "dog", "owl"])
    assert (rows.classes, rows.class_names) == (None, ("cat", "dog", "owl"))
    with pytest.raises(ArgumentError, match="2 class_names for 3 classes"):
        Dataset(IMAGES, np.eye(3)[LABELS], class_names=["cat", "dog"])


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (3, ArgumentError, "got 3; one sample is dataset[i : i + 1]"),
        ([0, 6], ArgumentError, "positions 0 … 6 reach outside 6 samples"),
        ([-7], ArgumentError, "reach outside 6 samples"),
        ([[0, 1]], ArgumentError, "a 1-d array of positions"),
        ([0.5], ArgumentError, "a 1-d array of positions"),
        ("ab", ArgumentError, "a 1-d array of positions"),
        ([True, False], ShapeError, "a mask of 2 entries for 6 samples"),
    ],
)
def test_bad_indices_are_named(index, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()[index]


def test_is_frozen_and_survives_pickling_and_copying():
    dataset = make()
    with pytest.raises(AttributeError):
        dataset.name = "other"
    for other in (pickle.loads(pickle.dumps(dataset)), copy.deepcopy(dataset)):
        np.testing.assert_array_equal(other.images, dataset.images)
        assert repr(other) == repr(dataset)
