"""Dataset: what it accepts, what it refuses and how, and how it is indexed; datasets by name."""

import copy
import pickle
import re

import numpy as np
import pytest

from xpcnn.data import Dataset, catalog, load_dataset, register_dataset
from xpcnn.errors import ArgumentError, DtypeError, ShapeError

IMAGES, LABELS = np.zeros((3, 1, 2, 2), np.uint8), np.array([0, 1, 2])


def make(n=6, classes=10, dtype=np.uint8):
    images = np.arange(n * 2 * 3 * 4).reshape(n, 2, 3, 4).astype(dtype)
    return Dataset(images, np.arange(n) % classes, classes, name="toy")


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_images_are_not_copied_and_the_set_can_be(dtype):
    images = np.zeros((6, 2, 3, 4), dtype)
    dataset = Dataset(images, np.arange(6), 10, name="toy")
    assert tuple(dataset) == (images, dataset.labels)
    assert dataset.images is images
    assert len(dataset) == 6
    assert repr(dataset) == f"Dataset('toy', 6 images of (2, 3, 4) {np.dtype(dtype)}, 10 classes)"
    with pytest.raises(AttributeError):
        dataset.name = "other"
    for other in (pickle.loads(pickle.dumps(dataset)), copy.deepcopy(dataset)):
        np.testing.assert_array_equal(other.images, dataset.images)
        assert repr(other) == repr(dataset)


@pytest.mark.parametrize(
    "labels",
    [*(np.array([9, 0, 1], kind) for kind in ("u1", "i2", "u8", ">i4")), LABELS[:, None], LABELS > 0],
    ids=lambda labels: f"{labels.dtype}{labels.shape}",
)
def test_integers_bools_and_columns_are_labels(labels):
    held = Dataset(IMAGES, labels)
    assert held.targets.dtype == np.int64
    assert held.targets.tolist() == labels.ravel().tolist()
    assert held.classes == int(labels.max()) + 1


OTHER_TARGETS = {
    "floats": LABELS.astype(np.float32),
    "float column": LABELS.astype(float)[:, None],
    "rows": np.eye(3),
    "integer rows": np.eye(3, dtype=np.int8),
    "maps": np.zeros((3, 2, 2), np.uint8),
    "negative": -LABELS,
}


@pytest.mark.parametrize("targets", OTHER_TARGETS.values(), ids=OTHER_TARGETS.keys())
def test_other_targets_are_kept(targets):
    held = Dataset(IMAGES, targets, preparation="pad")
    np.testing.assert_array_equal(held.targets, targets)
    assert held.labels is held.targets
    assert (held.targets.shape, held.classes, held[1:].preparation) == (targets.shape, None, "pad")
    assert held.targets is targets or targets.min() < 0
    assert "targets " in repr(held)


def test_classes_have_names():
    held = Dataset(IMAGES, LABELS, class_names=["cat", "dog", "owl", "elk"])
    assert (held.classes, held[:1].class_names) == (4, ("cat", "dog", "owl", "elk"))
    rows = Dataset(IMAGES, np.eye(3), class_names=["cat", "dog", "owl"])
    assert (rows.classes, rows.class_names) == (None, ("cat", "dog", "owl"))
    with pytest.raises(ArgumentError, match="2 class_names for 3 classes"):
        Dataset(IMAGES, np.eye(3), class_names=["cat", "dog"])


def test_a_slice_is_a_view_and_positions_and_masks_choose():
    dataset = make(classes=7)
    part = dataset[1:4]
    assert np.shares_memory(part.images, dataset.images)
    assert np.shares_memory(part.labels, dataset.labels)
    assert (part.classes, part.name, len(dataset[4:2])) == (7, "toy", 0)
    for index in ([4, 1, -1, 1], np.array([4, 1, 5, 1], np.uint8), (4, 1, 5, 1)):
        part = dataset[index]
        assert part.labels.tolist() == [4, 1, 5, 1]
        np.testing.assert_array_equal(part.images, dataset.images[[4, 1, 5, 1]])
    assert dataset[dataset.labels > 3].labels.tolist() == [4, 5]
    assert dataset[[True, False, False, False, False, True]].labels.tolist() == [0, 5]
    assert len(dataset[np.array([], np.int64)]) == len(dataset[[]]) == 0


