"""Layers as data and back: every class of layers, and what is refused."""

from __future__ import annotations

import copy
import importlib
import json
import pkgutil
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.model_cases import tiny
from tests.support.nn_cases import CASES, small_net
from xpcnn import models, nn
from xpcnn.backend import Key
from xpcnn.errors import ArgumentError, UnknownLayerError
from xpcnn.models._images import Images
from xpcnn.models.lenet5 import PartialConv2d, ScaledTanh
from xpcnn.models.resnet import ZeroChannels
from xpcnn.nn.containers import Container
from xpcnn.nn.init import without_memory

# What only wraps another layer while something is computed, and is never saved.
NEVER_SAVED = {
    "LowPrecisionModel",
    "OpLayer",
    "Parallel",
    "Stateless",
    "Weighted",
    "_BatchNorm",
    "_Conv",
    "_InFloat32",
    "_Norm",
    "_Pool2d",
}


def folded() -> nn.Layer:
    return nn.fuse(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))[0]


MORE: dict[str, tuple[Callable[[], nn.Layer], tuple[int, ...]]] = {
    "every option of conv": (
        lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), 2, False, algorithm="loop", dtype="float64"),
        (2, 4, 7, 6),
    ),
    "NumPy's numbers": (lambda: nn.Conv2d(np.int64(2), np.int32(3), np.array([3, 3])), (1, 2, 4, 4)),
    "images": (lambda: Images("net", 2, 0.5, (1.0, 0.5), 3, 9, "a hint", dtype="float64"), (1, 2, 4, 5)),
    "padded images": (lambda: Images("net", 2, (0.1, 0.2), 0.5, 3, pad_to=8), (1, 2, 4, 5)),
    "preprocess": (lambda: nn.Preprocess((0.1, 0.2), 0.5, dtype="float64"), (1, 2, 4, 5)),
    "partial conv": (lambda: PartialConv2d(((0, 1), (2,)), 3, 2), (2, 3, 4, 4)),
    "scaled tanh": (ScaledTanh, (2, 3)),
    "zero channels": (lambda: ZeroChannels(2), (1, 2, 3, 3)),
    "GoogLeNet": (lambda: tiny("googlenet", aux=True, dtype="float32"), (2, 2, 28, 28)),
    "folded linear": (folded, (2, 4)),
    "residual with a named shortcut": (
        lambda: nn.Residual(nn.Linear(3, 3), nn.Identity(), shortcut_name="around"),
        (2, 3),
    ),
    "without paths": (lambda: nn.Sequential({"": nn.Linear(3, 2), "act": nn.ReLU()}), (2, 3)),
    "children of odd names": (
        lambda: nn.Sequential({"type": nn.Linear(3, 2), "arguments": nn.ReLU(), "a b": nn.Identity()}),
        (2, 3),
    ),
    "nested lists of one": (lambda: nn.Sequential(nn.Sequential(nn.Concat(nn.Linear(2, 2)))), (1, 2)),
}


def layers() -> Iterator[tuple[str, Callable[[], nn.Layer], tuple[int, ...]]]:
    for name, case in CASES.items():
        yield name, case.layer, case.shape
    for name, (new, shape) in MORE.items():
        yield name, new, shape


LAYERS = {name: (new, shape) for name, new, shape in layers()}


def with_odd_state(layer: Any) -> Any:
    """A layer whose parameters and buffers no seed draws."""
    rng = np.random.default_rng(1)
    for path, array in layer.state_dict().items():
        if str(array.dtype).startswith("float"):
            state = {**layer.parameters(), **layer.buffers()}[path]
            state.data = xpcnn.asarray(rng.uniform(0.5, 1.5, array.shape).astype(str(array.dtype)))
    return layer


def again(config: Any) -> Any:
    return nn.from_config(json.loads(json.dumps(config, allow_nan=False)))


@pytest.mark.parametrize("name", LAYERS)
def test_there_and_back(name: str) -> None:
    new, shape = LAYERS[name]
    layer = with_odd_state(new())
    config = layer.config()
    other = again(config)
    assert type(other) is type(layer)
    assert repr(other) == repr(layer)
    assert other.config() == config
    saved = layer.state_dict()
    assert {path: (a.shape, a.dtype) for path, a in other.state_dict().items()} == {
        path: (a.shape, a.dtype) for path, a in saved.items()
    }
    other.load_state_dict(saved)
    dtype = next((str(a.dtype) for a in saved.values() if str(a.dtype).startswith("float")), "float32")
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    for train in (False, True):
        ours, theirs = (one.forward(x, train=train, key=Key.of(3))[0] for one in (layer, other))
        np.testing.assert_array_equal(theirs, ours)


