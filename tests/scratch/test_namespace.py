"""The stand-in for ``import numpy as np``."""

import sys
import threading
from types import ModuleType

import numpy
import pytest

import xpcnn
from xpcnn.scratch import _namespace, np
from xpcnn.scratch._namespace import random_of


@pytest.fixture(params=["array_api_strict", "torch"])
def other(request):
    """A backend whose library is not made like NumPy."""
    if reason := xpcnn.available_backends()[request.param]:
        pytest.skip(reason)
    return request.param


def values(x):
    return xpcnn.to_numpy(x).tolist()


def test_with_numpy_it_is_numpy_and_a_module():
    for name in ("array", "dot", "kaiser", "newaxis", "float32", "ndarray", "random", "linalg", "r_", "pi"):
        assert getattr(np, name) is getattr(numpy, name)
    assert isinstance(np, ModuleType)
    assert repr(np) == "<module 'np'>"
    assert not hasattr(np, "__path__")
    assert "NumPy" in np.__doc__


def test_with_cupy_it_is_cupy(monkeypatch):
    """CuPy itself, not its array API namespace."""

    class Library(ModuleType):
        zeros = "cupy.zeros"
        random = "cupy.random"

    class Backend:
        name = "cupy"
        xp = None

    monkeypatch.setattr(_namespace, "get_backend", Backend)
    monkeypatch.setitem(sys.modules, "cupy", Library("cupy"))
    assert (np.zeros, np.random) == ("cupy.zeros", "cupy.random")
    assert random_of(Backend()) == "cupy.random"  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="cupy"):
        _ = np.no_such_thing


def test_names_are_looked_up_at_each_use_in_each_thread(other):
    """In others that is the process default: a `use_backend` block belongs to its context."""
    seen = []
    with xpcnn.use_backend(other):
        assert xpcnn.backend_of(np.zeros(2)).name == other
        thread = threading.Thread(target=lambda: seen.append(xpcnn.backend_of(np.zeros(1)).name))
        thread.start()
        thread.join()
    assert seen == ["numpy"]
    assert isinstance(np.zeros(2), numpy.ndarray)


def test_what_the_books_scripts_use(other):
    with xpcnn.use_backend(other):
        x = np.array([[1.0, -2.0], [3.0, 4.0]])
        assert xpcnn.backend_of(x).name == other
        assert values(np.dot(x, np.array([1.0, 1.0]))) == [-1, 7]
        assert values(np.dot(x, x)) == [[-5, -10], [15, 10]]
        assert float(np.dot(x[0, :], x[1, :])) == -5
        assert values(np.argmax(x, axis=1)) == [0, 1]
        assert values(np.sum(x, axis=0)) == [4, 2]
        assert values(np.zeros_like(x)) == [[0, 0], [0, 0]]
        assert values(np.maximum(0, x)) == [[1, 0], [3, 4]]
        assert values(np.abs(x)) == [[1, 2], [3, 4]]
        assert float(np.average(x)) == float(np.mean(x)) == 1.5
        assert values(np.arange(3)) == [0, 1, 2]
        assert values(np.ones((1, 2))) == [[1, 1]]
        assert x[:, np.newaxis, :].shape == (2, 1, 2)
        assert np.array([1, 2], dtype=np.float32).dtype == np.float32
        assert values(np.array([x[0, :], x[1, :]])) == values(x)
        assert np.array(3.0).shape == ()
        y = np.array(x)
        y += 1
        assert values(x) == [[1, -2], [3, 4]]  # new arrays are the script's own
        # Functions of plain numbers: the scale of initial values, which multiplies an array afterwards.
        scale = np.sqrt(2.0 / 8)
        assert (scale, type(scale), np.ceil(2.1)) == (0.5, float, 3)
        assert values(np.sqrt(np.array([4.0])) * scale) == [1]


def test_arrays_are_made_on_the_backends_device():
    with xpcnn.use_backend("array_api_strict", device="device1") as backend:
        made = [np.zeros(2), np.ones(2), np.arange(2), np.array([1.0]), np.random.rand(2), np.full(2, 1.0)]
    assert {str(x.device) for x in made} == {str(backend.device)}
    assert str(np.zeros(1).device) == "cpu"


def test_draws_follow_the_seed_on_every_backend(make):
    with make.use():
        drawn = []
        for _ in range(2):
            np.random.seed(5)
            one = np.random.randn(2, 3), np.random.rand(4), np.random.permutation(6), np.random.choice(10, 3)
            drawn.append(one)
    for first, second in zip(*drawn, strict=True):
        assert xpcnn.backend_of(first).name == make.backend
        numpy.testing.assert_array_equal(make.to_numpy(first), make.to_numpy(second))
    if make.backend != "cupy":  # the others draw on the host
        numpy.random.seed(5)
        numpy.testing.assert_allclose(make.to_numpy(drawn[0][0]), numpy.random.randn(2, 3), rtol=1e-6)


def test_draws_of_other_libraries_and_what_they_have_not(other):
    with xpcnn.use_backend(other):
        assert np.random.rand(3).dtype == np.zeros(1).dtype
        assert "int" in str(np.random.permutation(3).dtype)
        assert type(np.random.rand()) is type(np.random.uniform(-4, -8)) is float
        assert sorted(values(np.random.permutation(np.arange(4)))) == [0, 1, 2, 3]
        with pytest.raises(
            AttributeError, match=rf"backend {other} has no 'nditer'; numpy and cupy have all"
        ):
            _ = np.nditer
        with pytest.raises(AttributeError, match=rf"'shuffle' is not offered on the backend {other}"):
            _ = np.random.shuffle
