"""Numerical differentiation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.scratch import draw, writable
from xpcnn.errors import DtypeError
from xpcnn.scratch import gradient


def cubes(make: Any) -> Any:
    """Σ x³ of whatever shape, whose gradient is 3x²."""
    return lambda x: make.xp.sum(x * x * x)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 1, 2, 2), (1,), ()])
def test_gradient_of_a_polynomial(make: Any, shape: tuple[int, ...]) -> None:
    values = draw(*shape)
    x = writable(make, values)
    with make.unchanged(x):
        make.check(
            gradient.numerical_gradient(cubes(make), x), 3 * values**2, "float64", rtol=1e-7, scale=1.0
        )


def test_a_function_may_look_at_x_instead_of_its_argument(make: Any) -> None:
    """The book's ``lambda W: self.loss(x, t)``."""
    values = draw(3, 2)
    x = writable(make, values)
    f = cubes(make)
    make.check(gradient.numerical_gradient(lambda _: f(x), x), 3 * values**2, "float64", rtol=1e-7, scale=1.0)


def test_the_step_is_the_books() -> None:
    seen: list[float] = []
    gradient.numerical_gradient(lambda x: seen.append(float(x[0])) or 0.0, np.array([2.0]))
    assert seen == [2.0 + 1e-4, 2.0 - 1e-4]


def test_functions_of_vectors_at_the_rows_of_a_matrix(make: Any) -> None:
    values = draw(4, 2)
    f = cubes(make)

    def of_vectors(x: Any) -> Any:
        assert x.ndim == 1
        return f(x)

    for at in (values, values[0]):
        found = gradient.numerical_gradient_2d(of_vectors, writable(make, at))
        make.check(found, 3 * at**2, "float64", rtol=1e-7, scale=1.0)
    found = gradient._numerical_gradient_1d(of_vectors, writable(make, values[0]))
    make.check(found, 3 * values[0] ** 2, "float64", rtol=1e-7, scale=1.0)


def test_x_is_put_back_when_the_function_fails() -> None:
    x = draw(3)

    def fails(_: Any) -> float:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        gradient.numerical_gradient(fails, x)
    np.testing.assert_array_equal(x, draw(3))


def test_integers_are_refused(make: Any) -> None:
    with pytest.raises(DtypeError, match=r"must be floating, got int64.*write np.array\(\[3.0, 4.0\]\)"):
        gradient.numerical_gradient(lambda x: 0.0, make.array(np.array([3, 4])))


def test_float32_keeps_its_dtype(make: Any) -> None:
    found = gradient.numerical_gradient(cubes(make), writable(make, [1.0, -0.5], "float32"))
    make.check(found, [3.0, 0.75], "float32", rtol=1e-2)
