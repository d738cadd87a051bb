"""Sequential, Residual and Concat: children, names, replacing, printing, and where an error came from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.nn import build, draw, mentions
from xpcnn import errors, nn

containers = pytest.mark.parametrize("kind", [nn.Sequential, nn.Concat])


@containers
def test_names(kind: Any) -> None:
    a, b, c = nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)
    assert list(kind(a, b, c).children()) == ["0", "1", "2"]
    assert list(kind(a, second=b, third=c).children()) == ["0", "second", "third"]
    assert list(kind({"first": a, "2nd": b}, third=c).children()) == ["first", "2nd", "third"]
    assert list(kind({"first": a, "": c}).parameters()) == ["first.weight", "first.bias", "weight", "bias"]
    assert list(kind().children()) == []


@containers
def test_reaching_children(kind: Any) -> None:
    a, b = nn.Linear(2, 2), nn.ReLU()
    model = kind(fc=a, act=b)
    assert model.fc is model["fc"] is model[0] is model[-2] is a
    assert list(model) == [a, b]
    assert len(model) == 2
    with pytest.raises(AttributeError, match=mentions("conv1", "fc, act")):
        model.conv1  # noqa: B018
    with pytest.raises(KeyError):
        model["conv1"]
    with pytest.raises(IndexError):
        model[2]
    assert not hasattr(model, "conv1")


@containers
def test_replacing_a_child(make: Any, kind: Any) -> None:
    """Transfer learning: a new head in the place of the old, in the same order."""
    model = build(make, lambda: kind(fc1=nn.Linear(2, 2), act=nn.ReLU(), fc2=nn.Linear(2, 2)))
    head = build(make, lambda: nn.Linear(2, 5))
    for replace in (
        lambda: setattr(model, "fc2", head),
        lambda: model.__setitem__("fc2", head),
        lambda: model.__setitem__(2, head),
        lambda: model.__setitem__(-1, head),
    ):
        model["fc2"] = nn.Linear(2, 2)
        replace()
        assert list(model.children()) == ["fc1", "act", "fc2"]
        assert model.fc2 is model[2] is head
        assert model.parameters()["fc2.weight"] is head.weight
        assert model(make.array(draw(1, 2))).shape[1] == (5 if kind is nn.Sequential else 2 + 2 + 5)
    model["more"] = nn.ReLU()
    assert list(model.children()) == ["fc1", "act", "fc2", "more"]


@containers
def test_attribute_that_is_no_child(kind: Any) -> None:
    """A layer set under a new name would be neither run nor trained."""
    model = kind(fc=nn.Linear(2, 2))
    with pytest.raises(errors.ArgumentError, match=mentions("fc2", "fc")):
        model.fc2 = nn.Linear(2, 2)
    model.comment = "anything else is an attribute"
    assert list(model.children()) == ["fc"]


def test_two_parameters_of_one_path() -> None:
    for model in (
        nn.Sequential({"": nn.Sequential(fc=nn.Linear(1, 1)), "fc": nn.Linear(1, 1)}),
        nn.Residual(nn.Sequential(downsample=nn.Linear(1, 1)), nn.Linear(1, 1)),
    ):
        with pytest.raises(errors.ArgumentError, match=mentions("two parameters", ".weight", "rename")):
            model.parameters()


def test_paths_of_nested_models() -> None:
    block = nn.Residual(nn.Sequential(conv1=nn.Conv2d(1, 1, 1, bias=False)), nn.Conv2d(1, 1, 1, bias=False))
    named = nn.Residual(
        nn.Sequential(nn.Linear(1, 1, bias=False)), nn.Linear(1, 1, bias=False), shortcut_name="around"
    )
    model = nn.Sequential(layer1=nn.Sequential(block, nn.Sequential({"": nn.Linear(1, 1)})), other=named)
    assert list(model.parameters()) == [
        "layer1.0.conv1.weight",
        "layer1.0.downsample.weight",
        "layer1.1.weight",
        "layer1.1.bias",
        "other.0.weight",
        "other.around.weight",
    ]


def test_residual_adds(make: Any) -> None:
    x = make.array(draw(2, 3))
    twice = make.to_numpy(nn.Residual(nn.Identity())(x))
    np.testing.assert_array_equal(twice, 2 * make.to_numpy(x))
    body, around = (build(make, lambda: nn.Linear(3, 2)) for _ in range(2))
    y = nn.Residual(body, around)(x)
    np.testing.assert_array_equal(make.to_numpy(y), make.to_numpy(body(x)) + make.to_numpy(around(x)))


def test_residual_shapes_must_agree(make: Any) -> None:
    block = build(make, lambda: nn.Residual(nn.Linear(3, 1)))
    with pytest.raises(errors.ShapeError, match=mentions("Residual", "(2, 1)", "(2, 3)", "projection")):
        block(make.array(draw(2, 3)))  # never broadcast
    with pytest.raises(errors.ShapeError, match="Residual"):
        block.forward(make.array(draw(2, 3)))


def test_concat_shapes_must_agree(make: Any) -> None:
    x = make.array(draw(1, 2, 4, 4))
    with pytest.raises(errors.ShapeError, match=mentions("Concat", "(1, 2, 4, 4)", "(1, 2, 2, 2)")):
        nn.Concat(nn.Identity(), nn.MaxPool2d(2))(x)
    with pytest.raises(errors.ArgumentError, match="Concat: it has no branches"):
        nn.Concat()(x)


@pytest.mark.parametrize("width", [2, 4])
def test_concat_checks_dy(make: Any, width: int) -> None:
    """Channels beyond the last branch's are not just left out."""
    model = nn.Concat(nn.Identity(), nn.Tanh(), nn.Identity())
    _, ctx = model.forward(make.array(draw(3, 1)))
    with pytest.raises(errors.ShapeError, match=mentions("Concat", f"(3, {width})")):
        model.backward(ctx, make.array(draw(3, width)))


