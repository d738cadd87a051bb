"""Steps that a backend does for all parameters at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.optim import CASES
from xpcnn import nn, optim
from xpcnn.backend.reference import reference_mode

MARKS = {"SGD": "sgd", "AdaGrad": "adagrad", "RMSprop": "rmsprop", "Adam": "adam", "AdamW": "adamw"}


class Kernel:
    """Stands for a backend's kernel: notes what it was given, and returns new arrays of sevens, or none."""

    def __init__(self, serves: bool = True) -> None:
        self.serves = serves
        self.calls: list[Any] = []

    def __call__(self, updates: list[Any]) -> Any:
        self.calls.append(updates)
        return [np.full_like(data, 7) for data, *_ in updates] if self.serves else NotImplemented


def parameters(dtype: str = "float64") -> dict[str, nn.Parameter]:
    return {path: nn.Parameter([1.0, 2.0], dtype=dtype) for path in ("first", "second", "third")}


def gradients(*given: nn.Parameter) -> nn.Gradients:
    grads = nn.Gradients()
    for parameter in given:
        grads.add(parameter, xpcnn.asarray([0.5, -0.5], dtype=parameter.dtype))
    return grads


def install(monkeypatch: pytest.MonkeyPatch, **kernels: Kernel) -> None:
    monkeypatch.setattr(xpcnn.get_backend(), "kernels", kernels)


@pytest.mark.parametrize(("kind", "options"), [*CASES.values()], ids=[*CASES])
def test_a_kernel_takes_the_step(kind: Any, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    install(monkeypatch, **{f"{MARKS[kind.__name__]}_step": kernel})
    model = parameters()
    old = {path: parameter.data for path, parameter in model.items()}
    optimizer = kind(model, groups={"second": {"lr": 0.25}}, **options)
    model["third"].trainable = False
    optimizer.step(gradients(*model.values()))
    optimizer.step(gradients(model["second"]))
    first, second = kernel.calls
    assert [len(first), len(second)] == [2, 1]
    data, gradient, state, steps, given = second[0]
    np.testing.assert_array_equal(data, [7, 7])
    np.testing.assert_array_equal(gradient, [0.5, -0.5])
    assert state.keys() == set(optimizer.slots(given))
    assert steps == 2
    assert given == optimizer.options_of("second")
    assert given["lr"] == 0.25
    for path, value in (("first", 7), ("second", 7)):
        np.testing.assert_array_equal(model[path].data, [value, value])
        np.testing.assert_array_equal(old[path], [1, 2])
    assert model["third"].data is old["third"]
    assert optimizer.state_dict()["steps"] == {"first": 1, "second": 2, "third": 0}


def test_a_kernel_that_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = parameters()
    optim.Adam(expected).step(gradients(*expected.values()))
    kernel = Kernel(serves=False)
    install(monkeypatch, adam_step=kernel)
    model = parameters()
    optim.Adam(model).step(gradients(*model.values()))
    assert len(kernel.calls) == 1
    for path, parameter in model.items():
        np.testing.assert_array_equal(parameter.data, expected[path].data)


def test_the_reference_has_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    install(monkeypatch, adam_step=kernel)
    model, expected = parameters(), parameters()
    optim.Adam(expected).step(gradients(*expected.values()))
    assert len(kernel.calls) == 1
    with reference_mode():
        optim.Adam(model).step(gradients(*model.values()))
    assert len(kernel.calls) == 1
    np.testing.assert_allclose(model["first"].data, [1 - 1e-3, 2 + 1e-3], rtol=1e-7)


def test_each_dtype_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    install(monkeypatch, sgd_step=kernel)
    model = parameters() | {"narrow": nn.Parameter([1.0, 2.0], dtype="float32")}
    optim.SGD(model).step(gradients(*model.values()))
    assert [[str(data.dtype) for data, *_ in updates] for updates in kernel.calls] == [
        ["float64"] * 3,
        ["float32"],
    ]
    assert model["narrow"].dtype == np.float32


def test_a_subclass_with_an_update_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Still(optim.AdamW):
        def update(self, data: Any, *args: Any, **options: Any) -> Any:
            return data

    kernel = Kernel()
    install(monkeypatch, adam_step=kernel, adamw_step=kernel)
    model = parameters()
    Still(model).step(gradients(*model.values()))
    assert not kernel.calls
    np.testing.assert_array_equal(model["first"].data, [1, 2])


def test_a_subclass_without_one_keeps_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    class Named(optim.Adam):
        pass

    kernel = Kernel()
    install(monkeypatch, adam_step=kernel)
    model = parameters()
    Named(model).step(gradients(*model.values()))
    assert len(kernel.calls) == 1
