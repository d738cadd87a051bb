"""asarray and to_numpy, the only two ways across; backend_of and namespace, which ask the arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.backend import mentions, need
from xpcnn import errors
from xpcnn.backend import dtype_name, is_array, is_floating, itemsize
from xpcnn.testing import assert_close

DTYPES = ["float16", "float32", "float64", "uint8", "int64", "bool"]


def layouts(values: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The same array of three axes in every way NumPy can hold it."""
    readonly = values.copy()
    readonly.flags.writeable = False
    return {
        "plain": values,
        "read-only": readonly,
        "Fortran": np.asfortranarray(values),
        "backwards": values[::-1, :, ::-1].copy()[::-1, :, ::-1],
        "transposed": values.transpose(2, 0, 1).copy().transpose(1, 2, 0),
        "every other": np.repeat(values, 2, axis=1)[:, ::2],
        "read-only, backwards": readonly[::-1].copy()[::-1],
    }


@pytest.mark.parametrize("name", DTYPES)
def test_asarray_keeps_values_and_dtype(make: Any, name: str) -> None:
    if not make.has(name):
        pytest.skip(f"{make.backend} has no {name}")
    values = np.arange(24).reshape(2, 3, 4).astype(name)
    with make.use():
        for layout, host in layouts(values).items():
            x = xpcnn.asarray(host)
            make.check_kind(x, (2, 3, 4), name)
            np.testing.assert_array_equal(make.to_numpy(x), values, err_msg=layout)
            back = xpcnn.to_numpy(x)
            assert type(back) is np.ndarray
            assert back.dtype == values.dtype
        for host in (np.asarray(1, name), np.zeros((0, 3), name), np.dtype(name).type(1)):
            x = xpcnn.asarray(host)
            make.check_kind(x, host.shape, name)
            np.testing.assert_array_equal(xpcnn.to_numpy(x), host)


def test_sequences_and_numbers(make: Any) -> None:
    expected = {
        "float64": ([[1.0, 2.0], [3.0, 4.0]], (1.0, 2.0), 2.5, []),
        "int64": ([1, 2],),
        "bool": ([True, False],),
    }
    with make.use():
        for dtype, things in expected.items():
            for thing in things:
                make.check(xpcnn.asarray(thing), np.asarray(thing), dtype, rtol=0)


def test_dtype_in_every_spelling(make: Any) -> None:
    with make.use():
        for dtype in ("float32", np.float32, np.dtype("float32"), make.xp.float32):
            for given in ([1, 2], (1.0, 2.0), np.asarray([1, 2], "uint8"), np.asarray([1.0, 2.0])):
                make.check(xpcnn.asarray(given, dtype=dtype), [1.0, 2.0], "float32", rtol=0)
        x = xpcnn.asarray([1.7, 0.0])
        for dtype, values in {"int64": [1, 0], "bool": [True, False]}.items():
            assert_close(xpcnn.asarray(x, dtype=dtype), values, dtype=dtype)
        with pytest.raises(errors.BackendError, match=mentions(make.backend, "'float13'")):
            xpcnn.asarray([1.0], dtype="float13")


@pytest.mark.parametrize("source", ["numpy", "torch", "array_api_strict"])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_from_every_other_backend(make: Any, source: str, dtype: str) -> None:
    need(source)
    values = np.arange(6).reshape(2, 3).astype(dtype)
    with xpcnn.use_backend(source):
        theirs = xpcnn.asarray(values)
    with make.use():
        ours = xpcnn.asarray(theirs)
    make.check_kind(ours, (2, 3), dtype)
    np.testing.assert_array_equal(make.to_numpy(ours), values)
    assert_close(ours, theirs)


def test_memory_is_shared_but_never_written_when_read_only(make: Any) -> None:
    x, host = make.array([1.0, 2.0]), np.asarray([1.0, 2.0])
    host.flags.writeable = False
    with make.use():
        if make.backend in ("numpy", "torch"):
            assert np.shares_memory(xpcnn.to_numpy(xpcnn.asarray(x)), xpcnn.to_numpy(x))
        y = xpcnn.asarray(host)
    if make.backend != "numpy":  # NumPy refuses by itself
        y[0] = 5.0
    assert xpcnn.to_numpy(host) is host
    np.testing.assert_array_equal(host, [1.0, 2.0])


def test_torch_autograd_is_left_behind() -> None:
    need("torch")
    import torch

    leaf = torch.ones(2, requires_grad=True)
    np.testing.assert_array_equal(xpcnn.asarray(leaf), [1.0, 1.0])
    assert type(xpcnn.to_numpy(leaf * 2)) is np.ndarray
    with xpcnn.use_backend("torch"):
        assert not xpcnn.asarray(leaf).requires_grad