def kinds() -> set[type]:
    """Every class of layers in the package."""
    for module in pkgutil.walk_packages(xpcnn.__path__, "xpcnn."):
        if module.name.startswith(("xpcnn.nn", "xpcnn.models", "xpcnn.train", "xpcnn.viz")):
            importlib.import_module(module.name)
    found: set[type] = set()
    rest: list[type] = [nn.Layer]
    while rest:
        kind = rest.pop()
        rest += kind.__subclasses__()
        # A class that a test defines anew, by loading a module a second time, is no class of the package.
        there = getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind
        if there and kind.__module__.startswith("xpcnn.") and kind.__name__ not in NEVER_SAVED:
            found.add(kind)
    return found - {nn.Layer, Container}


def test_every_class_of_layers_is_there() -> None:
    """Who adds a layer adds it to the cases here or in `cases`."""
    tested: set[type] = set()

    def note(layer: nn.Layer) -> None:
        tested.add(type(layer))
        for child in layer.children().values():
            note(child)

    for new, _ in LAYERS.values():
        note(new())
    missing = {kind.__name__ for kind in kinds() - tested}
    assert not missing


# -- own layers ---------------------------------------------------------------------------


@nn.registered("tests.Scale")
class Scale(nn.Layer):
    """What a reader writes: a learnable factor."""

    batch_independent = True

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = nn.Parameter([factor], "float32")

    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
        return x * self.factor.data, x


@nn.registered("tests.Net")
class Net(nn.Layer):
    """Children made by the constructor, in every kind of place, and options of every kind."""

    def __init__(
        self, width: int, names: Any = ("a", "b"), options: Any = None, seed: Any = 0, dtype: Any = "float32"
    ) -> None:
        self.width, self.names, self.options = width, names, options
        self.first = nn.Linear(width, width, seed=seed, dtype=dtype)
        self.blocks: list[nn.Layer] = [nn.Linear(width, width, seed=seed, dtype=dtype), Scale(2.0)]
        self.named: dict[str, nn.Layer] = {name: nn.ReLU() for name in names}
        self.pair = (nn.Tanh(), nn.Identity())

    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
        for layer in (self.first, *self.blocks, *self.named.values(), *self.pair):
            x = layer(x)
        return x, None


@nn.registered("tests.Around")
class Around(nn.Layer):
    """Layers that are given to it."""

    def __init__(self, body: nn.Layer, others: Any = ()) -> None:
        self.body, self.others = body, others

    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
        for layer in (self.body, *self.others):
            x = layer(x)
        return x, None


@nn.registered("tests.Block")
class Block(nn.Sequential):
    """A container with a constructor of its own."""

    def __init__(self, width: int) -> None:
        super().__init__(fc=nn.Linear(width, width, seed=0), act=nn.ReLU())
        self.width = width


def changed_net() -> Net:
    net = Net(3)
    net.first = nn.Linear(3, 3, bias=False)
    net.blocks[1] = nn.LeakyReLU(0.5)
    net.named["b"] = nn.Sequential(nn.GELU(), nn.Linear(3, 3))
    return net


def changed_block() -> Block:
    block = Block(3)
    block["act"] = nn.Tanh()
    block["more"] = nn.Linear(3, 2)
    return block


OWN: dict[str, Callable[[], nn.Layer]] = {
    "scale": lambda: Scale(3.0),
    "net": lambda: Net(3),
    "net with options": lambda: Net(3, ["x"], {"depth": [1, 2.5], "on": True, "what": None}),
    "changed net": changed_net,
    "around": lambda: Around(Net(3), [nn.ReLU(), Around(nn.Tanh())]),
    "block": lambda: Block(3),
    "changed block": changed_block,
    "in a sequential": lambda: nn.Sequential(Block(3), Scale(), Around(Block(3))),
}


