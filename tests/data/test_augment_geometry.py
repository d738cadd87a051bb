"""Geometric transforms against a reading of one pixel at a time."""

import math

import numpy as np
import pytest

from xpcnn.data import augment
from xpcnn.data.augment.sampling import affine, read

N, CHANNELS, HEIGHT, WIDTH = 3, 2, 9, 12
RANDOM = np.random.default_rng(1)
IMAGES = RANDOM.random((N, CHANNELS, HEIGHT, WIDTH))

CHAINS = [
    *("shift=4", "rotate=180", "elastic=20:2", "crop=3", "hflip,vflip", "rotate=40,shift=3"),
    "scale=0.5,shear=20,hflip,rotate=30,crop=2",
    "elastic=20:2,rotate=50,shift=2",
    "shift=2,rotate=50,scale=0.3,elastic=20:2",
    "shift=3,elastic=20:2,vflip,elastic=9:1,shear=20",
]


def slow_bilinear(plane, y, x):
    """The value at one place of the plane; 0 outside."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                total += plane[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def source(maps, image, y, x):
    """Follow one position of the result through all maps to the source, in indices of pixels."""
    cy, cx = (HEIGHT - 1) / 2, (WIDTH - 1) / 2
    for drawn in reversed(maps):
        if hasattr(drawn, "matrix"):
            (yy, yx, y0), (xy, xx, x0) = drawn.matrix[image]
            v, u = y - cy, x - cx
            y, x = yy * v + yx * u + y0 + cy, xy * v + xx * u + x0 + cx
        else:
            inside = min(max(y, 0), HEIGHT - 1), min(max(x, 0), WIDTH - 1)
            dy, dx = (slow_bilinear(drawn.field[image, i], *inside) for i in range(2))
            y, x = y + dy, x + dx
    return y, x


def slow(chain, images, seed):
    rng = np.random.default_rng(seed)
    maps = [part.draw(rng, N, HEIGHT, WIDTH) for part in chain.transforms]
    result = np.zeros(images.shape)
    for image, channel, row, column in np.ndindex(images.shape):
        place = source(maps, image, row, column)
        result[image, channel, row, column] = slow_bilinear(images[image, channel], *place)
    return result


@pytest.mark.parametrize("spec", CHAINS)
def test_a_chain_is_one_reading_through_the_composed_maps(spec):
    chain = augment.parse(spec)
    expected = slow(chain, IMAGES, 7)
    np.testing.assert_allclose(chain(IMAGES, 7), expected, atol=1e-6 if "elastic" in spec else 1e-12)
    np.testing.assert_allclose(chain(IMAGES.astype(np.float32), 7), expected, atol=2e-5)
    np.testing.assert_allclose(chain((IMAGES * 255).round().astype(np.uint8), 7), expected * 255, atol=1.01)


def test_uint8_is_rounded_to_nearest():
    images = (IMAGES * 255).round().astype(np.uint8)
    chain = augment.parse("rotate=20,scale=0.2,shift=2")
    assert abs(chain(images, 3) - chain(images.astype(np.float64), 3)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_whole_pixels_are_moved_exactly(dtype):
    images = (IMAGES * 255).astype(dtype)
    moved = read(images, [affine(N, y=-2, x=1), affine(N, xx=-1)])
    np.testing.assert_array_equal(moved[:, :, 2:, 1:], images[:, :, :-2, :0:-1])
    assert not moved[:, :, :2].any()
    assert not moved[:, :, :, 0].any()


def test_quarter_turns_and_enlargements_are_what_they_say():
    square = IMAGES[:, :, :, :HEIGHT]
    np.testing.assert_allclose(
        read(square, [affine(N, 0, 1, -1, 0)]), np.rot90(square, axes=(2, 3)), atol=1e-12
    )
    doubled = read(square, [affine(N, yy=0.5, xx=0.5)])
    np.testing.assert_allclose(doubled[:, :, ::2, ::2], square[:, :, 2:7, 2:7], atol=1e-12)


def test_the_last_map_is_the_last_change():
    """Moved down by 1 and then turned by a quarter, a point lies beside the centre, not below it."""
    point = np.zeros((1, 1, 5, 5))
    point[0, 0, 2, 2] = 1
    down, turn = affine(1, y=-1), affine(1, 0, 1, -1, 0)
    assert np.argwhere(read(point, [down, turn])[0, 0] > 0.5).tolist() == [[2, 3]]
    assert np.argwhere(read(point, [turn, down])[0, 0] > 0.5).tolist() == [[3, 2]]


# -- what is drawn ------------------------------------------------------------------------------------------


def drawn(transform, n=4000):
    return transform.draw(np.random.default_rng(0), n, 28, 28).matrix


def assert_even(values, low, high):
    """Evenly spread over low … high, to about five standard deviations."""
    counts, _ = np.histogram(values, bins=8, range=(low, high))
    assert counts.sum() == len(values)
    assert abs(counts / len(values) - 1 / 8).max() < 0.027


def test_distances_angles_and_factors_are_even_over_their_ranges():
    unit = np.eye(2)
    shift = drawn(augment.Shift(2.5))
    assert (shift[:, :, :2] == unit).all()
    assert_even(shift[:, 0, 2], -2.5, 2.5)
    assert_even(shift[:, 1, 2], -2.5, 2.5)
    assert abs(np.corrcoef(shift[:, :, 2].T)[0, 1]) < 0.08  # each axis by itself

    turn = drawn(augment.Rotate(30))
    np.testing.assert_allclose(
        turn[:, :, :2] @ turn[:, :, :2].swapaxes(1, 2), np.tile(unit, (4000, 1, 1)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(turn[:, :, :2]), 1)
    assert_even(np.degrees(np.arctan2(turn[:, 0, 1], turn[:, 0, 0])), -30, 30)

    factor = drawn(augment.Scale(0.25))
    np.testing.assert_array_equal(factor[:, :, :2], factor[:, :1, :1] * unit)
    assert_even(np.log(factor[:, 0, 0]), -math.log(1.25), math.log(1.25))

    slant = drawn(augment.Shear(20))
    assert (slant[:, 0] == (1, 0, 0)).all()
    assert (slant[:, 1, 1] == 1).all()
    assert_even(np.degrees(np.arctan(slant[:, 1, 0])), -20, 20)
    assert not any(matrix[:, :, 2].any() for matrix in (turn, factor, slant))

    crop = drawn(augment.RandomCrop(2))[:, :, 2]
    assert [round((crop[:, 0] == step).mean(), 1) for step in range(-2, 3)] == [0.2] * 5


def test_the_elastic_field_is_smoothed_noise():
    height, width, sigma, alpha = 31, 37, 1.5, 8
    field = augment.Elastic(alpha, sigma).draw(np.random.default_rng(2), 2, height, width).field
    noise = 2 * np.random.default_rng(2).random((2, 2, height, width), dtype=np.float32).astype(float) - 1
    for row, column in ((15, 18), (12, 20), (17, 14)):  # far from the edges
        weights = np.array(
            [
                [math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2)) for x in range(width)]
                for y in range(height)
            ]
        )
        expected = alpha * (noise * weights / weights.sum()).sum(axis=(2, 3))
        np.testing.assert_allclose(field[:, :, row, column], expected, atol=1e-5)


@pytest.mark.parametrize(("alpha", "sigma"), [(34, 4), (8, 3), (5, 1)])
def test_displacements_are_as_large_as_documented_everywhere(alpha, sigma):
    field = augment.Elastic(alpha, sigma).draw(np.random.default_rng(0), 3000, 20, 24).field
    size = np.sqrt((field.astype(float) ** 2).mean(axis=(0, 1)))
    np.testing.assert_allclose(size, alpha / (6.14 * sigma), rtol=0.06)
    assert abs(field.mean(axis=(0, 1))).max() < 5 * size.max() / math.sqrt(6000)
