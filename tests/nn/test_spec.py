"""What a model's file says of it: saved, read, and the same bits again; and what cannot be said."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.nn_cases import small_net
from xpcnn import Trainer, data, io, load_model, models, nn, optim
from xpcnn.errors import CheckpointError
from xpcnn.models.catalog import MODELS
from xpcnn.nn.spec import ModelSpec, describe_spec, spec_of


def drawn(model: Any) -> Any:
    """The model with numbers that no seed draws, in place of all its floating ones."""
    rng = np.random.default_rng(2)
    for state in {**model.parameters(), **model.buffers()}.values():
        if str(state.dtype).startswith("float"):
            state.data = xpcnn.asarray(rng.uniform(0.01, 0.02, state.shape).astype(str(state.dtype)))
    return model


def own_net() -> nn.Layer:
    return nn.Sequential(
        prepare=nn.Preprocess(0.25, 0.5),
        conv=nn.Conv2d(1, 3, 5, padding=2, bias=False),
        norm=nn.GroupNorm(3, 3),
        mix=nn.Concat(nn.Conv2d(3, 2, 1), wide=nn.Residual(nn.Conv2d(3, 3, 3, padding=1))),
        pool=nn.AvgPool2d(4),
        flatten=nn.Flatten(),
        fc=nn.Linear(5 * 49, 10),
    )


def same_after_loading(path: Path, model: Any, x: Any) -> nn.Layer:
    model.save(path)
    again = load_model(path)
    assert repr(again) == repr(model)
    for name, array in model.state_dict().items():
        assert again.state_dict()[name].dtype == array.dtype
        np.testing.assert_array_equal(again.state_dict()[name], array)
    np.testing.assert_array_equal(again(x), model(x))
    return again


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("new", [own_net, small_net], ids=["own", "small"])
def test_a_model_of_ones_own(tmp_path: Path, new: Callable[[], Any], dtype: str, ending: str) -> None:
    model = drawn(new().to(dtype=dtype))
    shape = (2, 1, 28, 28) if new is own_net else (2, 1, 4, 4)
    x = np.random.default_rng(0).random(shape).astype(dtype)
    again = same_after_loading(tmp_path / f"m{ending}", model, x)
    again.save(tmp_path / f"again{ending}")
    assert (tmp_path / f"again{ending}").read_bytes() == (tmp_path / f"m{ending}").read_bytes()


def test_on_each_backend(make: Any, tmp_path: Path) -> None:
    with make.use():
        model = own_net()
        model.save(tmp_path / "m.npz")
        again = load_model(tmp_path / "m.npz")
        assert again.backend.name == make.backend
        x = np.random.default_rng(0).random((2, 1, 28, 28), dtype=np.float32)
        expected = make.to_numpy(model(make.array(x)))
        np.testing.assert_array_equal(make.to_numpy(again(make.array(x))), expected)


def test_what_it_was_trained_on_is_noted(tmp_path: Path) -> None:
    model = own_net()
    digits = data.synthetic_digits(20)
    Trainer(model, optim.SGD(model, lr=0.1)).fit(digits, epochs=1, progress=None)
    model.save(tmp_path / "m.npz")
    again = load_model(tmp_path / "m.npz")
    assert again.spec == ModelSpec(input_shape=(1, 28, 28), preparation="mnist-digit")
    np.testing.assert_array_equal(again(digits.images), model(digits.images))


# -- own layers ---------------------------------------------------------------------------------


@nn.registered("tests.spec.Negated")
class Negated(nn.Layer):
    """Keeps something else under its argument's name."""

    def __init__(self, by: float = 1.0) -> None:
        self.by = -by


@nn.registered("tests.spec.Grown")
class Grown(nn.Layer):
    """Has a parameter whose shape its arguments do not tell."""

    def __init__(self, size: int = 2) -> None:
        self.size = size
        self.weight = nn.Parameter(np.ones(3 * size, np.float32))