def test_bfloat16_arrives_as_float32(make: Any) -> None:
    if not make.has("bfloat16"):
        pytest.skip(f"{make.backend} has no bfloat16")
    x = make.array([1.0, 3.140625], "bfloat16")
    host = xpcnn.to_numpy(x)
    assert type(host) is np.ndarray
    assert host.dtype == np.float32
    np.testing.assert_array_equal(host, [1.0, 3.140625])
    with xpcnn.use_backend("numpy"):  # so it can go on to any library
        assert xpcnn.asarray(x).dtype == np.float32


# Which backend ------------------------------------------------------------------------------------------


def test_backend_of(make: Any) -> None:
    x, y = make.array([1.0]), make.array([[2]])
    backend = xpcnn.backend_of(x, y)
    assert backend.name == make.backend
    assert xpcnn.backend_of(None, x, None, y) is xpcnn.backend_of(y) is backend
    assert xpcnn.namespace(None, x) is backend.xp
    assert float(backend.xp.sum(x)) == 1.0


@pytest.mark.parametrize("other", ["numpy", "torch", "array_api_strict"])
def test_two_backends(make: Any, other: str) -> None:
    need(other)
    if other == make.backend:
        pytest.skip("the same")
    with xpcnn.use_backend(other):
        theirs = xpcnn.asarray([1.0])
    for ask in (xpcnn.namespace, xpcnn.backend_of):
        with pytest.raises(
            errors.BackendError,
            match=mentions(f"{make.backend} (", f"{other} (", "xpcnn.asarray", "to_numpy", "use_backend"),
        ):
            ask(make.array([1.0]), None, theirs)


def test_two_devices() -> None:
    need("array_api_strict")
    arrays = []
    for device in ("cpu", "device1"):
        with xpcnn.use_backend("array_api_strict", device):
            arrays.append(xpcnn.asarray([1.0]))
    with pytest.raises(errors.BackendError, match=mentions("CPU_DEVICE", "device1")):
        xpcnn.backend_of(*arrays)
    with pytest.raises(errors.BackendError, match=mentions("linear", "CPU_DEVICE", "device1")):
        xpcnn.ops.linear(arrays[0], arrays[1][None, :])


@pytest.mark.parametrize(
    "thing",
    [[1.0], (1.0,), 1.0, 1, True, "x", object(), np.ndarray, range(3)],
    ids=lambda thing: type(thing).__name__,
)
def test_no_array(thing: Any) -> None:
    assert not is_array(thing)
    for ask in (xpcnn.backend_of, xpcnn.namespace, xpcnn.to_numpy):
        with pytest.raises(errors.BackendError, match=mentions(type(thing).__name__, "xpcnn.asarray")):
            ask(thing)
    with pytest.raises(errors.BackendError, match="no array"):
        xpcnn.backend_of(None, None)


def test_other_things_of_a_library_are_no_arrays() -> None:
    need("torch")
    import torch

    for thing in (torch.Size([2]), torch.nn.Linear(1, 1), torch.float32, torch.device("cpu")):
        assert not is_array(thing)
        with pytest.raises(errors.BackendError, match="expected an array"):
            xpcnn.backend_of(thing)
    assert xpcnn.asarray(torch.Size([2, 3])).tolist() == [2, 3]
    assert is_array(torch.nn.Parameter(torch.ones(1)))


def test_scalars_and_subclasses_are_their_librarys_arrays() -> None:
    """NumPy's functions answer with scalars where other libraries give 0-d arrays."""

    class Mine(np.ndarray):
        pass

    x = np.ones(2).view(Mine)
    assert is_array(np.float32(1))
    assert xpcnn.backend_of(np.float32(1), x) is xpcnn.backend_of(np.ones(2))
    assert type(xpcnn.asarray(x)) in (np.ndarray, Mine)


# dtypes -------------------------------------------------------------------------------------------------


def test_dtype_names_and_sizes(make: Any) -> None:
    for name, size in {"float16": 2, "float32": 4, "float64": 8, "uint8": 1, "complex64": 8}.items():
        if make.has(name):
            dtype = make.dtype(name)
            assert dtype_name(dtype) == dtype_name(name) == name
            assert itemsize(dtype) == itemsize(name) == size
            assert is_floating(dtype) == is_floating(name) == name.startswith("float")


def test_sizes_by_name_and_unknown_dtypes() -> None:
    """Dtypes of two libraries may hash alike; array_api_strict warns when they are compared."""
    import array_api_strict

    for dtype in (np.dtype("float32"), array_api_strict.float32, np.dtype("float32"), np.float32):
        assert dtype_name(dtype) == "float32"
        assert itemsize(dtype) == 4
    assert dtype_name(array_api_strict.bool) == "bool"
    assert itemsize("bfloat16") == 2
    assert is_floating("bfloat16")
    with pytest.raises(errors.BackendError, match="'quaternion'"):
        itemsize("quaternion")
