"""The table of layers that run as one: each row on every backend, and what does not fuse."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from tests.support.nn import draw, drawn_state
from xpcnn import errors, nn, ops
from xpcnn.backend.reference import reference_mode
from xpcnn.nn import fusion
from xpcnn.ops import fused

Factory = Callable[[], list[nn.Layer]]

CONV, POOL = {"conv2d_relu"}, {"relu_max_pool2d_gradient"}
NORM = {"batch_norm_relu", "batch_norm_relu.backward"}

ROWS: dict[str, tuple[Factory, tuple[int, ...], set[str]]] = {
    "conv, relu": (lambda: [nn.Conv2d(2, 5, 3, padding=1), nn.ReLU()], (3, 2, 7, 6), CONV),
    "conv, relu, max-pool": (
        lambda: [nn.Conv2d(2, 5, 3, 2, 1, algorithm="im2col"), nn.ReLU(), nn.MaxPool2d(3, 2, 1, True)],
        (3, 2, 13, 12),
        CONV | POOL | {"conv2d_relu_max_pool2d"},
    ),
    "norm of rows, relu": (lambda: [nn.BatchNorm1d(4), nn.ReLU()], (6, 4), NORM),
    "norm, relu": (lambda: [nn.BatchNorm2d(3, eps=0.1, momentum=0.4), nn.ReLU()], (3, 3, 5, 4), NORM),
    "norm without weights, relu": (lambda: [nn.BatchNorm2d(3, affine=False), nn.ReLU()], (3, 3, 5, 4), NORM),
    "relu, max-pool": (lambda: [nn.ReLU(), nn.MaxPool2d(2)], (2, 3, 6, 7), POOL),
    "norm, relu, max-pool": (  # the ReLU goes with the one before it, and then with the one behind
        lambda: [nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)],
        (2, 3, 6, 7),
        POOL | {"batch_norm_relu"},
    ),
    "conv, norm, relu, conv, relu, relu": (
        lambda: [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.ReLU(), nn.ReLU()],
        (2, 2, 8, 7),
        CONV | NORM,
    ),
}
"""Layers, an input shape, and what forward, backward and inference together call."""


class Doubled(nn.ReLU):
    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> Any:
        y, ctx = super().forward(x)
        return 2 * y, ctx


class OwnConv(nn.Conv2d):
    pass


class OwnNorm(nn.BatchNorm2d):
    pass


class OwnPool(nn.MaxPool2d):
    pass


ALONE: dict[str, tuple[Factory, tuple[int, ...]]] = {
    "a convolution without a bias": (lambda: [nn.Conv2d(2, 3, 3, bias=False), nn.ReLU()], (1, 2, 4, 4)),
    "a subclass of the convolution": (lambda: [OwnConv(2, 3, 3), nn.ReLU()], (1, 2, 4, 4)),
    "a subclass of the norm": (lambda: [OwnNorm(2), nn.ReLU()], (2, 2, 4, 4)),
    "a subclass of the pooling": (lambda: [nn.ReLU(), OwnPool(2)], (2, 2, 4, 4)),
    "a subclass of the ReLU": (
        lambda: [nn.Conv2d(2, 2, 1), Doubled(), nn.BatchNorm2d(2), Doubled(), nn.MaxPool2d(2)],
        (2, 2, 4, 4),
    ),
    "another order": (lambda: [nn.ReLU(), nn.Conv2d(2, 2, 1), nn.MaxPool2d(1)], (1, 2, 3, 3)),
    "another activation": (
        lambda: [nn.Conv2d(2, 2, 1), nn.Tanh(), nn.MaxPool2d(1), nn.BatchNorm2d(2), nn.LeakyReLU()],
        (2, 2, 3, 3),
    ),
    "the average": (lambda: [nn.ReLU(), nn.AvgPool2d(2)], (1, 2, 4, 4)),
}


def spy(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each function of `xpcnn.ops.fused` is called from now on."""
    found: Counter[str] = Counter()

    def watched(name: str, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            found[name] += 1
            return function(*args, **options)

        return call

    for name in fused.__all__:
        function = getattr(fused, name)
        together = watched(name, function)
        if hasattr(function, "backward"):
            together.backward = watched(f"{name}.backward", function.backward)
        monkeypatch.setattr(fused, name, together)
    return found


class Pass:
    """Everything that a training pass and inference give, as NumPy arrays by name."""

    def __init__(self, make: Any, model: nn.Sequential, x: Any, *, one_by_one: bool = False) -> None:
        self.model, self.x, self.grads = model, x, nn.Gradients()
        y, self.contexts = self.forward(train=True) if one_by_one else model.forward(x, train=True)
        dy = make.array(draw(*y.shape, dtype=np.asarray(make.to_numpy(y)).dtype.name, seed=9))
        dx = self.backward(dy) if one_by_one else model.backward(self.contexts, dy, self.grads)
        inference = self.forward(train=False)[0] if one_by_one else model(x)
        arrays = {"y": y, "dx": dx, "inference": inference, **model.state_dict()}
        arrays |= {f"gradient of {path}": self.grads[p] for path, p in model.parameters().items()}
        self.arrays = {name: np.array(make.to_numpy(array)) for name, array in arrays.items()}

    def forward(self, *, train: bool) -> tuple[Any, tuple[Any, ...]]:
        x, contexts = self.x, []
        for layer in self.model:
            x, ctx = layer.forward(x, train=train)
            contexts.append(ctx)
        return x, tuple(contexts)

    def backward(self, dy: Any) -> Any:
        for layer, ctx in zip(reversed(list(self.model)), reversed(self.contexts), strict=True):
            dy = layer.backward(ctx, dy, self.grads)
        return dy


def built(make: Any, factory: Factory, dtype: str) -> nn.Sequential:
    with make.use():
        model = nn.Sequential(*factory()).to(dtype=dtype)
    model.load_state_dict(drawn_state(model))
    return model


@pytest.mark.parametrize(("factory", "shape", "called"), ROWS.values(), ids=ROWS.keys())
def test_fused_is_one_by_one(
    make: Any,
    dtype: str,
    factory: Factory,
    shape: tuple[int, ...],
    called: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outputs, gradients and running statistics to the bit, and contexts of the same kinds, one each."""
    together, alone = (built(make, factory, dtype) for _ in range(2))
    x = make.array(draw(*shape, dtype=dtype, seed=3))
    if make.backend == "numpy" and x.ndim == 4:  # in the order that the layers before leave it in
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    expected = Pass(make, alone, x, one_by_one=True)
    calls = spy(monkeypatch)
    found = Pass(make, together, x)
    assert set(calls) == called
    assert [type(ctx) for ctx in found.contexts] == [type(ctx) for ctx in expected.contexts]
    # Behind a max-pool the gradient lies in another order, in which other backends add it up.
    sums = "relu_max_pool2d_gradient" in called and make.backend != "numpy"
    allowed = {"float32": 1e-4, "float64": 1e-12}[dtype] if sums else 0.0
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in found.arrays.items():
        np.testing.assert_allclose(array, expected.arrays[name], allowed, allowed, err_msg=name)


@pytest.mark.parametrize(("factory", "shape"), ALONE.values(), ids=ALONE.keys())
def test_what_does_not_fuse(
    make: Any, factory: Factory, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, alone = (built(make, factory, "float64") for _ in range(2))
    x = make.array(draw(*shape, seed=3))
    calls = spy(monkeypatch)
    found = Pass(make, together, x)
    assert not calls
    np.testing.assert_equal(found.arrays, Pass(make, alone, x, one_by_one=True).arrays)


@pytest.mark.parametrize(("factory", "shape", "called"), ROWS.values(), ids=ROWS.keys())
def test_the_reference_fuses_nothing(
    make: Any, factory: Factory, shape: tuple[int, ...], called: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to rounding: it has other engines off, too. What one mode kept serves the other's backward."""
    together, alone = (built(make, factory, "float64") for _ in range(2))
    x = make.array(draw(*shape, seed=3))
    expected = Pass(make, together, x)
    calls = spy(monkeypatch)
    with reference_mode():
        found = Pass(make, alone, x)
        dx = alone.backward(expected.contexts, make.array(draw(*expected.arrays["y"].shape, seed=9)))
    assert not calls
    for name, array in found.arrays.items():
        np.testing.assert_allclose(array, expected.arrays[name], 1e-10, 1e-10, err_msg=name)
    np.testing.assert_allclose(make.to_numpy(dx), expected.arrays["dx"], 1e-10, 1e-10)
    alone(x)
    assert bool(calls) == bool(called - POOL)  # outside the block it fuses


def test_every_pattern_has_a_row() -> None:
    tested = {tuple(map(type, factory())) for factory, _, _ in ROWS.values()}
    assert {pattern.layers for pattern in fusion.PATTERNS} <= tested
    assert len({pattern.layers for pattern in fusion.PATTERNS}) == len(fusion.PATTERNS)


def test_every_fused_function_is_in_the_table() -> None:
    assert set().union(*(called for _, _, called in ROWS.values())) == {
        *fused.__all__,
        "batch_norm_relu.backward",
    }


def test_a_changed_model_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of an earlier call is kept: children replaced, appended, and an option or a parameter set."""
    calls = spy(monkeypatch)
    model: Any = nn.Sequential(conv=nn.Conv2d(1, 2, 3, dtype="float64", seed=0), relu=nn.ReLU())
    x = draw(1, 1, 6, 6)

    def check(*names: str) -> None:
        calls.clear()
        y = x
        for layer in model:
            y = layer.forward(y)[0]
        np.testing.assert_array_equal(model(x), y)
        assert sorted(calls) == sorted(names)

    check("conv2d_relu")
    model["pool"] = nn.MaxPool2d(2)
    check("conv2d_relu_max_pool2d")
    model.pool.kernel_size = (2, 1)
    check("conv2d_relu_max_pool2d")
    bias, model.conv.bias = model.conv.bias, None
    check()
    model.conv.bias = nn.Parameter(bias.data + 1)
    model.conv.padding = 1
    check("conv2d_relu_max_pool2d")
    model.relu = Doubled()
    check()
    model.relu = nn.ReLU()
    model.conv = nn.Conv2d(1, 3, 1, dtype="float64", seed=1)
    check("conv2d_relu_max_pool2d")
    model.pool = nn.Identity()
    check("conv2d_relu")


@pytest.mark.parametrize("mode", [nullcontext, reference_mode])
@pytest.mark.parametrize("shape", [(1, 2, 5, 4), (1, 2, 8, 8)])
def test_a_wrong_dy_names_the_pooling(make: Any, shape: tuple[int, ...], mode: Any) -> None:
    model = nn.Sequential(stem=nn.Identity(), relu=nn.ReLU(), pool=nn.MaxPool2d(2))
    _, ctx = model.forward(make.array(draw(1, 2, 8, 8)))
    with mode(), pytest.raises(errors.ShapeError, match=r"^max_pool2d\.backward: dy") as error:
        model.backward(ctx, make.array(draw(*shape)))
    assert error.value.__notes__ == ["in Sequential.pool (MaxPool2d)"]


def test_a_wrong_x_names_the_norm(make: Any) -> None:
    with make.use():
        model = nn.Sequential(bn=nn.BatchNorm2d(2, dtype="float64"), relu=nn.ReLU())
    for wrong, said in (
        (draw(2, 2), "BatchNorm2d: x must have 4 axes"),
        (draw(2, 3, 4, 4), "batch_norm: weight has"),
    ):
        for run in (model, model.forward):
            with pytest.raises(errors.ShapeError, match=said) as error:
                run(make.array(wrong))
            assert error.value.__notes__ == ["in Sequential.bn (BatchNorm2d)"]


def _watch(layer: Any, method: str, called: list[str]) -> None:
    """Set a method on the object that notes each call, as hooks do."""
    original = getattr(layer, method)

    def noted(*args: Any, **options: Any) -> Any:
        called.append(method)
        return original(*args, **options)

    setattr(layer, method, noted)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(
    "factory",
    [
        lambda: [nn.Conv2d(2, 3, 3, seed=0), nn.ReLU(), nn.MaxPool2d(2)],
        lambda: [nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)],
    ],
    ids=["conv", "norm"],
)
def test_methods_set_on_a_layer_are_called(make: Any, factory: Factory, position: int) -> None:
    hooked, plain = (built(make, factory, "float64") for _ in range(2))
    called: list[str] = []
    _watch(hooked[position], "forward", called)
    _watch(hooked[position], "backward", called)
    x = make.array(draw(2, 2, 8, 8))
    expected = Pass(make, plain, x, one_by_one=True)
    found = Pass(make, hooked, x)
    assert called == ["forward", "backward", "forward"]
    for name, array in found.arrays.items():  # other pairs of the row may run as one
        np.testing.assert_allclose(array, expected.arrays[name], 1e-12, 1e-12, err_msg=name)


def test_an_op_set_on_a_layer_is_the_one_that_runs(make: Any) -> None:
    def factory() -> list[nn.Layer]:
        return [nn.Conv2d(2, 3, 3, seed=0), nn.ReLU(), nn.MaxPool2d(2)]

    model: Any = built(make, factory, "float64")
    model[1].op = ops.tanh
    x = make.array(draw(2, 2, 8, 8))
    found = Pass(make, model, x)
    np.testing.assert_equal(found.arrays, Pass(make, model, x, one_by_one=True).arrays)
    assert found.arrays["inference"].min() < 0


def test_sequential_stays_small() -> None:
    """What it is takes 70 lines, and names no layer that it may hold."""
    text = inspect.getsource(nn.Sequential)
    assert len(text.splitlines()) <= 70
    code = text.replace(nn.Sequential.__doc__ or "", "")
    assert not [name for name in ("Conv2d", "ReLU", "BatchNorm", "MaxPool2d", "fused") if name in code]
