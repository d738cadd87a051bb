"""Transforms: a new array, its own draw for each image, the same from the same seed; and their texts."""

import re

import numpy as np
import pytest

from xpcnn.data import Loader, augment, synthetic_digits
from xpcnn.data.augment import Compose, Cutout, Elastic, HorizontalFlip, Rotate, Scale, Shift, parse
from xpcnn.errors import ArgumentError, DtypeError, ShapeError

SPECS = [
    *("shift=2.5", "rotate=15", "scale=0.2", "shear=15", "elastic=34:4", "crop=3"),
    *("hflip=0.5", "vflip=0.25", "brightness=0.5", "cutout=9"),
    "elastic=20:3,rotate=10,brightness=1e-07,crop=2,shift=1,hflip=0.5,cutout=5",
]
every_transform = pytest.mark.parametrize("transform", [parse(spec) for spec in SPECS], ids=SPECS)


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
def test_all_dtypes_and_memory_layouts_see_the_same_change(transform):
    images = pictures()
    changed = transform(images, 5)
    exact = transform(images.astype(np.float64), 5)
    if "brightness" not in transform.spec or "," not in transform.spec:
        np.testing.assert_allclose(changed, exact.clip(0, 255), rtol=0, atol=0.5 + 2e-3)
        np.testing.assert_allclose(transform(images.astype(np.float32), 5), exact, atol=2e-3)
    channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    backwards = np.ascontiguousarray(images[::-1, :, :, ::-1])[::-1, :, :, ::-1]
    for same in (channels_last, backwards, np.broadcast_to(images, images.shape)):
        np.testing.assert_array_equal(transform(same, 5), changed)


@every_transform
def test_the_seed_decides_everything(transform):
    images = pictures()
    first, rng = transform(images, 3), np.random.default_rng(3)
    np.testing.assert_array_equal(transform(images, rng), first)
    assert not np.array_equal(transform(images, rng), first), "a generator goes on"
    assert not np.array_equal(transform(images, 4), first)


@every_transform
def test_each_image_has_its_own_draw_and_all_channels_share_it(transform):
    images = np.repeat(pictures(n=1, channels=1, height=20, width=20), 40, axis=0).repeat(3, axis=1)
    changed = transform(images, 0)
    np.testing.assert_array_equal(changed[:, :1].repeat(3, axis=1), changed)
    distinct = len(np.unique(changed.reshape(40, -1), axis=0))
    assert distinct == 2 if "flip=" in transform.spec and "," not in transform.spec else distinct > 25


@every_transform
@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (4, 1, 0, 3), (3, 1, 1, 1), (2, 2, 1, 7), (2, 1, 6, 1)])
def test_empty_batches_and_the_smallest_images(transform, shape):
    images = np.full(shape, 90, np.uint8)
    changed = transform(images, 0)
    assert (changed.shape, changed.dtype) == (shape, np.uint8)
    assert changed is not images


@every_transform
def test_blocks_that_are_read_one_after_another_do_not_show(transform, monkeypatch):
    images = pictures(n=30, height=28, width=28)
    whole = transform(images, 2)
    monkeypatch.setattr("xpcnn.data.augment.sampling._BLOCK", 1)
    np.testing.assert_array_equal(transform(images, 2), whole)


NOTHING = "shift=0,rotate=0,scale=0,shear=0,crop=0,hflip=0,vflip=0,cutout=0,elastic=0:4,brightness=0"


@pytest.mark.parametrize("nothing", [*NOTHING.split(","), "", NOTHING, "shift=0,elastic=0:4,rotate=0"])
def test_an_amount_of_0_changes_nothing(nothing):
    for dtype in (np.uint8, np.float32):
        images = pictures(dtype=dtype)
        changed = parse(nothing)(images, 0)
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
    cut = Cutout(3)(np.ones((4000, 2, 5, 7), np.float32), 0)[:, 0] == 0
    places = [(*np.flatnonzero(hole.any(1))[[0, -1]], *np.flatnonzero(hole.any(0))[[0, -1]]) for hole in cut]
    for hole, (top, bottom, left, right) in zip(cut, places, strict=True):
        assert hole.sum() == (bottom - top + 1) * (right - left + 1)
    found, counts = np.unique(places, axis=0, return_counts=True)
    centred = [
        (max(y - 1, 0), min(y + 1, 4), max(x - 1, 0), min(x + 1, 6)) for y in range(5) for x in range(7)
    ]
    assert set(map(tuple, found.tolist())) == set(centred)
    assert counts.min() > 60  # 114 expected, 5 standard deviations


def test_flips_come_as_often_as_asked():
    images = np.zeros((4000, 1, 1, 2), np.uint8)
    images[..., 0] = 1
    assert abs((HorizontalFlip(0.3)(images, 0)[..., 1] == 1).mean() - 0.3) < 0.04


