"""gradcheck itself: it passes what is right, finds what is wrong, and leaves the layer as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.nn import build, draw, mentions
from xpcnn import errors, nn, ops
from xpcnn.ops.op import op
from xpcnn.testing import gradcheck


class Wrong(nn.Linear):
    """A linear layer whose gradients pass through `spoil` before they are handed out."""

    def __init__(self, **spoil: Any) -> None:
        super().__init__(3, 2, dtype="float64", seed=0)
        self.spoil = spoil

    def backward(self, ctx: Any, dy: Any, grads: nn.Gradients | None = None, *, need_dx: bool = True) -> Any:
        dx, dweight, dbias = ops.linear.backward(ctx, dy)
        found = {"x": dx, "weight": dweight, "bias": dbias}
        found |= {name: spoil(np.array(found[name])) for name, spoil in self.spoil.items()}
        self.accumulate(grads, weight=found["weight"], bias=found["bias"])
        return found["x"]


def shifted(at: tuple[int, ...], by: float = 1e-4) -> Any:
    def shift(gradient: Any) -> Any:
        gradient[at] += by
        return gradient

    return shift


X = draw(4, 3)


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        ({"x": shifted((3, 1))}, "x[3, 1]"),
        ({"weight": shifted((1, 2))}, "weight[1, 2]"),
        ({"weight": shifted((0, 0), np.nan)}, "weight[0, 0]"),
        ({"bias": shifted((1,))}, "bias[1]"),
        ({"bias": lambda gradient: None}, "bias[0]: backward gives 0,"),
        ({"weight": lambda gradient: gradient[:1]}, "(1, 3) but weight is float64 (2, 3)"),
        ({"x": lambda gradient: gradient.astype("float32")}, "gradient of x is float32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_gradient_is_named(spoil: dict[str, Any], where: str) -> None:
    gradcheck(Wrong(), X)
    with pytest.raises(AssertionError, match=mentions("gradcheck: ", where)):
        gradcheck(Wrong(**spoil), X)


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_directions_find_and_blame(name: str) -> None:
    model = nn.Sequential(
        fc1=nn.Linear(3, 3, dtype="float64", seed=1), fc2=Wrong(**{name: lambda g: 1.01 * g})
    )
    # A wrong dx of fc2 is a wrong gradient of everything before it.
    blamed = ["along x alone", "fc1.weight"] if name == "x" else [f"along fc2.{name} alone"]
    with pytest.raises(AssertionError, match=mentions("random direction", *blamed)) as error:
        gradcheck(model, X, directional=True)
    assert "fc2.bias alone" not in str(error.value) or name == "bias"


@pytest.mark.parametrize("directional", [False, True])
def test_model_is_left_as_it_was(make: Any, directional: bool) -> None:
    model = build(
        make, lambda: nn.Sequential(conv=nn.Conv2d(1, 2, 2), bn=nn.BatchNorm2d(2), drop=nn.Dropout())
    )
    before = {path: state.data for path, state in {**model.parameters(), **model.buffers()}.items()}
    values = {path: np.array(make.to_numpy(data)) for path, data in before.items()}
    x = make.array(draw(2, 1, 3, 3, seed=5))
    with make.unchanged(x):
        result = gradcheck(model, x, train=True, directional=directional)
    assert result.max_error < 1e-7
    for path, state in {**model.parameters(), **model.buffers()}.items():
        assert state.data is before[path]
        np.testing.assert_array_equal(make.to_numpy(state.data), values[path], err_msg=path)


def test_model_is_left_as_it_was_after_an_error() -> None:
    class Fragile(nn.Linear):
        calls = 0

        def forward(self, x: Any, *, train: bool = False, key: Any = None) -> Any:
            self.calls += 1
            if self.calls > 20:
                raise RuntimeError("enough")
            return super().forward(x, train=train, key=key)

    layer = Fragile(3, 2, dtype="float64")
    weight, values = layer.weight.data, layer.weight.data.copy()
    with pytest.raises(RuntimeError, match="enough"):
        gradcheck(layer, X)
    assert layer.weight.data is weight
    np.testing.assert_array_equal(weight, values)


def test_needs_float64() -> None:
    with pytest.raises(errors.DtypeError, match=mentions("0.weight is float32", "layer.to(dtype='float64')")):
        gradcheck(nn.Sequential(nn.Linear(3, 2)), X)
    with pytest.raises(errors.DtypeError, match=mentions("x is float32", "float64")):
        gradcheck(nn.ReLU(), X.astype("float32"))
    with pytest.raises(errors.DtypeError, match=mentions("gradcheck: ", "arrays[1] is float32")):
        gradcheck(ops.linear, X, draw(2, 3, dtype="float32"))


ON_THEIR_OWN = {"relu": (6,), "gelu": (6,), "tanh": (2, 3), "softmax": (2, 3), "flatten": (2, 3, 1)}


@pytest.mark.parametrize("name", ON_THEIR_OWN)
def test_an_op_brings_its_backward(make: Any, name: str) -> None:
    x = make.array(1.0 + np.random.default_rng(0).random(ON_THEIR_OWN[name]), "float64")
    assert gradcheck(getattr(ops, name), x).compared == 6


def test_an_op_of_several_arrays(make: Any) -> None:
    x, weight, bias = (make.array(draw(*shape)) for shape in ((2, 3), (4, 3), (4,)))
    assert gradcheck(ops.linear, x, weight).compared == 18
    assert gradcheck(ops.linear, x, weight, bias).compared == 22
    assert gradcheck(ops.linear, x, weight, bias, directional=True).compared == 4
    with pytest.raises(errors.ArgumentError, match="one input, got 2"):
        gradcheck(nn.Identity(), x, weight)


def test_an_op_with_a_wrong_backward() -> None:
    @op
    def added(x: Any, y: Any) -> tuple[Any, None]:
        return 2 * x + y, None

    for given, told in (
        (lambda dy: (2 * dy, 3 * dy), r"gradcheck: arrays\[1\]\[0\]: "),
        (lambda dy: dy, "2 arrays but 1 gradients"),
        (lambda dy: (2 * dy, dy, dy), "2 arrays but 3 gradients"),
    ):
        added.def_backward(lambda ctx, dy, given=given: given(dy))
        with pytest.raises(AssertionError, match=told):
            gradcheck(added, np.ones(2), np.ones(2))
