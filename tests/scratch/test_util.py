"""Columns and images, sizes, shuffling, smoothing; numerical differentiation."""

import numpy as np
import pytest

from tests.support import oracles
from tests.support.scratch import draw, writable
from xpcnn.errors import DtypeError, ShapeError
from xpcnn.scratch import gradient, util

GEOMETRIES = [(5, 5, 1, 0), (3, 3, 1, 1), (2, 3, 2, 1), (2, 2, 3, 0)]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_im2col_and_col2im(make, dtype, geometry):
    fh, fw, stride, pad = geometry
    x = draw(2, 3, 7, 6)
    strides, pads = (stride, stride), (pad,) * 4
    columns = oracles.im2col(x, (fh, fw), strides, pads)
    make.check(util.im2col(make.array(x, dtype), fh, fw, stride, pad), columns, dtype)
    back = oracles.col2im(columns, x.shape, (fh, fw), strides, pads)
    make.check(util.col2im(make.array(columns, dtype), x.shape, fh, fw, stride, pad), back, dtype)


@pytest.mark.parametrize("kind", ["uint8", "int64", "float32", "float16"])
def test_the_dtype_is_kept_and_stride_and_padding_may_be_left_out(make, kind):
    if not make.has(kind):
        pytest.skip(f"no {kind}")
    x = np.arange(32).reshape(1, 2, 4, 4)
    for stride, options in ((2, {"stride": 2}), (1, {})):
        columns = util.im2col(make.array(x, kind), 2, 2, **options)
        expected = oracles.im2col(x.astype(float), (2, 2), (stride, stride), (0,) * 4)
        make.check_kind(columns, expected.shape, kind)
        np.testing.assert_array_equal(make.to_numpy(columns), expected)
        folded = util.col2im(columns, x.shape, 2, 2, **options)
        make.check_kind(folded, x.shape, kind)
        expected = oracles.col2im(expected, x.shape, (2, 2), (stride, stride), (0,) * 4)
        np.testing.assert_array_equal(make.to_numpy(folded), expected.astype(kind))


def test_output_sizes_are_whole_numbers():
    for arguments, size in (((28, 5, 2), 12), ((7, 3, 2, 1), 4)):
        found = util.conv_output_size(*arguments)
        assert (found, type(found)) == (size, int)


def test_shuffling_keeps_samples_with_their_labels(make):
    for shape in [(30, 1, 2, 2), (30,)]:
        x = np.arange(30 * int(np.prod(shape[1:]))).reshape(shape)
        t = x.reshape(30, -1)[:, 0]
        with make.unchanged(given := (make.array(x), make.array(t))):
            new_x, new_t = (make.to_numpy(array) for array in util.shuffle_dataset(*given))
        assert new_x.shape == shape
        np.testing.assert_array_equal(new_x.reshape(30, -1)[:, 0], new_t)
        assert sorted(new_t) == sorted(t)
        assert list(new_t) != list(t)
    np.random.seed(7)
    expected = np.random.permutation(30)
    np.random.seed(7)
    np.testing.assert_array_equal(util.shuffle_dataset(np.arange(30), np.arange(30))[0], expected)
    with pytest.raises(
        ShapeError, match=r"shuffle_dataset: samples of shape \(3, 2\) with labels of shape \(4,\)"
    ):
        util.shuffle_dataset(np.zeros((3, 2)), np.zeros(4))


@pytest.mark.parametrize("n", [0, 10, 11, 12, 40])
def test_smoothing(make, n):
    """Each point is the weighted mean of the 11 around it, the curve continued by its mirror image.

    The last point is its own neighbour. A curve shorter than the window stays as it is.
    """
    curve, weights = draw(n), np.kaiser(11, 2) / np.kaiser(11, 2).sum()
    expected = curve
    if n >= 11:
        around = [abs(i) if i < n else 2 * n - 1 - i for i in range(-5, n + 5)]
        expected = np.array([weights @ curve[around[i : i + 11]] for i in range(n)])
    for given in (make.array(curve), list(curve), [make.array(point) for point in curve]):
        smooth = util.smooth_curve(given)
        assert isinstance(smooth, np.ndarray)
        np.testing.assert_allclose(smooth, expected, rtol=1e-12)


# -- numerical differentiation ---------------------------------------------------------


def cubes(make):
    """Σ x³ of whatever shape, whose gradient is 3x²."""
    return lambda x: make.xp.sum(x * x * x)


@pytest.mark.parametrize("shape", [(2, 1, 2, 2), (1,), ()])
def test_gradient_of_a_polynomial(make, shape):
    """The function may read x instead of its argument, as the book's ``lambda W: self.loss(x, t)`` does."""
    values, f = draw(*shape), cubes(make)
    x = writable(make, values)
    for g in (f, lambda _: f(x)):
        with make.unchanged(x):
            found = gradient.numerical_gradient(g, x)
        make.check(found, 3 * values**2, "float64", rtol=1e-7, scale=1.0)


def test_float32_keeps_its_dtype_and_integers_are_refused(make):
    found = gradient.numerical_gradient(cubes(make), writable(make, [1.0, -0.5], "float32"))
    make.check(found, [3.0, 0.75], "float32", rtol=1e-2)
    with pytest.raises(DtypeError, match=r"must be floating, got int64.*write np.array\(\[3.0, 4.0\]\)"):
        gradient.numerical_gradient(lambda x: 0.0, make.array(np.array([3, 4])))


def test_functions_of_vectors_at_the_rows_of_a_matrix(make):
    values, f = draw(4, 2), cubes(make)

    def of_vectors(x):
        assert x.ndim == 1
        return f(x)

    for at in (values, values[0]):
        found = gradient.numerical_gradient_2d(of_vectors, writable(make, at))
        make.check(found, 3 * at**2, "float64", rtol=1e-7, scale=1.0)


def test_the_step_is_the_books_and_x_is_put_back_when_the_function_fails():
    seen = []
    gradient.numerical_gradient(lambda x: seen.append(float(x[0])) or 0.0, np.array([2.0]))
    assert seen == [2.0 + 1e-4, 2.0 - 1e-4]
    x = draw(3)

    def fails(_):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        gradient.numerical_gradient(fails, x)
    np.testing.assert_array_equal(x, draw(3))
