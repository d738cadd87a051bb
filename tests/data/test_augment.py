"""What every transform promises: a new array, its own draw for each image, the same from the same seed."""

import re

import numpy as np
import pytest

from xpcnn.data import augment, synthetic_digits
from xpcnn.errors import ArgumentError, DtypeError, ShapeError

TRANSFORMS = [
    augment.Shift(2.5),
    augment.Shift((1, 3)),
    augment.Rotate(15),
    augment.Scale(0.2),
    augment.Shear(15),
    augment.Elastic(34, 4),
    augment.RandomCrop(3),
    augment.HorizontalFlip(),
    augment.VerticalFlip(),
    augment.Brightness(0.5),
    augment.Cutout(9),
    augment.parse("elastic=20:3,rotate=10,brightness=0.3,crop=2,shift=1,hflip,cutout=5"),
]
NAMES = [transform.spec for transform in TRANSFORMS]
every_transform = pytest.mark.parametrize("transform", TRANSFORMS, ids=NAMES)


def pictures(n=12, channels=3, height=11, width=14, dtype=np.uint8):
    images = np.random.default_rng(8).integers(1, 256, (n, channels, height, width), dtype=np.uint8)
    return images if dtype == np.uint8 else (images / 255).astype(dtype)


@every_transform
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64, ">f4"])
def test_the_result_is_a_new_array_of_the_same_shape_and_dtype(transform, dtype):
    images = pictures(dtype=dtype)
    images.flags.writeable = False
    changed = transform(images, 0)
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype.newbyteorder("="))
    assert changed.flags.c_contiguous
    assert changed.flags.writeable
    assert not np.shares_memory(changed, images)
    assert not np.array_equal(changed, images)


@every_transform
def test_all_dtypes_see_the_same_change(transform):
    images = pictures()
    expected = transform(images.astype(np.float64), 5)
    if "brightness" in transform.spec:
        expected = np.minimum(expected, 255) if transform.spec.startswith("b") else None
    if expected is not None:
        np.testing.assert_allclose(transform(images, 5), expected, rtol=0, atol=0.5 + 2e-3)
        np.testing.assert_allclose(transform(images.astype(np.float32), 5).clip(0, 255), expected, atol=2e-3)


@every_transform
def test_inputs_are_left_alone_however_they_lie_in_memory(transform):
    images = pictures()
    before = images.copy()
    expected = transform(images, 1)
    np.testing.assert_array_equal(images, before)
    channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    backwards = np.ascontiguousarray(images[::-1, :, :, ::-1])[::-1, :, :, ::-1]
    for same in (channels_last, backwards, np.broadcast_to(images, images.shape)):
        np.testing.assert_array_equal(transform(same, 1), expected)


@every_transform
def test_the_seed_decides_everything(transform):
    images = pictures()
    first = transform(images, 3)
    np.testing.assert_array_equal(transform(images, np.random.default_rng(3)), first)
    assert not np.array_equal(transform(images, 4), first)
    rng = np.random.default_rng(3)
    transform(images, rng)
    assert not np.array_equal(transform(images, rng), first), "a generator goes on"


@every_transform
def test_each_image_has_its_own_draw_and_all_channels_share_it(transform):
    images = np.repeat(pictures(n=1, channels=1, height=20, width=20), 40, axis=0).repeat(3, axis=1)
    changed = transform(images, 0)
    np.testing.assert_array_equal(changed[:, :1].repeat(3, axis=1), changed)
    distinct = len(np.unique(changed.reshape(40, -1), axis=0))
    assert distinct == 2 if "flip=" in transform.spec and "," not in transform.spec else distinct > 25


@every_transform
@pytest.mark.parametrize("shape", [(0, 1, 28, 28), (0, 3, 5, 5), (4, 1, 0, 3)])
def test_an_empty_batch_stays_empty(transform, shape):
    images = np.zeros(shape, np.uint8)
    changed = transform(images, 0)
    assert (changed.shape, changed.dtype) == (shape, np.uint8)
    assert changed is not images


@every_transform
@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (2, 2, 1, 7), (2, 1, 6, 1)])
def test_the_smallest_images_work(transform, shape):
    images = np.full(shape, 90, np.uint8)
    assert transform(images, 0).shape == shape


@every_transform
def test_a_large_batch_is_that_of_one_reading(transform, monkeypatch):
    """Blocks that are read one after another do not show."""
    images = pictures(n=30, height=28, width=28)
    whole = transform(images, 2)
    monkeypatch.setattr("xpcnn.data.augment.sampling._BLOCK", 1)
    np.testing.assert_array_equal(transform(images, 2), whole)


