"""The gradient store, and what is left out of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.nn import build, draw, mentions
from xpcnn import errors, nn, ops


def model_on(make: Any) -> nn.Layer:
    return build(make, lambda: nn.Sequential(fc1=nn.Linear(3, 4), act=nn.Tanh(), fc2=nn.Linear(4, 2)))


def filled(make: Any, model: nn.Layer, seed: int = 0) -> nn.Gradients:
    y, ctx = model.forward(make.array(draw(2, 3, seed=seed)))
    grads = nn.Gradients()
    model.backward(ctx, make.array(draw(*y.shape, seed=seed)), grads)
    return grads


def test_reading(make: Any) -> None:
    model = model_on(make)
    grads = filled(make, model)
    assert len(grads) == 4
    for path, parameter in model.parameters().items():
        assert path in grads
        assert parameter in grads
        assert grads[path] is grads[parameter] is grads.get(parameter)
        make.check_kind(grads[path], parameter.shape, "float64")
    pairs = list(grads.items())
    assert {id(parameter) for parameter, _ in pairs} == {id(p) for p in model.parameters().values()}
    assert all(gradient is grads[parameter] for parameter, gradient in pairs)


def test_adding(make: Any) -> None:
    parameter, grads = nn.Parameter(draw(3)), nn.Gradients()
    first, second = make.array([1.0, 2.0, 3.0]), make.array([10.0, 20.0, 30.0])
    with make.unchanged(first, second):
        for gradient in (first, second, second):
            grads.add(parameter, gradient)
    make.check(grads[parameter], [21.0, 42.0, 63.0], "float64", rtol=0)
    assert len(grads) == 1


def test_equal_parameters_are_two() -> None:
    a, b, grads = nn.Parameter([1.0]), nn.Parameter([1.0]), nn.Gradients()
    grads.add(a, draw(1))
    assert a in grads
    assert b not in grads
    assert grads.get(b) is None


def test_merging(make: Any) -> None:
    model = model_on(make)
    one, two = filled(make, model, 1), filled(make, model, 2)
    before = make.snapshot([gradient for _, gradient in two.items()])
    expected = {path: make.to_numpy(one[path]) + make.to_numpy(two[path]) for path in model.parameters()}
    total = nn.Gradients()
    total.merge(one)
    total.merge(two)
    for path, gradient in expected.items():
        np.testing.assert_array_equal(make.to_numpy(total[path]), gradient)
    np.testing.assert_equal(make.snapshot([gradient for _, gradient in two.items()]), before)
    assert len(nn.Gradients()) == 0
    total.merge(nn.Gradients())
    assert len(total) == 4


def test_replacing(make: Any) -> None:
    model = model_on(make)
    grads = filled(make, model)
    order = [parameter for parameter, _ in grads.items()]
    old, new = grads["fc1.bias"], make.array([1.0, 2.0, 3.0, 4.0])
    with make.unchanged(old, new):
        grads.replace(model.fc1.bias, new)
    assert grads["fc1.bias"] is new
    assert [parameter for parameter, _ in grads.items()] == order
    stranger = nn.Parameter([1.0])
    with pytest.raises(errors.ArgumentError, match=mentions("Gradients.replace", "shape=(1,)", "add it")):
        grads.replace(stranger, new)
    assert stranger not in grads


def test_paths_are_those_of_the_outermost(make: Any) -> None:
    inner = model_on(make)
    outer = nn.Sequential(body=nn.Residual(nn.Concat(inner, nn.Linear(3, 1)))).to(dtype="float64")
    outer.to(backend=make.backend)
    grads = filled(make, outer)
    assert "body.0.fc1.weight" in grads
    assert "fc1.weight" not in grads
    assert grads["body.0.fc1.weight"] is grads[inner.fc1.weight]


def test_errors(make: Any) -> None:
    model = model_on(make)
    grads = nn.Gradients()
    assert "fc1.weight" not in grads
    assert model.fc1.weight not in grads
    with pytest.raises(errors.ArgumentError, match=mentions("Gradients", "'fc1.weight'", "has none")):
        grads["fc1.weight"]
    with pytest.raises(errors.ArgumentError, match=mentions("Gradients", "no gradient", "(4, 3)")):
        grads[model.fc1.weight]
    grads = filled(make, model)
    with pytest.raises(
        errors.ArgumentError, match=mentions("'fc3.weight'", "fc1.weight, fc1.bias, fc2.weight")
    ):
        grads["fc3.weight"]
    assert "fc3.weight" not in grads


@pytest.mark.parametrize(
    "frozen",
    [["fc1.weight"], ["fc2.bias"], ["fc1.weight", "fc1.bias"], ["fc1.weight", "fc2.weight"]],
    ids=str,
)
def test_frozen(make: Any, frozen: list[str]) -> None:
    model = model_on(make)
    expected = filled(make, model)
    for path in frozen:
        model.parameters()[path].trainable = False
    grads = filled(make, model)
    assert len(grads) == 4 - len(frozen)
    for path in model.parameters():
        assert (path in grads) == (path not in frozen)
        if path in grads:
            np.testing.assert_array_equal(make.to_numpy(grads[path]), make.to_numpy(expected[path]))
    with pytest.raises(errors.ArgumentError, match=mentions(frozen[0], "not trainable")):
        grads[frozen[0]]


@pytest.mark.parametrize("op", ["conv2d", "linear"])
@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_spares_the_work(monkeypatch: pytest.MonkeyPatch, op: str, frozen: bool) -> None:
    """No weight gradient is computed where nobody wants one; nor dx of the first layer."""
    asked = []
    original = getattr(ops, op).backward

    def spy(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(getattr(ops, op), "backward", spy)
    is_conv = op.startswith("conv")
    layer = nn.Conv2d(1, 2, 1, dtype="float64") if is_conv else nn.Linear(3, 2, dtype="float64")
    for parameter in layer.parameters().values():
        parameter.trainable = not frozen
    y, ctx = layer.forward(draw(1, 1, 2, 2) if is_conv else draw(1, 3))
    layer.backward(ctx, y, nn.Gradients(), need_dx=False)
    layer.backward(ctx, y)
    nn.Sequential(layer, nn.Identity()).backward((ctx, None), y, need_dx=False)
    nn.Sequential(nn.Identity(), layer).backward((None, ctx), y, nn.Gradients(), need_dx=False)
    alone = [{"need_dx": False, "need_dweight": not frozen}, {"need_dx": True, "need_dweight": False}]
    in_sequence = [  # a frozen layer that need not hand on dx is not even asked
        {"need_dx": False, "need_dweight": False},
        {"need_dx": False, "need_dweight": True},
    ]
    assert asked == (alone if frozen else alone + in_sequence)