@pytest.mark.parametrize("new", OWN.values(), ids=OWN.keys())
def test_own_layers(new: Callable[[], Any]) -> None:
    layer = with_odd_state(new())
    other = again(layer.config())
    assert repr(other) == repr(layer)
    assert other.config() == layer.config()
    other.load_state_dict(layer.state_dict())
    states = layer.state_dict()
    x = np.ones((2, 3), str(states["first.weight"].dtype) if "first.weight" in states else "float32")
    np.testing.assert_array_equal(other(x), layer(x))


def test_own_arguments_in_other_words() -> None:
    @nn.registered("tests.Celsius")
    class Celsius(nn.Layer):
        def __init__(self, kelvin: float) -> None:
            self.celsius = kelvin - 273.0

        def config_arguments(self) -> dict[str, Any]:
            return {"kelvin": self.celsius + 273.0}

    assert again(Celsius(300.0).config()).celsius == 27.0


def test_a_class_that_is_defined_again() -> None:
    def define() -> type[nn.Layer]:
        @nn.registered("tests.Again")
        class Again(nn.Layer):
            pass

        return Again

    first, second = define(), define()
    assert type(nn.from_config({"type": "tests.Again"})) is second
    assert first().config() == second().config() == {"type": "tests.Again"}


def test_classes_that_cannot_be_registered() -> None:
    for kind in (int, len):
        with pytest.raises(ArgumentError, match=r"is no class of layers; derive it from nn\.Layer"):
            nn.registered("tests.Bad")(kind)  # type: ignore[type-var]
    with pytest.raises(ArgumentError, match=r"'Linear' is that of xpcnn\.nn\.linear\.Linear already"):
        nn.registered("Linear")(Scale)


class Unknown(nn.Layer):
    pass


def described(layer: Any) -> nn.Layer:
    return nn.Sequential(body=nn.Sequential(layer))


def test_what_cannot_be_described() -> None:
    @nn.registered("tests.Forgetful")
    class Forgetful(nn.Layer):
        def __init__(self, width: int, given: Any = None) -> None:
            self.given = given

    @nn.registered("tests.Remembers")
    class Remembers(nn.Layer):
        def __init__(self, what: Any) -> None:
            self.what = what

    shared = nn.Linear(2, 2)
    for layer, message in (
        (
            described(Unknown()),
            r'body\.0 is a Unknown, which is not registered: put @nn\.registered\("NAME"\)',
        ),
        (
            described(Forgetful(1)),
            r"takes 'width', but the layer has no attribute 'width'; write self\.width =",
        ),
        (described(Remembers(len)), r"body\.0: Remembers\.what is <built-in function len>: no file"),
        (described(Remembers([1, {"x": float("nan")}])), r"Remembers\.what\.1\.x is nan"),
        (described(Remembers({1: 2})), "a mapping's keys must be texts"),
        (described(Remembers({"type": "x"})), "not 'type', which makes a layer"),
        (nn.Sequential(shared, nn.ReLU(), shared), r"0\.weight and 2\.weight are one Parameter"),
    ):
        with pytest.raises(ArgumentError, match=message):
            layer.config()  # type: ignore[attr-defined]
    twice = nn.ReLU()
    assert len(again(nn.Sequential(twice, twice).config())) == 2  # nothing is lost


# -- what is refused ------------------------------------------------------------------------

LINEAR: dict[str, Any] = {"type": "Linear", "arguments": {"in_features": 2, "out_features": 3}}


def linear(**arguments: Any) -> dict[str, Any]:
    return {"type": "Linear", "arguments": {**LINEAR["arguments"], **arguments}}