@pytest.mark.parametrize(
    "nothing",
    [
        *(f"{name}=0" for name in ("shift", "rotate", "scale", "shear", "crop", "hflip", "vflip", "cutout")),
        *("elastic=0:4", "brightness=0", ""),
        *("shift=0,elastic=0:4,rotate=0", "rotate=0,brightness=0,cutout=0,shear=0"),
    ],
)
def test_an_amount_of_0_changes_nothing(nothing):
    for dtype in (np.uint8, np.float32):
        images = pictures(dtype=dtype)
        changed = augment.parse(nothing)(images, 0)
        np.testing.assert_allclose(changed, images, rtol=1e-5, atol=0)
        assert not np.shares_memory(changed, images)


def test_brightness_multiplies_and_uint8_stops_at_255():
    images = np.full((2000, 1, 1, 2), (40, 200), np.uint8)
    factor = augment.Brightness(0.5)(images.astype(np.float64), 0) / images
    np.testing.assert_allclose(factor[..., 0], factor[..., 1])
    assert 0.5 <= factor.min() < 0.51
    assert 1.49 < factor.max() <= 1.5
    assert abs(factor.mean() - 1) < 0.03
    expected = np.minimum(np.floor(images * factor + 0.5), 255)
    np.testing.assert_array_equal(augment.Brightness(0.5)(images, 0), expected)


def test_cutout_clears_one_square_whose_centre_is_any_pixel():
    cut = augment.Cutout(3)(np.ones((4000, 2, 5, 7), np.float32), 0)[:, 0] == 0
    corners = {}
    for hole in cut:
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole.sum() == len(rows) * len(columns)
        assert np.ptp(rows) == len(rows) - 1 <= 2
        assert np.ptp(columns) == len(columns) - 1 <= 2
        place = (rows[0], rows[-1], columns[0], columns[-1])
        corners[place] = corners.get(place, 0) + 1
    centred = {
        (max(y - 1, 0), min(y + 1, 4), max(x - 1, 0), min(x + 1, 6)) for y in range(5) for x in range(7)
    }
    assert set(corners) == centred
    assert min(corners.values()) > 60  # 114 expected, 5 standard deviations


def test_flips_come_as_often_as_asked():
    images = np.zeros((4000, 1, 1, 2), np.uint8)
    images[..., 0] = 1
    assert abs((augment.HorizontalFlip(0.3)(images, 0)[..., 1] == 1).mean() - 0.3) < 0.04


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: augment.Shift(-1), "Shift: pixels must be a finite number of at least 0, got -1"),
        (lambda: augment.Shift((1, 2, 3)), "Shift: pixels must be a number or a pair, got (1, 2, 3)"),
        (lambda: augment.Shift((1, "a")), "Shift: pixels must be a finite number of at least 0, got 'a'"),
        (lambda: augment.Rotate(181), "Rotate: degrees must be a finite number of 0 to 180, got 181"),
        (
            lambda: augment.Rotate(float("nan")),
            "Rotate: degrees must be a finite number of 0 to 180, got nan",
        ),
        (lambda: augment.Scale(float("inf")), "Scale: amount must be a finite number of at least 0, got inf"),
        (lambda: augment.Shear(90), "Shear: degrees must be a finite number of 0 to 89, got 90"),
        (lambda: augment.Elastic(-1, 4), "Elastic: alpha must be a finite number of at least 0, got -1"),
        (lambda: augment.Elastic(8, 0), "Elastic: sigma must be a finite number of at least 0.1, got 0"),
        (lambda: augment.RandomCrop(1.5), "RandomCrop: padding must be an integer of at least 0, got 1.5"),
        (lambda: augment.HorizontalFlip(2), "HorizontalFlip: p must be a finite number of 0 to 1, got 2"),
        (lambda: augment.VerticalFlip(-0.1), "VerticalFlip: p must be a finite number of 0 to 1, got -0.1"),
        (lambda: augment.Brightness(None), "Brightness: amount must be a finite number of 0 to 1, got None"),
        (lambda: augment.Cutout(-2), "Cutout: size must be an integer of at least 0, got -2"),
        (
            lambda: augment.Compose([augment.Shift(1), len]),
            "Compose: transforms[1] must be a transform of xpcnn.data.augment, got <built-in function len>",
        ),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        build()


@pytest.mark.parametrize("transform", [augment.Rotate(5), augment.parse("shift=1,hflip")], ids=str)
def test_bad_calls_are_named(transform):
    name, images = type(transform).__name__, synthetic_digits(2).images
    with pytest.raises(
        ShapeError, match=re.escape(f"{name}: images must have axes (N, C, H, W), got shape (28")
    ):
        transform(images[0, 0], 0)
    with pytest.raises(DtypeError, match=f"{name}: images must be uint8 or floating, got int64"):
        transform(images.astype(np.int64), 0)
    for rng in (None, -1, "0", np.random):
        with pytest.raises(ArgumentError, match=f"{name}: rng must be a numpy.random.Generator or a seed"):
            transform(images, rng)


@pytest.mark.parametrize("text", [3, None, b"hflip", ["hflip"]])
def test_parsing_what_is_no_text(text):
    with pytest.raises(ArgumentError, match=r"augment\.parse: expected a text"):
        augment.parse(text)
