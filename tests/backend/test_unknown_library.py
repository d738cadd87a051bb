"""A library xpcnn has never heard of, through the array API standard alone: a thin wrapper around NumPy."""

from __future__ import annotations

import operator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Key, errors, nn, ops
from xpcnn.testing import assert_close, gradcheck


class TinyArray:
    """An array that answers only for itself: no NumPy function and no NumPy operand works on it."""

    __array_ufunc__ = None

    def __init__(self, host: Any) -> None:
        self._host = np.asarray(host)

    dtype, shape, ndim, size = (
        property(operator.attrgetter(f"_host.{name}")) for name in ("dtype", "shape", "ndim", "size")
    )
    device = "cpu"

    def __array_namespace__(self, api_version: str | None = None) -> ModuleType:
        return tiny

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self._host

    def __getitem__(self, key: Any) -> TinyArray:
        return TinyArray(self._host[unwrap(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[unwrap(key)] = unwrap(value)


def unwrap(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        raise TypeError("tinyarray takes no NumPy arrays")
    if isinstance(value, tuple | list):
        return type(value)(map(unwrap, value))
    return value._host if isinstance(value, TinyArray) else value


def wrap(value: Any) -> Any:
    return TinyArray(value) if isinstance(value, np.ndarray | np.generic) else value


def operation(function: Any) -> Any:
    return lambda *args, **kwargs: wrap(
        function(*map(unwrap, args), **{name: unwrap(value) for name, value in kwargs.items()})
    )


def install_operators() -> None:
    arithmetic = ("add", "sub", "mul", "truediv", "matmul", "pow")
    for name in (*arithmetic, "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor", "neg", "abs", "invert"):
        setattr(TinyArray, f"__{name}__", operation(getattr(operator, f"__{name}__")))
    for name in arithmetic:
        forward = getattr(operator, f"__{name}__")
        reflected = operation(lambda self, other, forward=forward: forward(other, self))
        setattr(TinyArray, f"__r{name}__", reflected)
    for name in ("float", "int", "bool"):
        setattr(TinyArray, f"__{name}__", lambda self, name=name: getattr(self._host, f"__{name}__")())


class TinyNamespace(ModuleType):
    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        return found if isinstance(found, type) or not callable(found) else operation(found)

    def asarray(self, x: Any, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
        return TinyArray(np.array(getattr(x, "_host", x), dtype=dtype, copy=copy))


tiny = TinyNamespace("tinyarray")
install_operators()


def on_tiny(layer: nn.Layer) -> nn.Layer:
    """The layer with its state moved. No backend has this name, but arrays say where they live."""
    for state in (*layer.parameters().values(), *layer.buffers().values()):
        state.data = tiny.asarray(state.data)
    return layer


def network(seed: int = 0) -> nn.Layer:
    common: dict[str, Any] = {"seed": np.random.default_rng(seed), "dtype": "float64"}
    first, second = nn.Conv2d(1, 2, 3, padding=1, **common), nn.Conv2d(2, 2, 3, padding=1, groups=2, **common)
    return nn.Sequential(
        *(first, nn.BatchNorm2d(2, dtype="float64"), nn.ReLU(), nn.Concat(second, nn.Residual(nn.Tanh()))),
        *(nn.MaxPool2d(2), nn.Dropout(0.3), nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(4, 3, **common)),
    )


X = np.random.default_rng(1).standard_normal((2, 1, 4, 4))


def test_backend() -> None:
    x = tiny.asarray(X)
    backend = xpcnn.backend_of(x)
    assert (backend.name, backend.xp, backend.device) == ("tinyarray", tiny, "cpu")
    assert xpcnn.namespace(x, None, tiny.asarray([1])) is tiny
    assert type(xpcnn.to_numpy(x)) is np.ndarray
    assert_close(x, X, backend="tinyarray", rtol=0)
    assert_close(xpcnn.asarray(x), X, backend="numpy", rtol=0)
    assert type(backend.asarray(X, "float32")) is TinyArray
    with pytest.raises(errors.BackendError, match="tinyarray"):
        xpcnn.backend_of(x, X)


def test_training_step_gives_numpys_values() -> None:
    """Forward, loss and backward: the same numbers as on NumPy."""
    results = []
    for model, move in ((network(), np.asarray), (on_tiny(network()), tiny.asarray)):
        logits, ctx = model.forward(move(X), train=True, key=Key(0))
        loss, loss_ctx = ops.softmax_cross_entropy(logits, move(np.asarray([2, 0])))
        grads = nn.Gradients()
        dx = model.backward(ctx, ops.softmax_cross_entropy.backward(loss_ctx), grads)
        results.append([logits, loss, dx, *(grads[path] for path in model.parameters())])
        results[-1] += model.state_dict().values()
    for ours, expected in zip(results[1], results[0], strict=True):
        # The gradient of the last bias is zero, but for rounding.
        assert_close(ours, xpcnn.to_numpy(expected), backend="tinyarray", rtol=1e-12, atol=1e-15)


def test_gradients() -> None:
    gradcheck(on_tiny(network()), tiny.asarray(X), train=True, directional=True)


def test_saved_state() -> None:
    model, other = on_tiny(network()), on_tiny(network(seed=5))
    other.load_state_dict(model.state_dict())
    assert_close(other(tiny.asarray(X)), model(tiny.asarray(X)), rtol=0, backend="tinyarray")
    plain = network(seed=5)
    plain.load_state_dict(model.state_dict())
    assert_close(plain(X), xpcnn.to_numpy(model(tiny.asarray(X))), backend="numpy")
