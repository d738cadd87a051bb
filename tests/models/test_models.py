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
    count,
    drawn_state,
    images,
    narrow,
    parametrize,
    tiny,
    tiny_shape,
)
from xpcnn import models, nn
from xpcnn.errors import ArgumentError, DtypeError, ShapeError, XpcnnError
from xpcnn.models.catalog import MODELS, parameters_of
from xpcnn.nn.init import without_memory
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


# -- sizes of images ---------------------------------------------------------------------------


SIZED = [name for name in FAMILIES if name not in OF_ONE_SIZE]
SMALLEST = {"alexnet": 63, "googlenet": 15, "vgg11": 32, "vgg19_bn": 32}
"""Of the networks for large images that do not take any size."""
SMALLEST_WITH_SMALL_STEM = {"alexnet": 1, "googlenet": 2, "vgg11": 16, "vgg19_bn": 16}


def narrow_model(name: str, **options: Any) -> nn.Sequential:
    with narrow():
        model = models.build(name, classes=5, **options)
    assert isinstance(model, nn.Sequential)
    return model


def logits_of(model: nn.Layer, channels: int, *size: int) -> Any:
    return model(images(2, channels, *size, dtype="float32"))


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("name", SIZED)
def test_small_images(name: str, size: int) -> None:
    y = logits_of(narrow_model(name, in_channels=1, small_images=True), 1, size, size)
    assert y.shape == (2, 5)
    assert not np.array_equal(y[0], y[1])


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20"])
def test_resnets_take_any_size(name: str) -> None:
    for small_images in (False, True):
        assert logits_of(narrow_model(name, small_images=small_images), 3, 1, 3).shape == (2, 5)


@pytest.mark.parametrize("small_images", [False, True])
@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_is_the_smallest_that_works(name: str, small_images: bool) -> None:
    smallest = (SMALLEST_WITH_SMALL_STEM if small_images else SMALLEST)[name]
    model = narrow_model(name, small_images=small_images)
    assert logits_of(model, 3, smallest, smallest + 3).shape == (2, 5)
    assert logits_of(model, 3, smallest + 3, smallest).shape == (2, 5)
    if smallest == 1:
        return
    for size in ((smallest - 1, smallest), (smallest, smallest - 1)):
        with pytest.raises(ShapeError) as caught:
            logits_of(model, 3, *size)
        hint = "pass small_images=True for images of about 28x28 to 32x32"
        assert str(caught.value) == (
            f"{name}: images of {size[0]}x{size[1]} are too small, it takes {smallest}x{smallest} and more; "
            + ("enlarge or pad them" if small_images else hint)
        )
        assert caught.value.__notes__ == ["in Sequential (Images)"]
        model[""], checked = nn.Identity(), model[""]
        with pytest.raises(XpcnnError):  # nor could the layers do anything with them
            logits_of(model, 3, *size)
        model[""] = checked


def test_deep_convnet_takes_what_its_affine_layer_fits() -> None:
    model = narrow_model("deep_convnet")
    for size in ((28, 28), (35, 30)):
        assert logits_of(model, 1, *size).shape == (2, 5)
    with pytest.raises(
        ShapeError, match=r"deep_convnet: images of 27x28 are too small.* 28x28 to 35x35; enlarge"
    ):
        logits_of(model, 1, 27, 28)
    with pytest.raises(ShapeError, match=r"deep_convnet: images of 28x36 are too large.*; crop or shrink"):
        logits_of(model, 1, 28, 36)


@pytest.mark.parametrize("name", ["lenet5", "deep_convnet", "resnet20"])
def test_small_images_changes_nothing_where_images_are_small_anyway(name: str) -> None:
    assert repr(narrow_model(name, small_images=True)) == repr(narrow_model(name))


@pytest.mark.parametrize(
    ("name", "billions"),
    [("alexnet", 0.71), ("vgg16", 15.47), ("googlenet", 1.50), ("resnet18", 1.81), ("resnet50", 4.09)],
)
def test_full_width_at_the_published_size(name: str, billions: float) -> None:
    """The multiply-accumulates that torchvision publishes for 224×224, counted on a run."""
    with without_memory():
        model = models.build(name)
    table = nn.summary(model, (3, 224, 224))
    assert table.rows[-1].output_shape == (1000,)
    assert round(table.macs / 1e9, 2) == billions


# -- simple_convnet and tiny_convnet -----------------------------------------------------------


# -- simple_convnet -----------------------------------------------------------------------


def test_simple_convnet_as_published() -> None:
    model = models.simple_convnet()
    assert {path: parameter.shape for path, parameter in model.parameters().items()} == {
        "conv1.weight": (30, 1, 5, 5),
        "conv1.bias": (30,),
        "fc1.weight": (100, 30 * 12 * 12),
        "fc1.bias": (100,),
        "fc2.weight": (10, 100),
        "fc2.bias": (10,),
    }
    assert count(model) == 433_890
    assert list(model.children()) == ["", "conv1", "relu1", "pool1", "flatten", "fc1", "relu2", "fc2"]
    assert all(parameter.dtype == "float32" for parameter in model.parameters().values())
    assert model(images(2, 1, 28, 28, dtype="float32")).shape == (2, 10)
    weights, biases = model.fc1.weight.data, model.fc1.bias.data
    assert abs(weights.std() / 0.01 - 1) < 0.01
    assert not biases.any()
    assert (model[""].mean, model[""].std) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("options", "features"),
    [
        ({"padding": 2}, 30 * 14 * 14),
        ({"stride": 2}, 30 * 6 * 6),
        ({"stride": 2, "padding": 1}, 30 * 6 * 6),
        ({"filter_size": 3, "padding": 1, "filters": 16}, 16 * 14 * 14),
        ({"input_shape": (3, 32, 32)}, 30 * 14 * 14),
        ({"input_shape": (1, 28, 20)}, 30 * 12 * 8),
        ({"filter_size": 4}, 30 * 12 * 12),  # 25 rows: the last one is not pooled
    ],
)
def test_simple_convnet_variants(options: dict[str, Any], features: int) -> None:
    model = models.simple_convnet(**options)
    assert model.fc1.weight.shape == (100, features)
    shape = options.get("input_shape", (1, 28, 28))
    assert model(images(2, *shape, dtype="float32")).shape == (2, 10)


# -- tiny_convnet -------------------------------------------------------------------------


def test_tiny_convnet_as_published() -> None:
    model = models.tiny_convnet()
    shapes = {path: parameter.shape for path, parameter in model.parameters().items()}
    assert shapes == {"conv1.weight": (8, 1, 3, 3), "fc.weight": (10, 8 * 13 * 13), "fc.bias": (10,)}
    assert list(models.tiny_convnet(bias=True).parameters())[1] == "conv1.bias"
    assert (model[""].mean, model[""].std) == (0.5, 1.0)
    assert abs(model.fc.weight.data.std() * 1352 - 1) < 0.02


def test_the_smallest_images_of_tiny_convnet() -> None:
    assert models.tiny_convnet(input_shape=(1, 4, 4))(images(1, 1, 4, 4, dtype="float32")).shape == (1, 10)
