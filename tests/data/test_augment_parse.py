"""Chains and the text that describes them."""

import re
import subprocess
import sys

import numpy as np
import pytest

from xpcnn.data import augment, synthetic_digits
from xpcnn.data.augment import (
    Brightness,
    Compose,
    Cutout,
    Elastic,
    HorizontalFlip,
    RandomCrop,
    Rotate,
    Scale,
    Shear,
    Shift,
    VerticalFlip,
    parse,
)
from xpcnn.errors import ArgumentError

EVERYTHING = [Shift(2), Shift((0.5, 3)), Rotate(10), Scale(0.1), Shear(12.5), Elastic(34, 4), RandomCrop(4)]
EVERYTHING += [HorizontalFlip(), VerticalFlip(0.25), Brightness(1e-7), Cutout(8)]
SPEC = "shift=2,shift=0.5:3,rotate=10,scale=0.1,shear=12.5,elastic=34:4,crop=4,"
SPEC += "hflip=0.5,vflip=0.25,brightness=1e-07,cutout=8"


def test_every_transform_is_known_by_its_spec():
    assert Compose(EVERYTHING).spec == SPEC
    assert parse(SPEC) == Compose(EVERYTHING)
    assert {type(part).__name__ for part in EVERYTHING} == set(augment.__all__) - {"Compose", "parse"}


@pytest.mark.parametrize("chain", [Compose(EVERYTHING), Compose([]), Compose([Scale(1 / 3)])], ids=str)
def test_specs_and_reprs_read_back_exactly(chain):
    assert parse(chain.spec) == chain
    assert eval(repr(chain)) == chain


def test_blanks_and_defaults():
    assert parse(" shift = 2 , hflip,elastic=8 : 3 ") == Compose(
        [Shift(2), HorizontalFlip(0.5), Elastic(8, 3)]
    )


def test_whole_numbers_and_fractions_are_the_same_transform():
    assert Shift(2) == Shift(2.0) == Shift(np.float32(2))
    assert Shift([1, 2]) == Shift((1.0, 2.0)) != Shift(1)
    assert len({Rotate(3), Rotate(3.0)}) == 1


def test_a_chain_among_the_transforms_counts_as_its_parts():
    images, shift, rotate = synthetic_digits(5).images, Shift(2), Rotate(10)
    nested = Compose([Compose([shift]), Compose([rotate, Compose([])])])
    assert nested == Compose([shift, rotate])
    np.testing.assert_array_equal(nested(images, 0), Compose([shift, rotate])(images, 0))


def test_pixel_transforms_come_between_readings():
    images = synthetic_digits(30).images
    rng = np.random.default_rng(0)
    expected = Cutout(7)(Rotate(20)(Brightness(0.4)(Shift(2)(images, rng), rng), rng), rng)
    np.testing.assert_array_equal(parse("shift=2,brightness=0.4,rotate=20,cutout=7")(images, 0), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "shift=2,twist=3",
            "augment.parse: no transform is called 'twist'; known: brightness, crop, cutout, elastic, hflip, "
            "rotate, scale, shear, shift, vflip",
        ),
        ("shift=2,", "no transform is called ''"),
        ("Shift=2", "no transform is called 'Shift'"),
        ("rotate", "augment.parse: rotate takes 1 number, got 0 in 'rotate'"),
        ("elastic=8", "augment.parse: elastic takes 2 numbers, got 1 in 'elastic=8'"),
        ("shift=1:2:3", "augment.parse: shift takes 1 or 2 numbers, got 3 in 'shift=1:2:3'"),
        ("hflip=0.5:1", "augment.parse: hflip takes 0 or 1 numbers, got 2 in 'hflip=0.5:1'"),
        ("rotate=ten", "augment.parse: 'ten' is not a number in 'rotate=ten'"),
        ("rotate=", "augment.parse: '' is not a number in 'rotate='"),
        ("elastic=8:", "augment.parse: '' is not a number in 'elastic=8:'"),
        ("rotate=10:", "augment.parse: rotate takes 1 number, got 2 in 'rotate=10:'"),
        ("scale=nan", "Scale: amount must be a finite number of at least 0, got nan"),
        ("crop=1.5", "RandomCrop: padding must be an integer of at least 0, got 1.5"),
    ],
)
def test_bad_texts_are_explained(text, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        parse(text)


def test_the_package_is_loaded_when_first_named():
    code = """if True:
        import xpcnn
        assert "xpcnn.data.augment" not in sys.modules
        assert xpcnn.data.augment.parse("crop=2").transforms == (xpcnn.data.augment.RandomCrop(2),)
        try:
            xpcnn.data.augmentation
        except AttributeError as error:
            print(error)
    """
    code = f"import sys; sys.path[:] = {sys.path!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'xpcnn.data' has no attribute 'augmentation'\n"
