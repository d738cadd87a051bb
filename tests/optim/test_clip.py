"""Clipping against torch.nn.utils, and what it must leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.optim import SHAPES, draw, mentions
from xpcnn import nn, optim
from xpcnn.errors import ArgumentError, BackendError

HALF_RTOL = {"float16": 1e-3, "bfloat16": 8e-3}


def store(make: Any, values: dict[str, Any], dtype: str = "float64") -> tuple[nn.Gradients, dict[str, Any]]:
    """Gradients of these values, and their parameters by path."""
    grads, parameters = nn.Gradients(), {}
    for path, value in values.items():
        parameters[path] = nn.Parameter(np.zeros(np.shape(value)))
        grads.add(parameters[path], make.array(value, dtype))
    return grads, parameters


def torch_clip(name: str, values: dict[str, Any], dtype: str, bound: float) -> tuple[Any, dict[str, Any]]:
    torch = pytest.importorskip("torch")
    tensors = {path: torch.zeros(np.shape(value)).to(getattr(torch, dtype)) for path, value in values.items()}
    for path, tensor in tensors.items():
        tensor.grad = torch.tensor(np.asarray(values[path])).to(tensor.dtype)
    result = getattr(torch.nn.utils, name)(list(tensors.values()), bound)
    return result, {path: tensor.grad.to(torch.float64).numpy() for path, tensor in tensors.items()}


@pytest.mark.parametrize("max_norm", [0.01, 5.0, 1e6])
def test_norm_follows_torch(make: Any, dtype: str, max_norm: float) -> None:
    grads, parameters = store(make, draw(0), dtype)
    norm = optim.clip_grad_norm(grads, max_norm)
    expected_norm, expected = torch_clip("clip_grad_norm_", draw(0), dtype, max_norm)
    rtol = 1e-13 if dtype == "float64" else 1e-6
    make.check(norm, expected_norm.numpy(), dtype, rtol=rtol)
    for path, parameter in parameters.items():
        make.check(grads[parameter], expected[path], dtype, rtol=rtol)


def test_small_gradients_keep_their_bits(make: Any, dtype: str) -> None:
    grads, parameters = store(make, draw(0), dtype)
    before = {path: np.array(make.to_numpy(grads[p])) for path, p in parameters.items()}
    optim.clip_grad_norm(grads, 1e3)
    optim.clip_grad_value(grads, 1e3)
    for path, parameter in parameters.items():
        np.testing.assert_array_equal(make.to_numpy(grads[parameter]), before[path], strict=True)


@pytest.mark.parametrize("clip", [optim.clip_grad_norm, optim.clip_grad_value])
def test_arrays_that_callers_hold_are_not_written(make: Any, dtype: str, clip: Any) -> None:
    grads, _ = store(make, draw(0), dtype)
    held = [gradient for _, gradient in grads.items()]
    with make.unchanged(*held):
        clip(grads, 0.1)
    assert all(new is not old for (_, new), old in zip(grads.items(), held, strict=True))


@pytest.mark.parametrize("limit", [0.1, 100.0])
def test_value_follows_torch(make: Any, dtype: str, limit: float) -> None:
    grads, parameters = store(make, draw(0), dtype)
    assert optim.clip_grad_value(grads, limit) is None
    _, expected = torch_clip("clip_grad_value_", draw(0), dtype, limit)
    for path, parameter in parameters.items():
        make.check(grads[parameter], expected[path], dtype, rtol=0)


def test_after_backward(make: Any) -> None:
    """A store that a model filled still knows its paths, and the optimiser takes what is in it."""
    with make.use():
        model = nn.Sequential(fc=nn.Linear(3, 2, seed=1)).to(dtype="float64")
    grads = nn.Gradients()
    y, ctx = model.forward(make.array(np.ones((4, 3))))
    model.backward(ctx, y, grads)
    optim.clip_grad_norm(grads, 0.25)
    norm = np.sqrt(sum((make.to_numpy(grads[path]) ** 2).sum() for path in model.parameters()))
    np.testing.assert_allclose(norm, 0.25, rtol=1e-5)
    before = model.fc.weight.data
    optim.SGD(model).step(grads)
    assert model.fc.weight.data is not before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_summed_in_float32(make: Any, dtype: str) -> None:
    if not make.has(dtype):
        pytest.skip(f"no {dtype}")
    # 300² · 1000 is far above float16's largest number, and a bfloat16 sum would stop growing at 256 terms
    values = {"a": np.full((10, 100), 300.0), "b": np.asarray([-300.0])}
    grads, parameters = store(make, values, dtype)
    norm = optim.clip_grad_norm(grads, 30.0)
    make.check(norm, 300 * np.sqrt(1001), "float32")
    for path, parameter in parameters.items():
        make.check(grads[parameter], values[path] * 0.1 / np.sqrt(1001), dtype, rtol=HALF_RTOL[dtype])
    grads, parameters = store(make, values, dtype)
    optim.clip_grad_value(grads, 1e6)  # more than float16 holds
    make.check(grads[parameters["a"]], values["a"], dtype, rtol=HALF_RTOL[dtype])
    optim.clip_grad_value(grads, 0.5)
    make.check(grads[parameters["b"]], [-0.5], dtype, rtol=0)


def test_several_dtypes_keep_theirs(make: Any) -> None:
    grads = nn.Gradients()
    single, double = nn.Parameter(np.zeros(2)), nn.Parameter(np.zeros(1))
    grads.add(single, make.array([2.0, 3.0], "float32"))
    grads.add(double, make.array([6.0], "float64"))
    make.check(optim.clip_grad_norm(grads, 3.5), 7.0, "float64")
    make.check(grads[single], [1.0, 1.5], "float32", rtol=1e-6)
    make.check(grads[double], [3.0], "float64", rtol=1e-6)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_numbers_that_are_not_finite(make: Any, dtype: str, bad: float) -> None:
    values = {"a": np.asarray([1.0, bad]), "b": np.asarray([2.0])}
    grads, parameters = store(make, values, dtype)
    with np.errstate(invalid="ignore"):
        norm = optim.clip_grad_norm(grads, 1.0)
    expected_norm, expected = torch_clip("clip_grad_norm_", values, dtype, 1.0)
    np.testing.assert_array_equal(make.to_numpy(norm), expected_norm.numpy())
    for path, parameter in parameters.items():
        np.testing.assert_array_equal(make.to_numpy(grads[parameter]), expected[path])
    grads, parameters = store(make, values, dtype)
    optim.clip_grad_value(grads, 0.5)
    np.testing.assert_array_equal(make.to_numpy(grads[parameters["a"]]), np.clip([1.0, bad], -0.5, 0.5))


def test_nothing_to_clip(make: Any, dtype: str) -> None:
    grads, parameters = store(make, {path: np.zeros(shape) for path, shape in SHAPES.items()}, dtype)
    make.check(optim.clip_grad_norm(grads, 1e-9), 0.0, dtype)
    for path, parameter in parameters.items():
        make.check(grads[parameter], np.zeros(SHAPES[path]), dtype)
    empty = nn.Gradients()
    with make.use():
        make.check(optim.clip_grad_norm(empty, 1.0), 0.0, "float32")
        optim.clip_grad_value(empty, 1.0)
    assert len(empty) == 0


def test_two_libraries_have_no_common_norm() -> None:
    if xpcnn.available_backends()["array_api_strict"]:
        pytest.skip("no array_api_strict")
    grads = nn.Gradients()
    grads.add(nn.Parameter([0.0]), xpcnn.asarray([3.0]))
    with xpcnn.use_backend("array_api_strict"):
        grads.add(nn.Parameter([0.0]), xpcnn.asarray([4.0]))
    before = [gradient for _, gradient in grads.items()]
    with pytest.raises(BackendError, match=mentions("clip_grad_norm", "numpy", "array_api_strict")):
        optim.clip_grad_norm(grads, 1.0)
    assert all(new is old for (_, new), old in zip(grads.items(), before, strict=True))
    optim.clip_grad_value(grads, 1.0)  # needs none
    assert [float(gradient[0]) for _, gradient in grads.items()] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("clip", "name"), [(optim.clip_grad_norm, "max_norm"), (optim.clip_grad_value, "limit")]
)
def test_refused(clip: Any, name: str) -> None:
    for bound in (0, float("inf"), float("nan"), "1"):
        with pytest.raises(ArgumentError, match=f"{clip.__name__}: {name} must be"):
            clip(nn.Gradients(), bound)
    with pytest.raises(ArgumentError, match=f"{clip.__name__}: grads must be the nn.Gradients.*got dict"):
        clip({}, 1.0)