REFUSED: dict[str, tuple[Any, str]] = {
    "no mapping": ([LINEAR], "from_config: the model: expected a mapping, got a list"),
    "no type": ({}, "the model: lacks type"),
    "an unknown entry": ({**LINEAR, "code": "x"}, "has the unknown entry 'code'"),
    "no arguments": ({"type": "Linear"}, r"the model \(Linear\): .*missing .* 'in_features' and"),
    "children of another kind": ({"type": "Concat", "children": [LINEAR]}, "children: expected a mapping"),
    "an unknown argument": (linear(code="x"), r"\(Linear\): .*unexpected keyword argument 'code'"),
    "text for a number": (linear(in_features="2"), "in_features must be an integer of at least 1, got '2'"),
    "a negative number": (linear(in_features=-1), "in_features"),
    "a dtype": (linear(dtype="int8"), "dtype must be float16"),
    "children where there are none": ({**LINEAR, "children": {"x": LINEAR}}, "has no child 'x' to replace"),
    "deep inside": (
        {"type": "Sequential", "children": {"body": {"type": "Concat", "children": {"0": linear(bias=1)}}}},
        r"from_config: body\.0 \(Linear\): Linear: bias must be True or False, got 1",
    ),
    "a residual of three": (
        {"type": "Residual", "children": {"": LINEAR, "a": LINEAR, "b": LINEAR}},
        r"\(Residual\): ",
    ),
    "a residual without a body": ({"type": "Residual", "children": {"a": LINEAR}}, r"\(Residual\): it is"),
    "a member of a taken name": ({"type": "Ensemble", "children": {"vote": LINEAR}}, "'vote' is taken"),
    "a name that is taken": ({"type": "Sequential", "children": {"forward": LINEAR}}, "'forward' is taken"),
    "a table of nothing": (
        {"type": "PartialConv2d", "arguments": {"table": [], "in_channels": 1, "kernel_size": 1}},
        r"\(PartialConv2d\): ",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(data: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        nn.from_config(data)


def test_an_unknown_layer_is_named() -> None:
    data = {"type": "Sequential", "children": {"body": {"type": "acme.Mixer"}}}
    with pytest.raises(
        UnknownLayerError, match=r"body is a 'acme\.Mixer'.*@nn\.registered.*--import FILE\.py"
    ):
        nn.from_config(data)


def test_depth() -> None:
    data: dict[str, Any] = {"type": "ReLU"}
    for _ in range(5_000):
        data = {"type": "Sequential", "children": {"0": data}}
    with pytest.raises(ArgumentError, match="nested too deep"):
        nn.from_config(data)

    lists: list[Any] = []
    for _ in range(20_000):
        lists = [lists]
    with pytest.raises(ArgumentError, match="nested too deep"):
        nn.from_config({"type": "tests.Around", "arguments": {"body": {"type": "ReLU"}, "others": lists}})


HUGE = {
    "linear": linear(in_features=10**9),
    "batch norm": {"type": "BatchNorm2d", "arguments": {"num_features": 10**9}},
}


@pytest.mark.parametrize("data", HUGE.values(), ids=HUGE.keys())
def test_sizes_are_compared_with_what_is_there(data: dict[str, Any]) -> None:
    with without_memory(1_000), pytest.raises(ArgumentError, match="are more than 1,000"):
        nn.from_config(data)


# -- mutations ------------------------------------------------------------------------------

ODD: list[Any] = [
    None, True, 0, -1, 2**31, 10**30, 0.5, -0.0, 1e300, "", "x", "same", [], [1, 2, 3, 4, 5], {}, {"a": 1},
    LINEAR, [[]], {"type": "ReLU"}, {"type": "Nobody"}, "float64", [None], "é\n",
]  # fmt: skip


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], dict | list):
            yield from places(data[key])


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(4))
def test_mutations_give_one_kind_of_error(seed: int) -> None:
    """150 each: a value replaced, an entry removed, renamed or added."""
    rng = random.Random(seed)
    source = (small_net(), models.lenet5(), nn.Sequential(Net(2), Around(Block(2))), models.resnet20())[seed]
    text = json.dumps(source.config())
    for _ in range(150):
        data = json.loads(text)
        for _ in range(rng.choice((1, 1, 2))):
            holder, key = rng.choice(list(places(data)))
            what = rng.randrange(4)
            if what == 0 or isinstance(holder, list):
                holder[key] = copy.deepcopy(rng.choice(ODD))
            elif what == 1:
                del holder[key]
            elif what == 2:
                holder[rng.choice(("x", "type", "arguments", "children", ""))] = holder.pop(key)
            else:
                holder[rng.choice(("x", "seed", "bias", "children"))] = copy.deepcopy(rng.choice(ODD))
        with without_memory(100_000):
            try:
                found = nn.from_config(data)
            except ArgumentError as error:
                found = str(error)
        assert isinstance(found, nn.Layer) or found.startswith("from_config: ")