def test_repr() -> None:
    block = nn.Residual(nn.Sequential(nn.Conv2d(8, 8, (1, 3), padding=(0, 1))), nn.Identity())
    assert repr(nn.Sequential(bn1=nn.BatchNorm2d(8), block=block)).splitlines() == [
        "Sequential(",
        "  (bn1): BatchNorm2d(8)",
        "  (block): Residual(",
        "    (): Sequential(",
        "      (0): Conv2d(8, 8, (1, 3), padding=(0, 1))",
        "    )",
        "    (downsample): Identity()",
        "  )",
        ")",
    ]
    assert repr(nn.Sequential()) == "Sequential()"


# Where an error came from -------------------------------------------------------------------------------


def failing() -> nn.Layer:
    """A model whose layer1.1.downsample, inside a Residual in a Sequential in a Sequential, does not fit."""
    fits = nn.Sequential(conv=nn.Conv2d(2, 2, 3, padding=1))
    return nn.Sequential(
        stem=nn.Identity(), layer1=nn.Sequential(nn.Residual(fits), nn.Residual(fits, nn.Conv2d(3, 2, 1)))
    )


RUNS = {
    "call": lambda model, x: model(x),
    "forward": lambda model, x: model.forward(x, train=True),
    "summary": lambda model, x: xpcnn.summary(model, x.shape[1:]),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_error_in_forward_names_the_path(make: Any, run: Any) -> None:
    model, x = build(make, failing), make.array(draw(1, 2, 4, 4))
    with pytest.raises(errors.ShapeError, match=mentions("conv2d", "C=2", "C=3")) as error:
        run(model, x)
    inner, middle, outer = error.value.__notes__
    assert "Residual" in inner
    assert "downsample" in inner
    assert "Conv2d" in inner
    assert "Sequential.1" in middle
    assert "Sequential.layer1" in outer


def test_error_in_backward_names_the_path(make: Any) -> None:
    model = build(make, lambda: nn.Sequential(a=nn.Identity(), mix=nn.Concat(fc=nn.Linear(2, 3))))
    _, ctx = model.forward(make.array(draw(4, 2)))
    with pytest.raises(errors.ShapeError, match=r"linear\.backward") as error:
        model.backward(ctx, make.array(draw(5, 3)))
    inner, outer = error.value.__notes__
    assert "Concat.fc" in inner
    assert "Sequential.mix" in outer


class Asked(nn.Linear):
    """A linear layer that notes whether its dx was asked for."""

    def backward(self, ctx: Any, dy: Any, grads: Any = None, *, need_dx: bool = True) -> Any:
        self.asked = need_dx
        return super().backward(ctx, dy, grads, need_dx=need_dx)


@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "first frozen"])
def test_no_dx_for_what_needs_none(frozen: bool) -> None:
    """Neither a layer without parameters nor a frozen one has any use for the gradient of its output."""
    one, two = Asked(6, 4, seed=0, dtype="float64"), Asked(4, 3, seed=1, dtype="float64")
    model = nn.Sequential(nn.Flatten(), one, nn.Sequential(nn.ReLU(), two))
    for parameter in one.parameters().values():
        parameter.trainable = not frozen
    x = np.random.default_rng(0).normal(size=(5, 2, 3))
    y, ctx = model.forward(x)
    whole, spared = nn.Gradients(), nn.Gradients()
    model.backward(ctx, y, whole)
    assert one.asked
    assert two.asked
    one.asked = two.asked = None
    assert model.backward(ctx, y, spared, need_dx=False) is None
    assert (one.asked, two.asked) == ((None, False) if frozen else (False, True))
    assert len(spared) == len(whole) == (2 if frozen else 4)
    for parameter, gradient in whole.items():
        np.testing.assert_array_equal(spared[parameter], gradient)


