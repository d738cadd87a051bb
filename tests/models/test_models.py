"""What every published model keeps to: names, seeds, recipes, files, and messages."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.model_cases import (
    ALL,
    FAMILIES,
    OF_ONE_SIZE,
    drawn_state,
    images,
    narrow,
    parametrize,
    tiny,
    tiny_shape,
)
from xpcnn import models, nn
from xpcnn.errors import ArgumentError, DtypeError, ShapeError
from xpcnn.models.catalog import MODELS, parameters_of
from xpcnn.nn.spec import spec_of
from xpcnn.train import predict

FOR_SMALL_IMAGES = ("deep_convnet", "lenet5", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110")

every_model = pytest.mark.parametrize("name", ALL)
every_family = pytest.mark.parametrize("name", FAMILIES)


CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in FAMILIES} | {
    "googlenet with heads": ("googlenet", {"aux": True})
}


def results(model: nn.Layer, x: Any) -> dict[str, Any]:
    """Logits in evaluation, and those and the gradients of a training step, in which the loss is their mean
    square."""
    y, ctx = model.forward(x, train=True, key=xpcnn.Key(0))
    grads = nn.Gradients()
    dx = model.backward(ctx, y, grads)
    logits = y if isinstance(y, tuple) else (y,)
    found = {"evaluated": model(x), "dx": dx, **{f"y{i}": one for i, one in enumerate(logits)}}
    return found | {path: grads[path] for path in model.parameters()}


@parametrize("name options", CASES)
def test_outputs_and_gradients_on_every_backend(
    make: Any, name: str, options: dict[str, Any], dtype: str
) -> None:
    """As in float64 on NumPy, which other tests compare with PyTorch; dropout draws other masks elsewhere."""
    if "dropout" in inspect.signature(getattr(models, name)).parameters:
        options = {**options, "dropout": 0.0}
    reference = tiny(name, **options)
    state = drawn_state(reference)
    reference.load_state_dict(state)
    with make.use():
        model = tiny(name, dtype=dtype, **options)
    model.load_state_dict(state)
    for one in (reference, model):
        for head in ("aux1", "aux2") if options.get("aux") else ():
            one[head]["dropout"] = nn.Dropout(0.0)
    x = images(3, *tiny_shape(name))
    expected, found = results(reference, x), results(model, make.array(x, dtype))
    assert not np.allclose(expected["evaluated"].sum(axis=1), 1)  # no softmax at the end
    for what, values in found.items():
        beside = expected.get(what.removesuffix("bias") + "weight", expected[what])
        scale = max(float(np.abs(one).max()) for one in (expected[what], beside))
        # On the way back, batch-norm and ReLU multiply rounding: by far most in ResNet-50.
        amplified = bool(reference.buffers()) and what not in ("evaluated", "y0")
        rtol = {"float64": 1e-8, "float32": 1e-2 if amplified else 1e-4}[dtype]
        make.check(values, expected[what], dtype, rtol=rtol, scale=scale)


@every_family
def test_the_seed_decides_the_weights(name: str) -> None:
    def weights(seed: Any) -> dict[str, bytes]:
        model = tiny(name, seed=seed)
        return {
            path: np.asarray(p.data).tobytes() for path, p in model.parameters().items() if p.data.ndim > 1
        }

    first, other = weights(0), weights(1)
    assert first == weights(0)
    assert all(first[path] != other[path] for path in first)
    assert weights(np.random.default_rng(0)) == first
    assert weights(None) != weights(None)
    spec = tiny(name, seed=np.random.default_rng(1), dtype=np.float64).spec
    assert spec is not None
    assert (spec.arguments["seed"], spec.arguments["dtype"]) == (None, "float64")


def assert_same(again: nn.Layer, model: nn.Layer) -> None:
    assert repr(again) == repr(model)
    assert_same_states(again.state_dict(), model.state_dict())


def assert_same_states(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for path, array in expected.items():
        assert found[path].dtype == array.dtype
        np.testing.assert_array_equal(found[path], array)


OPTIONS: dict[str, dict[str, Any]] = {
    "simple_convnet": {"padding": 1, "hidden": 6},
    "tiny_convnet": {"bias": True},
    "deep_convnet": {"batch_norm": True, "filters": (3, 4, 5), "dropout": 0.25},
    "lenet5": {"variant": "sigmoid"},
    "googlenet": {"aux": True, "dropout": 0.1},
    "resnet20": {"dtype": "float32"},
}


@pytest.mark.parametrize("how", ["as it was built", "with its structure"])
@every_family
def test_a_file_gives_the_same_bits(tmp_path: Path, name: str, how: str) -> None:
    model = tiny(name, seed=3, **OPTIONS.get(name, {}))
    model.load_state_dict(drawn_state(model))
    if how == "with its structure":
        model.spec = None
    assert (spec_of(model).builder, spec_of(model).missing) == (name if model.spec else None, None)
    model.save(tmp_path / "m.safetensors")
    with narrow():  # for builders; a structure says how wide it is
        again = xpcnn.load_model(tmp_path / "m.safetensors")
    if how == "as it was built":
        assert again.spec == model.spec
    assert_same(again, model)
    dtype = next(iter(model.parameters().values())).data.dtype
    x = images(2, *tiny_shape(name)).astype(dtype)
    np.testing.assert_array_equal(again(x), model(x))
    pixels = np.random.default_rng(0).integers(0, 256, x.shape, dtype=np.uint8)
    np.testing.assert_array_equal(again(pixels), model(pixels))


# -- messages -----------------------------------------------------------------------------


@every_family
def test_images_that_do_not_fit_are_told_so(name: str) -> None:
    model = tiny(name)
    channels, height, width = tiny_shape(name)
    with pytest.raises(ShapeError, match="channels") as caught:
        model(images(1, channels + 1, height, width))
    if name not in OF_ONE_SIZE:
        assert str(caught.value).startswith(f"{name}: x must have shape (N, 2, H, W), got (1, 3,")
        with pytest.raises(ShapeError, match=rf"{name}: x must have shape .* got \(2, {height}, {width}\)"):
            model(images(channels, height, width))
    else:  # the layer that fails is named
        assert caught.value.__notes__ == ["in Sequential.conv1 (Conv2d)"]
        with pytest.raises(ShapeError, match="features") as caught:
            model(images(1, 2, 12, 12))
        assert caught.value.__notes__[0].startswith("in Sequential.fc")
    with pytest.raises(DtypeError, match="float32"):
        model(images(1, channels, height, width, dtype="float32"))


# -- by name ------------------------------------------------------------------------------


def test_names() -> None:
    for name in ALL:
        assert getattr(models, name).__name__ == name
    assert set(ALL) < set(models.__all__)


@every_family
def test_a_model_takes_what_a_dataset_holds(name: str) -> None:
    model, shape = tiny(name), tiny_shape(name)
    x = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    layer = nn.preprocess_of(model)
    assert layer is model[""] is model[0]
    logits = model(x)
    np.testing.assert_allclose(logits, model((x / 255 - layer.mean) / layer.std), rtol=1e-9, atol=1e-12)
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(predict(model, x), expected / expected.sum(axis=1, keepdims=True), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("tiny_convnet", 0.5, 1.0),
        ("deep_convnet", 0.0, 1.0),
        ("lenet5", 0.0, 0.3081),
        ("alexnet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("vgg16", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("googlenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("resnet20", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ],
)
def test_preprocessing(name: str, mean: Any, std: Any) -> None:
    with narrow():
        layer = nn.preprocess_of(models.build(name))
        assert layer is not None
        assert (layer.mean, layer.std) == (mean, std)
        if isinstance(mean, tuple):  # for images of one channel, the average
            grey = nn.preprocess_of(models.build(name, in_channels=1))
            assert grey is not None
            assert grey.mean == pytest.approx(sum(mean) / 3)
            assert grey.std == pytest.approx(sum(std) / 3)


def test_every_builder_shows_its_arguments() -> None:
    for name in ALL:
        builder = getattr(models, name)
        signature = inspect.signature(builder)
        assert builder.__module__.startswith("xpcnn.models.")
        assert {"classes", "seed", "dtype"} <= set(signature.parameters)
        assert (inspect.getdoc(builder) or "").startswith("Return ")
        if name not in OF_ONE_SIZE:
            assert list(signature.parameters)[:4] == ["classes", "in_channels", "small_images", "seed"]
            assert signature.parameters["classes"].default == (10 if name in FOR_SMALL_IMAGES else 1000)


def test_own_models() -> None:
    def listed(classes: int = 2) -> Any:
        return [classes]

    try:
        models.register_model("tests_listed")(listed)
        builder = models.register_model("tests_listed")(listed)  # as when a cell is run again
        assert parameters_of("tests_listed")["classes"].annotation is int
        listed.__annotations__ = {"classes": "OfATypeCheckerAlone"}
        assert parameters_of("tests_listed")["classes"].annotation == "OfATypeCheckerAlone"
        with pytest.raises(ArgumentError, match="tests_listed: its function must return a layer, got list"):
            builder()
    finally:
        del MODELS["tests_listed"]
    assert parameters_of("tests_listed") == {}