BAD_INDICES = {
    "got 3; one sample is dataset[i : i + 1]": 3,
    "a 1-d array of positions or a boolean mask, got [[0, 1]]": [[0, 1]],
    "a boolean mask, got 'ab'": "ab",
    "Dataset of 6 samples: index 6 is out of bounds": [0, 6],
    "index -7 is out of bounds": [-7],
    "arrays used as indices must be of integer (or boolean) type": [0.5],
    "boolean index did not match": [True, False],
}


@pytest.mark.parametrize("message", BAD_INDICES)
def test_bad_indices_are_named(message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        make()[BAD_INDICES[message]]


BAD = [
    ((IMAGES[:, 0], LABELS), {}, ShapeError, "images must be (N, C, H, W)"),
    ((IMAGES[:, :0], LABELS), {}, ShapeError, "none but N of 0, got (3, 0, 2, 2)"),
    ((IMAGES.astype(np.int32), LABELS), {}, DtypeError, "images must be uint8 or floating, got int32"),
    ((IMAGES.tolist(), LABELS), {}, DtypeError, "images must be a NumPy array, got <class 'list'>"),
    ((IMAGES, LABELS[0]), {}, DtypeError, "targets must be a NumPy array"),
    ((IMAGES, None), {}, DtypeError, "targets must be a NumPy array, got <class 'NoneType'>"),
    ((IMAGES, np.array(3)), {}, ShapeError, "targets must have shape (N, ...), got ()"),
    ((IMAGES, LABELS[:, None][:, :0]), {}, ShapeError, "targets must have shape (N, ...), got (3, 0)"),
    ((IMAGES, LABELS * 1j), {}, DtypeError, "targets must be integers, bools or floats, got complex128"),
    ((IMAGES, LABELS.astype(str)), {}, DtypeError, "integers, bools or floats, got <U21"),
    ((IMAGES, LABELS.astype(object)), {}, DtypeError, "integers, bools or floats, got object"),
    ((IMAGES, LABELS[:2]), {}, ShapeError, "3 images but 2 targets"),
    ((IMAGES, LABELS.astype(float), 3), {}, DtypeError, "classes=3 is for labels, integers of shape (N,)"),
    ((IMAGES, np.eye(3, dtype=int), 3), {}, DtypeError, "targets are int64 of shape (3, 3)"),
    ((IMAGES, LABELS, 2), {}, ArgumentError, "labels[2] is 2, outside 0 … 1 (1 such labels, classes=2)"),
    ((IMAGES, LABELS - 1, 10), {}, ArgumentError, "labels[0] is -1, outside 0 … 9"),
    ((IMAGES, LABELS, 0), {}, ArgumentError, "classes must be an integer of at least 1, got 0"),
    ((IMAGES, LABELS, "toy"), {}, ArgumentError, "classes must be an integer of at least 1, got 'toy'"),
    ((IMAGES, LABELS, 2**31), {}, ArgumentError, "classes must be at most 2147483647, got 2147483648"),
    (
        (IMAGES, LABELS),
        {"preparation": 3},
        ArgumentError,
        "one of 'mnist-digit', 'crop', 'pad', 'squash', go",
    ),
    ((IMAGES, LABELS), {"class_names": "abc"}, ArgumentError, "must be a sequence of strings, got 'abc'"),
    ((IMAGES, LABELS), {"class_names": []}, ArgumentError, "must be a sequence of strings, got []"),
    ((IMAGES, LABELS), {"class_names": [1, "c"]}, ArgumentError, "must be a sequence of strings"),
    ((IMAGES, LABELS, 3), {"class_names": ["a", "b"]}, ArgumentError, "2 class_names for 3 classes"),
    ((IMAGES, LABELS), {"class_names": ["a", "b"]}, ArgumentError, "labels[2] is 2, outside 0 … 1"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD, ids=[case[3] for case in BAD])
def test_bad_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Dataset(*arguments, **options)


def test_datasets_by_name(monkeypatch):
    """What is refused: tests/cli/test_import.py."""
    pair = make(), make()
    register_dataset("toy")(lambda: list(pair))
    assert load_dataset("toy") == pair
    monkeypatch.setattr(catalog, "_TRAINING_DIGITS", 20)
    assert [len(part) for part in load_dataset("synthetic-digits")] == [20, 2_000]