@pytest.mark.slow
def test_mildly_augmented_digits_are_still_the_digits_that_their_labels_say():
    """Read by the nearest of 3000 plain ones."""
    train, test = synthetic_digits(3000, seed=0), synthetic_digits(500, seed=1)
    known, _ = (part.images.reshape(len(part), -1).astype(np.float32) / 255 for part in (train, test))
    squares = (known**2).sum(axis=1)

    def accuracy(images, labels):
        rows = images.reshape(len(images), -1).astype(np.float32) / 255
        return (train.labels[np.argmin(squares - 2 * rows @ known.T, axis=1)] == labels).mean()

    plain = accuracy(*test)
    assert plain > 0.9, "the reader can read"
    assert accuracy(augment.VerticalFlip(1)(test.images, 0), test.labels) < 0.5, "and notices other labels"
    mild = "shift=1 rotate=8 scale=0.1 shear=8 elastic=15:4 crop=1 brightness=0.3 cutout=4"
    for spec in [*mild.split(), "shift=1,rotate=5,scale=0.05,elastic=15:4,cutout=3"]:
        loader = Loader(test, 500, seed=4, augment=parse(spec))
        images, labels = next(iter(loader))
        assert accuracy(images, labels) > plain - 0.1, spec
        ink = images.sum(dtype=float) / test.images.sum(dtype=float)
        assert 0.85 < ink < 1.1, spec


# -- texts and chains ------------------------------------------------------------------


def test_every_transform_is_known_by_its_spec():
    names = {name: getattr(augment, name) for name in augment.__all__}
    for chain in (parse(",".join(SPECS)), Compose([]), Compose([Scale(1 / 3)])):
        assert parse(chain.spec) == chain
        assert eval(repr(chain), names.copy()) == chain
    everything = parse(",".join(SPECS))
    assert everything.spec == ",".join(SPECS)
    assert {type(part).__name__ for part in everything.transforms} == names.keys() - {"Compose", "parse"}
    spaced = parse(" shift = 2 , hflip,elastic=8 : 3 ")
    assert spaced == Compose([Shift(2), HorizontalFlip(0.5), Elastic(8, 3)])


def test_whole_numbers_and_fractions_are_the_same_transform():
    assert Shift(2) == Shift(2.0) == Shift(np.float32(2)) != Shift(1)
    assert len({Rotate(3), Rotate(3.0)}) == 1


def test_chains_are_their_parts_and_pixel_transforms_come_between_readings():
    nested = Compose([Compose([Shift(2)]), Compose([Rotate(10), Compose([])])])
    assert nested == Compose([Shift(2), Rotate(10)])
    images, rng = synthetic_digits(30).images, np.random.default_rng(0)
    expected = Cutout(7)(Rotate(20)(augment.Brightness(0.4)(Shift(2)(images, rng), rng), rng), rng)
    np.testing.assert_array_equal(parse("shift=2,brightness=0.4,rotate=20,cutout=7")(images, 0), expected)


REFUSED = {
    "Shift: pixels must be at least 0, got -1": lambda: Shift(-1),
    "Shift: pixels must be a finite number, got (1, 2)": lambda: Shift((1, 2)),
    "Rotate: degrees must be from 0 to 180, got 181": lambda: Rotate(181),
    "Scale: amount must be a finite number, got inf": lambda: Scale(float("inf")),
    "Shear: degrees must be from 0 to 89, got 90": lambda: augment.Shear(90),
    "Elastic: alpha must be at least 0, got -1": lambda: Elastic(-1, 4),
    "Elastic: sigma must be at least 0.1, got 0": lambda: Elastic(8, 0),
    "RandomCrop: padding must be an integer of at least 0, got 1.5": lambda: parse("crop=1.5"),
    "HorizontalFlip: p must be from 0 to 1, got 1.1": lambda: HorizontalFlip(1.1),
    "VerticalFlip: p must be from 0 to 1, got -0.1": lambda: augment.VerticalFlip(-0.1),
    "Brightness: amount must be from 0 to 1, got 2": lambda: augment.Brightness(2),
    "Cutout: size must be an integer of at least 0, got -2": lambda: Cutout(-2),
    "Compose: transforms[1] must be a transform of xpcnn.data.augment": lambda: Compose([Shift(1), len]),
    "no transform is called 'twist'; known: brightness, crop, cutout, el": lambda: parse("shift=2,twist=3"),
    "no transform is called ''": lambda: parse("shift=2,"),
    "augment.parse: rotate takes 1 numbers, got 0 in 'rotate'": lambda: parse("rotate"),
    "augment.parse: elastic takes 2 numbers, got 1 in 'elastic=8'": lambda: parse("elastic=8"),
    "augment.parse: hflip takes 0 or 1 numbers, got 2 in 'hflip=0.5:1'": lambda: parse("hflip=0.5:1"),
    "augment.parse: 'ten' is not a number in 'rotate=ten'": lambda: parse("rotate=ten"),
    "augment.parse: expected a text such as 'shift=2,hflip', got b'hflip'": lambda: parse(b"hflip"),
}


@pytest.mark.parametrize(("message", "call"), REFUSED.items(), ids=REFUSED)
def test_bad_arguments_are_named(message, call):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("transform", [Rotate(5), parse("shift=1,hflip")], ids=str)
def test_bad_calls_are_named(transform):
    name, images = type(transform).__name__, synthetic_digits(2).images
    message = re.escape(f"{name}: images must have axes (N, C, H, W), got shape (28")
    with pytest.raises(ShapeError, match=message):
        transform(images[0, 0], 0)
    with pytest.raises(DtypeError, match=f"{name}: images must be uint8 or floating, got int64"):
        transform(images.astype(np.int64), 0)
    for rng in (None, -1, "0", np.random):
        with pytest.raises(ArgumentError, match=f"{name}: rng, unless a Generator, must be an integer of"):
            transform(images, rng)