@nn.registered("tests.spec.Holder")
class Holder(nn.Layer):
    """Keeps whatever it is given."""

    def __init__(self, value: Any = None) -> None:
        self.value = value


@nn.registered("tests.spec.Broken")
class Broken(nn.Layer):
    """Cannot say how it is built."""

    def __init__(self, how: Any = None) -> None:
        self.how = how

    def config_arguments(self) -> Any:
        if self.how is None:
            raise RuntimeError("half built")
        return self.how


def nested_lists(depth: int) -> list[Any]:
    return [nested_lists(depth - 1)] if depth else []


def changed(layer: nn.Layer, **attributes: Any) -> nn.Layer:
    vars(layer).update(attributes)
    return layer


def ones(*shape: int) -> nn.Parameter:
    return nn.Parameter(np.ones(shape, np.float32))


def twice() -> nn.Layer:
    same = nn.Linear(2, 2)
    return nn.Sequential(same, same)


UNREADABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "another number": (
        lambda: Negated(2.0),
        r"it: Negated\.by is -2\.0, but its layer's arguments build 2\.0",
    ),
    "another shape": (
        lambda: changed(Grown(), weight=ones(5)),
        r"it\.weight is \(5,\), but its layer's arguments build \(6,\)",
    ),
    "one parameter twice": (twice, r"it\.0\.weight and it\.1\.weight are one Param"),
    "a parameter of a container": (
        lambda: changed(nn.Sequential(), scale=ones(3)),
        r"it\.scale is \(3,\), but its layer's arguments build noth",
    ),
    "layers in a list of a container": (
        lambda: changed(nn.Sequential(), more=[nn.Linear(2, 2)]),
        r"without dots, got 'more\.0'",
    ),
    "a weight of another shape": (
        lambda: changed(nn.Linear(2, 2), weight=ones(5, 2)),
        r"it\.bias is \(2,\), but its layer's arguments build \(5,",
    ),
    "a long number": (lambda: Holder(10**100), "no file can hold its description: .*a number of 101 digits"),
    "a longer number": (lambda: Holder(10**5_000), r"no file can hold its description: .*digits"),
    "deep lists": (
        lambda: Holder(nested_lists(60)),
        "no file can hold its description: .*nested more than 50",
    ),
    "a type": (lambda: Holder({"type": "x"}), "not 'type', which makes a layer"),
    "an error": (Broken, r"it: RuntimeError\('half built'\)"),
    "no arguments": (lambda: Broken("x"), "it: dictionary update sequence"),
}


