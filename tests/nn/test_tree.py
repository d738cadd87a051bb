"""Layers, parameters and buffers in lists, tuples and dicts of a layer: all that holds for attributes."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.nn import draw, mentions
from xpcnn import errors, nn, optim


class Net(nn.Layer):
    """A row of layers that are kept in `kind`; what it computes does not depend on how they are kept."""

    batch_independent = True

    def __init__(self, kind: Any = list, batch_norm: bool = False) -> None:
        layers = [
            nn.Linear(4, 4, seed=0),
            nn.BatchNorm1d(4) if batch_norm else nn.Tanh(),
            nn.Linear(4, 3, seed=1),
        ]
        self.body = kind(layers)
        self.head = nn.Linear(3, 2, seed=2)

    def _row(self) -> list[Any]:
        return [*self.children().values()]

    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
        contexts = []
        for layer in self._row():
            x, ctx = layer.forward(x, train=train)
            contexts.append(ctx)
        return x, contexts

    def backward(self, ctx: Any, dy: Any, grads: Any = None, *, need_dx: bool = True) -> Any:
        for layer, layer_ctx in zip(self._row()[::-1], ctx[::-1], strict=True):
            dy = layer.backward(layer_ctx, dy, grads)
        return dy


KINDS: dict[str, Any] = {
    "list": list,
    "tuple": tuple,
    "dict": lambda layers: dict(zip("abc", layers, strict=True)),
    "nested": lambda layers: [{"first": (layers[0],)}, [layers[1:]]],
}
PATHS = {
    "list": ["body.0", "body.1", "body.2"],
    "tuple": ["body.0", "body.1", "body.2"],
    "dict": ["body.a", "body.b", "body.c"],
    "nested": ["body.0.first.0", "body.1.0.0", "body.1.0.1"],
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_they_are_children(kind: str) -> None:
    model = Net(KINDS[kind])
    first, middle, last = PATHS[kind]
    assert list(model.children()) == [*PATHS[kind], "head"]
    names = [f"{path}.{name}" for path in (first, last, "head") for name in ("weight", "bias")]
    assert list(model.parameters()) == list(model.state_dict()) == names
    assert f"  ({first}): Linear(4, 4)" in repr(model).splitlines()
    assert f"  ({middle}): Tanh()" in repr(model).splitlines()
    assert xpcnn.summary(model, (4,)).parameters == sum(p.data.size for p in model.parameters().values())


@every_kind
def test_they_are_trained_like_attributes(kind: str, make: Any) -> None:
    """One step of the same layers in a Sequential is the reference."""
    with make.use():
        model = Net(KINDS[kind]).to(dtype="float64")
        row = nn.Sequential(*(layer for layer in Net().children().values())).to(dtype="float64")
    x, dy = make.array(draw(5, 4)), make.array(draw(5, 2))
    for each in (model, row):
        _, ctx = each.forward(x, train=True)
        grads = nn.Gradients()
        each.backward(ctx, dy, grads)
        optim.SGD(each, lr=0.1).step(grads)
    for ours, theirs in zip(model.parameters().values(), row.parameters().values(), strict=True):
        np.testing.assert_array_equal(make.to_numpy(ours.data), make.to_numpy(theirs.data))


@every_kind
def test_they_are_frozen_moved_and_loaded(kind: str) -> None:
    model, other = Net(KINDS[kind]), Net(KINDS[kind]).to(dtype="float64")
    first = f"{PATHS[kind][0]}.weight"
    assert model.freeze("body.*") == list(model.parameters())[:4]
    assert not model.parameters()[first].trainable
    assert {str(p.dtype) for p in other.parameters().values()} == {"float64"}
    state = {path: values + 1 for path, values in model.state_dict().items()}
    assert other.load_state_dict(state) == ([], [], [])
    np.testing.assert_array_equal(other.parameters()[first].data, state[first])


def test_batches_are_not_split_over_a_batch_norm_in_a_list() -> None:
    assert nn.is_batch_independent(Net(), train=True)
    assert not nn.is_batch_independent(Net(batch_norm=True), train=True)


class States(nn.Layer):
    def __init__(self) -> None:
        self.counts = {"seen": nn.Buffer([0.0])}
        self.scales = [nn.Parameter([1.0]), nn.Parameter([2.0], trainable=False)]
        self.child = nn.Linear(1, 1)


def test_parameters_and_buffers_in_lists_and_dicts() -> None:
    layer = States()
    names = ["scales.0", "scales.1", "counts.seen", "child.weight", "child.bias"]
    assert list(layer.state_dict()) == names
    assert list(layer.own_states()) == names[:3]
    assert list(layer.parameters()) == [name for name in names if name != "counts.seen"]
    assert list(layer.buffers()) == ["counts.seen"]
    grads = nn.Gradients()
    grads.bind(layer)
    grads.add(layer.scales[0], np.array([3.0]))
    optim.SGD(layer, lr=1.0).step(grads)
    assert layer.scales[0].data.tolist() == [-2.0]
    assert grads["scales.0"].tolist() == [3.0]


class Holder(nn.Layer):
    def __init__(self, held: Any) -> None:
        self.held = held


REFUSED: dict[str, tuple[Any, list[str]]] = {
    "a set of layers": (lambda: {nn.ReLU()}, ["Holder", "held", "set", "ReLU", "list"]),
    "a frozen set": (lambda: frozenset([nn.Linear(1, 1)]), ["held", "frozenset"]),
    "a deque": (lambda: deque([nn.Linear(1, 1)]), ["held", "deque"]),
    "a set of parameters": (lambda: {nn.Parameter([1.0])}, ["held", "set", "Parameter"]),
    "a set in a list": (lambda: [1, {nn.ReLU()}], ["held.1", "set"]),
    "numbers as keys": (lambda: {1: nn.ReLU()}, ["held", "ReLU", "1"]),
    "dots in keys": (lambda: {"a.b": nn.ReLU()}, ["held", "'a.b'", "dots"]),
    "no key": (lambda: {"": nn.Parameter([1.0])}, ["held", "''"]),
}


@pytest.mark.parametrize(("held", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_path_is_refused(held: Any, told: list[str]) -> None:
    layer = Holder(held())
    for use in (lambda: optim.SGD(layer, lr=0.1), layer.state_dict, layer.freeze):
        with pytest.raises(errors.ArgumentError, match=mentions(*told)):
            use()


@pytest.mark.parametrize(
    "held", [{1, 2}, {1: "x", (2, 3): [4]}, deque([1]), {"a.b": 1}, SimpleNamespace(a=1), "text", [[[]]]]
)
def test_other_values_are_nobodys_business(held: Any) -> None:
    assert Holder(held).children() == Holder(held).own_states() == {}


# -- layers where nothing looks ------------------------------------------------------------


def gradients_of(model: nn.Layer, x: Any) -> nn.Gradients:
    y, ctx = model.forward(x, train=True)
    grads = nn.Gradients()
    model.backward(ctx, np.ones_like(y), grads)
    return grads


class Hidden(Net):
    """Its body is in an object of its own, which is neither an attribute nor a list."""

    def __init__(self, kind: Any = list, batch_norm: bool = False) -> None:
        super().__init__(kind, batch_norm)
        self.hidden = SimpleNamespace(layers=[self.head])
        del self.head

    def _row(self) -> list[Any]:
        return [*self.body, *self.hidden.layers]


@pytest.mark.parametrize(
    "of", [lambda model: model, lambda model: model.parameters()], ids=["model", "mapping"]
)
def test_layers_that_nobody_would_train_are_refused(of: Any) -> None:
    model = Hidden()
    before = model.state_dict()
    with pytest.raises(errors.ArgumentError, match=mentions("SGD.step", "2 of the 6", "(2, 3)", "freeze")):
        optim.SGD(of(model), lr=0.1).step(gradients_of(model, draw(3, 4, dtype="float32")))
    for path, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[path])
    for parameter in model.hidden.layers[0].parameters().values():
        parameter.trainable = False
    optim.SGD(of(model), lr=0.1).step(gradients_of(model, draw(3, 4, dtype="float32")))


def in_a_list() -> nn.Layer:
    model = Net()
    model.body.append(model)
    return model


def above() -> nn.Layer:
    model = Net()
    model.head.parent = model
    return model


def in_a_row() -> nn.Layer:
    inner = nn.Sequential(a=nn.ReLU())
    inner["a"] = nn.Sequential(b=inner)
    return inner


LOOPS: dict[str, tuple[Any, list[str]]] = {
    "in a list": (in_a_list, ["Net", "body.3", "inside itself"]),
    "above": (above, ["Net", "head.parent", "inside itself"]),
    "in a row": (in_a_row, ["Sequential", "a.b", "inside itself"]),
}


@pytest.mark.parametrize(("build", "told"), LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("use", ["parameters", "state_dict", "freeze", "to"])
def test_what_is_inside_itself_is_refused(build: Any, told: list[str], use: str) -> None:
    with pytest.raises(errors.ArgumentError, match=mentions(*told)):
        getattr(build(), use)()


@pytest.mark.parametrize("build", [in_a_list, above, in_a_row])
def test_what_is_inside_itself_can_be_looked_at(build: Any) -> None:
    assert "..." in repr(build())


def test_two_optimisers_for_the_parts_of_a_layer_of_ones_own() -> None:
    class Bound(Net):
        def backward(self, ctx: Any, dy: Any, grads: Any = None, *, need_dx: bool = True) -> Any:
            grads.bind(self)
            return super().backward(ctx, dy, grads, need_dx=need_dx)

    x = draw(3, 4, dtype="float32")
    alone = Net()
    with pytest.raises(errors.ArgumentError, match=mentions("other optimisers", "grads.bind(self)")):
        optim.SGD(alone.head, lr=0.1).step(gradients_of(alone, x))
    model = Bound()
    before, grads = model.state_dict(), gradients_of(model, x)
    optim.SGD(model.head, lr=0.1).step(grads)
    assert (model.head.weight.data != before["head.weight"]).any()