class Special(nn.Parameter):
    """A parameter of a kind of one's own."""


class Kept(nn.Layer):
    """``x · weight``, with the weight kept where a test says."""

    def __init__(self, keep: Any) -> None:
        self.kept = keep(nn.Parameter([1.0, 2.0]))

    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> Any:
        (weight,) = self.parameters().values()
        return x * weight.data, (x, weight)

    def backward(self, ctx: Any, dy: Any, grads: Any = None, *, need_dx: bool = True) -> Any:
        x, weight = ctx
        if grads is not None and weight.trainable:
            grads.add(weight, (x * dy).sum(axis=0))
        return dy * weight.data


def inside(weight: nn.Parameter) -> nn.Linear:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight = weight
    return layer


@pytest.mark.parametrize(
    "keep",
    [
        lambda weight: weight,
        lambda weight: Special(weight.data),
        lambda weight: (1, weight),
        lambda weight: [None, (weight,)],
        lambda weight: {"a": weight},
        inside,
        lambda weight: (inside(weight),),
    ],
    ids=["attribute", "special", "tuple", "list", "dict", "layer", "layer in a tuple"],
)
def test_a_first_layer_is_trained_wherever_its_parameters_are(keep: Any) -> None:
    layer = Kept(keep)
    model = nn.Sequential(nn.Identity(), layer, nn.ReLU())
    y, ctx = model.forward(np.ones((3, 2)))
    (weight,) = model.parameters().values()
    for trainable in (True, False, True):
        weight.trainable = trainable
        grads = nn.Gradients()
        model.backward(ctx, np.ones_like(y), grads, need_dx=False)
        assert len(grads) == trainable
    np.testing.assert_array_equal(grads[weight], [3.0, 3.0])
    model[1] = nn.Identity()
    y, ctx = model.forward(np.ones((3, 2)))
    model.backward(ctx, np.ones_like(y), grads := nn.Gradients(), need_dx=False)
    assert len(grads) == 0


def test_a_slice_is_no_child() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Flatten())
    with pytest.raises(errors.ArgumentError, match=r"nn\.Sequential\(\*list\(model\)\[1:\]\)"):
        model[1:]
    assert [type(layer) for layer in nn.Sequential(*list(model)[1:])] == [nn.ReLU, nn.Flatten]
