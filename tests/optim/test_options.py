"""Options, groups and the learning rate: what applies where, and what is refused."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest

from tests.support.optim import CASES, ONE_OF_EACH, SHAPES, mentions, store
from xpcnn import nn, optim
from xpcnn.errors import ArgumentError
from xpcnn.optim.options import Rules, fraction

every_kind = pytest.mark.parametrize("kind", [CASES[name][0] for name in ONE_OF_EACH])


@pytest.fixture
def parameters() -> dict[str, nn.Parameter]:
    return {path: nn.Parameter(np.zeros(shape)) for path, shape in SHAPES.items()}


def ones(parameters: dict[str, nn.Parameter]) -> nn.Gradients:
    return store(parameters, {path: np.ones(p.shape, p.dtype) for path, p in parameters.items()})


def test_takes_a_layer_or_its_parameters() -> None:
    model = nn.Sequential(fc=nn.Linear(2, 3))
    for given in (model, model.parameters()):
        assert list(optim.SGD(given).state_dict()["steps"]) == ["fc.weight", "fc.bias"]


def test_the_first_matching_group_alone_applies(parameters: dict[str, nn.Parameter]) -> None:
    optimizer = optim.Adam(
        parameters,
        lr=0.1,
        weight_decay=0.5,
        groups={"*.bias": {"weight_decay": 0.0}, "conv.*": {"lr": 0.05, "betas": [0.5, 0.75]}},
    )
    base = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.5}
    assert optimizer.options_of("fc.weight") == base
    assert optimizer.options_of("conv.bias") == {**base, "weight_decay": 0.0}
    assert optimizer.options_of("conv.weight") == {**base, "lr": 0.05, "betas": (0.5, 0.75)}


def test_group_slots_follow_the_group_options(parameters: dict[str, nn.Parameter]) -> None:
    optimizer = optim.SGD(parameters, lr=0.0, groups={"fc.*": {"momentum": 0.5, "nesterov": True}})
    optimizer.step(ones(parameters))
    kept = {path: list(arrays) for path, arrays in optimizer.state_dict()["state"].items()}
    assert kept == {"conv.weight": [], "conv.bias": [], "fc.weight": ["velocity"]}


@every_kind
def test_setting_lr_keeps_the_ratio_of_groups(kind: Any, parameters: dict[str, nn.Parameter]) -> None:
    optimizer = kind(parameters, lr=0.5, groups={"conv.bias": {"lr": 0.0}, "conv.*": {"lr": 0.125}})
    for lr in (0.5, 0.25, 0.0, 1.0):
        optimizer.lr = lr
        assert optimizer.options_of("conv.bias")["lr"] == 0
        assert optimizer.lr == optimizer.options_of("fc.weight")["lr"] == lr
        assert optimizer.options_of("conv.weight")["lr"] == lr / 4
    with pytest.raises(ArgumentError, match=mentions(f"{kind.__name__}: lr", "-1")):
        optimizer.lr = -1
    assert optimizer.lr == 1.0
    optimizer.lr = 0.0
    optimizer.step(ones(parameters))
    assert not parameters["fc.weight"].data.any()


def test_the_new_lr_is_used(parameters: dict[str, nn.Parameter]) -> None:
    optimizer = optim.SGD(parameters, lr=0.5, groups={"conv.*": {"lr": 0.125}})
    optimizer.lr = 2.0
    optimizer.step(ones(parameters))
    assert (parameters["fc.weight"].data == -2.0).all()
    assert (parameters["conv.weight"].data == -0.5).all()


def test_numpy_scalars_do_not_widen_float32() -> None:
    parameters = {"p": nn.Parameter(np.ones(2, np.float32))}
    optimizer = optim.AdamW(
        parameters, lr=np.float64(0.1), betas=(np.float64(0.9), np.float32(0.99)), eps=np.array(1e-8)
    )
    optimizer.lr = np.float64(0.2)
    assert all(type(v) in (float, tuple) for v in optimizer.options_of("p").values())
    same = optim.AdamW(parameters, lr=np.array(0.2), betas=np.array([0.9, 0.99]))
    assert same.options_of("p") == {"lr": 0.2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.01}
    optimizer.step(ones(parameters))
    assert parameters["p"].dtype == np.float32


def test_repr(parameters: dict[str, nn.Parameter]) -> None:
    assert repr(optim.SGD(parameters)) == "SGD(lr=0.01, momentum=0.0, weight_decay=0.0, nesterov=False)"
    grouped = optim.AdaGrad(parameters, groups={"*.bias": {"lr": 0.1}})
    assert repr(grouped) == "AdaGrad(lr=0.01, eps=1e-10, weight_decay=0.0, groups=['*.bias'])"


REFUSED: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "negative lr": (optim.SGD, {"lr": -0.1}, ("SGD: lr", "at least 0", "-0.1")),
    "nan lr": (optim.Adam, {"lr": math.nan}, ("Adam: lr", "finite number", "nan")),
    "momentum 1": (optim.SGD, {"momentum": 1}, ("SGD: momentum", "less than 1", "got 1")),
    "negative decay": (optim.AdamW, {"weight_decay": -1}, ("AdamW: weight_decay", "at least 0", "-1")),
    "negative eps": (optim.AdaGrad, {"eps": -1e-8}, ("AdaGrad: eps", "at least 0", "-1e-08")),
    "alpha 1": (optim.RMSprop, {"alpha": 1.0}, ("RMSprop: alpha", "less than 1", "1.0")),
    "beta 1": (optim.Adam, {"betas": (0.9, 1.0)}, ("Adam: betas[1]", "less than 1", "1.0")),
    "negative beta": (optim.Adam, {"betas": (-0.9, 0.9)}, ("Adam: betas[0]", "at least 0", "-0.9")),
    "one beta": (optim.Adam, {"betas": 0.9}, ("Adam: betas", "two numbers", "0.9")),
    "nesterov alone": (optim.SGD, {"nesterov": True}, ("SGD: nesterov=True", "momentum=0.9")),
    "unknown": (optim.SGD, {"beta": 0.9}, ("SGD: got an unexpected keyword argument 'beta'",)),
    "nesterov 1": (optim.SGD, {"nesterov": 1}, ("SGD: nesterov", "True or False", "got 1")),
    "no groups": (optim.SGD, {"groups": ["*"]}, ("SGD: groups", "path patterns", "['*']")),
    "no options": (optim.SGD, {"groups": {"*": 0.1}}, ("SGD: groups", "{'*': 0.1}")),
    "no pattern": (optim.SGD, {"groups": {0: {}}}, ("SGD: groups", "{0: {}}")),
}
BIAS = "groups['*.bias']"
GROUPS: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    ({}, {"FC.*": {"lr": 0.1}}, ("groups['FC.*']", "applies to no parameter", "conv.bias, fc.weight")),
    ({}, {"conv.*": {}, "*.bias": {}}, (BIAS, "that an earlier pattern does not match")),
    ({}, {"*.bias": {"beta": 0.9}}, (BIAS, "no option 'beta'", "lr, momentum, weight_decay, nesterov")),
    ({}, {"*.bias": {"weight_decay": -1.0}}, (f"{BIAS}: weight_decay", "at least 0")),
    ({}, {"*.bias": {"lr": -1.0}}, (f"{BIAS}: lr", "at least 0")),
    ({"lr": 0.0}, {"*.bias": {"lr": 1.0}}, (BIAS, "ratio", "trainable=False")),
    ({"momentum": 0.9, "nesterov": True}, {"*.bias": {"momentum": 0.0}}, (f"{BIAS}: nesterov=True",)),
]
for _own, _groups, _parts in GROUPS:
    REFUSED[f"{_own} {_groups}"] = (optim.SGD, {**_own, "groups": _groups}, ("SGD: ", *_parts))


@pytest.mark.parametrize(("kind", "options", "parts"), REFUSED.values(), ids=REFUSED)
def test_refused(
    kind: Any, options: dict[str, Any], parts: tuple[str, ...], parameters: dict[str, nn.Parameter]
) -> None:
    with pytest.raises((ArgumentError, TypeError), match=mentions(*parts)):
        kind(parameters, **options)


NOTHING_TO_TRAIN: dict[str, tuple[Any, tuple[str, ...]]] = {
    "layer without": (nn.ReLU(), ("no parameter to train", "ReLU")),
    "empty": ({}, ("no parameter to train", "dict")),
    "list": ([nn.Parameter([1.0])], ("Layer or a mapping", "list")),
    "arrays": ({"p": np.ones(2)}, ("Layer or a mapping", "model.parameters()")),
}


@pytest.mark.parametrize(("model", "parts"), NOTHING_TO_TRAIN.values(), ids=NOTHING_TO_TRAIN)
def test_nothing_to_train(model: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(ArgumentError, match=mentions("Adam:", *parts)):
        optim.Adam(model)


def test_the_options_of_no_parameter(parameters: dict[str, nn.Parameter]) -> None:
    with pytest.raises(ArgumentError, match=mentions("SGD.options_of: no parameter 'conv'", "conv.weight")):
        optim.SGD(parameters).options_of("conv")


def test_an_optimizer_of_ones_own(parameters: dict[str, nn.Parameter]) -> None:
    """It has an lr though its rules name none; a constructor of its own has its own signature."""

    class Halves(optim.Optimizer):
        rules = Rules(part=(0.5, fraction))

        def update(self, data: Any, gradient: Any, *args: Any, **options: Any) -> Any:
            return data - options["lr"] * options["part"] * gradient

    class Slow(Halves):
        def __init__(self, model: Any, slowness: float) -> None:
            super().__init__(model, lr=1 / slowness)

    assert str(inspect.signature(Halves)) == "(model, lr, part=0.5, groups=None)"
    assert list(inspect.signature(Slow).parameters) == ["model", "slowness"]
    for optimizer in (Halves(parameters, 0.25), Slow(parameters, slowness=4)):
        assert optimizer.options_of("fc.weight") == {"lr": 0.25, "part": 0.5}
        before = parameters["fc.weight"].data
        optimizer.step(ones(parameters))
        np.testing.assert_array_equal(parameters["fc.weight"].data, before - 0.125)