@pytest.mark.parametrize(("layer", "told"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_no_file_can_say(
    tmp_path: Path, layer: Callable[[], Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is saved without its structure, and the file says why: nobody finds out when it is read."""
    model = nn.Sequential(fc=nn.Linear(2, 2), it=layer())
    with caplog.at_level(logging.WARNING, "xpcnn"):
        model.save(tmp_path / "m.npz")
    assert len(caplog.records) == 1
    with pytest.raises(CheckpointError, match=rf"m\.npz: does not say how its model is built, as .*{told}"):
        load_model(tmp_path / "m.npz")
    nn.Sequential(fc=nn.Linear(2, 2), it=layer()).load(tmp_path / "m.npz")


def test_arguments_that_a_file_would_change(tmp_path: Path) -> None:
    """JSON's keys are texts: the builder would not find 0 among them."""

    @models.register_model("tests_mapped")
    def mapped(widths: Any) -> nn.Layer:
        return nn.Sequential(fc=nn.Linear(2, widths[0]))

    model = models.build("tests_mapped", widths={0: 5})
    del MODELS["tests_mapped"]  # other tests run all models there are
    model.save(tmp_path / "m.npz")
    assert load_model(tmp_path / "m.npz").state_dict()["fc.weight"].shape == (5, 2)


@nn.registered("tests.spec.Classifier")
class Classifier(nn.Layer):
    """A network of somebody's own with a large head."""

    def __init__(self, classes: int = 1_000) -> None:
        self.classes = classes
        self.body = [nn.Linear(2, 500)]
        self.head = nn.Linear(500, classes)

    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
        return self.head(self.body[0](x)), None


def test_a_large_head_that_was_replaced_by_a_small_one(tmp_path: Path) -> None:
    """What the constructor makes, and the description replaces, is not in the file."""
    for model in (Classifier(), nn.Sequential(net=Classifier())):
        network: Any = model if isinstance(model, Classifier) else model.net
        network.head = nn.Linear(500, 3)
        same_after_loading(tmp_path / "m.npz", model, np.ones((4, 2), np.float32))
    described: Any = json.loads(describe_spec(spec_of(Classifier())))
    described["structure"]["arguments"] = {"classes": 10**9}
    io.save_arrays(tmp_path / "m.npz", {"w": np.ones(3, np.float32)}, {"spec": json.dumps(described)})
    with pytest.raises(CheckpointError, match=r"are more than "):
        load_model(tmp_path / "m.npz")


@nn.registered("tests.Shifted")
class Shifted(nn.Linear):
    """Its constructor writes into the weights that it has drawn."""

    def __init__(self, features: int = 3) -> None:
        super().__init__(features, features)
        self.features = features
        self.weight.data[...] *= 0.5
        assert self.bias is not None
        self.bias.data[...] = 1.0


def test_a_constructor_that_writes_into_its_weights(tmp_path: Path) -> None:
    def shifted_model(features: int = 3) -> nn.Sequential:
        return nn.Sequential(shifted=Shifted(features))

    same_after_loading(tmp_path / "m.npz", nn.Sequential(shifted=Shifted(4)), np.ones((2, 4), np.float32))
    try:
        built = models.register_model("tests.shifted")(shifted_model)(features=5)
        same_after_loading(tmp_path / "m.npz", built, np.ones((2, 5), np.float32))
    finally:
        del MODELS["tests.shifted"]


# -- files that say something odd -----------------------------------------------------------------

RELU = {"type": "ReLU"}

ODD: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "does not say how its model is built; build the model"),
    "two things": ({"builder": "lenet5", "structure": RELU}, "names a builder, and has a structure too"),
    "another field": ({"builder": "lenet5", "code": "x"}, "unreadable: has the unknown entry 'code'"),
    "a list": ([], "unreadable: expected a mapping"),
    "a structure of text": ({"structure": "ReLU"}, "unreadable: structure: expected a mapping"),
    "no layer": ({"structure": {"a": 1}}, "from_config: the model: lacks type"),
    "an unknown layer": ({"structure": {"type": "No.Body"}}, "the model is a 'No.Body', which is no known"),
    "a huge layer": (
        {"structure": {"type": "Linear", "arguments": {"in_features": 10**8, "out_features": 10}}},
        r"weights of shape \(10, 100000000\) are more than 16,777,216",
    ),
    "a preparation": ({"structure": RELU, "preparation": "stretch"}, "unreadable: preparation: expected one"),
    "large images": ({"structure": RELU, "input_shape": [1, 50_000, 50_000]}, "are too large"),
    "a seed": ({"builder": "lenet5", "arguments": {"seed": -1}}, "seed must be"),
    "a builder of numbers": ({"builder": 3}, "builder: expected text, got 3"),
}


@pytest.mark.parametrize(("fields", "told"), ODD.values(), ids=ODD.keys())
def test_descriptions_that_cannot_be_followed(tmp_path: Path, fields: Any, told: str) -> None:
    io.save_arrays(tmp_path / "m.npz", {"w": np.zeros(3)}, {"spec": json.dumps(fields)})
    with pytest.raises(CheckpointError, match=rf"m\.npz: .*{told}"):
        load_model(tmp_path / "m.npz")


def test_as_deep_as_a_structure_can_be(tmp_path: Path) -> None:
    deep: nn.Layer = nn.ReLU()
    for _ in range(20):
        deep = nn.Sequential(deep)
    deep.save(tmp_path / "deep.npz")
    assert repr(load_model(tmp_path / "deep.npz")) == repr(deep)
