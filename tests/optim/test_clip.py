"""Clipping against torch.nn.utils, and what it must leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.optim import SHAPES, draw, mentions
from xpcnn import nn, optim
from xpcnn.errors import ArgumentError, BackendError

ZEROS = {path: np.zeros(shape) for path, shape in SHAPES.items()}
CASES = {f"drawn, {norm:g}": (draw(0), norm) for norm in (0.01, 5.0, 1e6)} | {"zeros": (ZEROS, 1e-9)}
CASES |= {
    str(bad): ({"a": np.array([1, bad]), "b": np.array([2.0])}, 1.0) for bad in (np.inf, -np.inf, np.nan)
}


def store(make: Any, values: dict[str, Any], dtype: str = "float64") -> tuple[nn.Gradients, dict[str, Any]]:
    """Gradients of these values, and their parameters by path."""
    grads, parameters = nn.Gradients(), {}
    for path, value in values.items():
        parameters[path] = nn.Parameter(np.zeros(np.shape(value)))
        grads.add(parameters[path], make.array(value, dtype))
    return grads, parameters


@pytest.mark.parametrize(("values", "max_norm"), CASES.values(), ids=CASES)
def test_follows_torch(make: Any, dtype: str, values: dict[str, Any], max_norm: float) -> None:
    torch = pytest.importorskip("torch")
    tensors = {path: torch.zeros(np.shape(value)).to(getattr(torch, dtype)) for path, value in values.items()}
    for path, tensor in tensors.items():
        tensor.grad = torch.tensor(np.asarray(values[path])).to(tensor.dtype)
    expected = torch.nn.utils.clip_grad_norm_(list(tensors.values()), max_norm)
    grads, parameters = store(make, values, dtype)
    held = [gradient for _, gradient in grads.items()]
    with make.unchanged(*held), np.errstate(invalid="ignore"):
        norm = optim.clip_grad_norm(grads, max_norm)
    rtol = 1e-13 if dtype == "float64" else 1e-6
    make.check(norm, expected.numpy(), dtype, rtol=rtol)
    for path, parameter in parameters.items():
        make.check(grads[parameter], tensors[path].grad.numpy(), dtype, rtol=rtol)
    if max_norm == 1e6:  # to the last bit
        for (_, new), old in zip(grads.items(), held, strict=True):
            np.testing.assert_array_equal(make.to_numpy(new), make.to_numpy(old))


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


@pytest.mark.parametrize(("dtype", "rtol"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_half_precision_is_summed_in_float32(make: Any, dtype: str, rtol: float) -> None:
    if not make.has(dtype):
        pytest.skip(f"no {dtype}")
    # 300² · 1000 is far above float16's largest number, and a bfloat16 sum would stop growing at 256 terms
    values = {"a": np.full((10, 100), 300.0), "b": np.asarray([-300.0])}
    grads, parameters = store(make, values, dtype)
    make.check(optim.clip_grad_norm(grads, 30.0), 300 * np.sqrt(1001), "float32")
    for path, parameter in parameters.items():
        make.check(grads[parameter], values[path] * 0.1 / np.sqrt(1001), dtype, rtol=rtol)


def test_several_dtypes_keep_theirs_and_an_empty_store(make: Any) -> None:
    grads = nn.Gradients()
    single, double = nn.Parameter(np.zeros(2)), nn.Parameter(np.zeros(1))
    grads.add(single, make.array([2.0, 3.0], "float32"))
    grads.add(double, make.array([6.0], "float64"))
    make.check(optim.clip_grad_norm(grads, 3.5), 7.0, "float64")
    make.check(grads[single], [1.0, 1.5], "float32", rtol=1e-6)
    make.check(grads[double], [3.0], "float64", rtol=1e-6)
    with make.use():
        make.check(optim.clip_grad_norm(nn.Gradients(), 1.0), 0.0, "float32")


def test_refused() -> None:
    for bound in (0, float("inf"), float("nan"), "1"):
        with pytest.raises(ArgumentError, match="clip_grad_norm: max_norm must be"):
            optim.clip_grad_norm(nn.Gradients(), bound)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"clip_grad_norm: grads must be the nn.Gradients.*got dict"):
        optim.clip_grad_norm({}, 1.0)  # type: ignore[arg-type]
    grads = nn.Gradients()
    grads.add(nn.Parameter([0.0]), xpcnn.asarray([3.0]))
    with xpcnn.use_backend("array_api_strict"):
        grads.add(nn.Parameter([0.0]), xpcnn.asarray([4.0]))
    with pytest.raises(BackendError, match=mentions("two backends", "numpy", "array_api_strict")):
        optim.clip_grad_norm(grads, 1.0)
    assert [float(gradient[0]) for _, gradient in grads.items()] == [3.0, 4.0]
