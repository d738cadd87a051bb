"""Bytes become normalised floats in the model's first layer; floating images pass as they are."""

from __future__ import annotations

import copy
import json
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.implementations import Implementation
from xpcnn import Trainer, io, load_model, models, nn, optim
from xpcnn.errors import ArgumentError, CheckpointError, DtypeError, ShapeError, UnpreparedImagesWarning
from xpcnn.nn.preprocess import scaled_images
from xpcnn.train import evaluate, predict

Array = np.ndarray[Any, Any]

THREE = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def pixels(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def by_hand(x: Array, mean: Any, std: Any) -> Array:
    """In float64, channel by channel."""
    y = np.empty(x.shape)
    for c in range(x.shape[1]):
        one_mean, one_std = (value[c] if isinstance(value, tuple) else value for value in (mean, std))
        y[:, c] = (x[:, c].astype(np.float64) / 255 - one_mean) / one_std
    return y


def preprocess_of(model: nn.Layer) -> nn.Preprocess:
    layer = nn.preprocess_of(model)
    assert layer is not None
    return layer


# -- what it computes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mean": 0.5},
        {"mean": 0.1307, "std": 0.3081},
        THREE,
        {"mean": 0.5, "std": (0.2, 0.3, 0.4)},
        {"mean": [0.1, 0.2, 0.3], "std": np.float32(0.25)},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 1, 1), (0, 3, 2, 2)], ids=str)
def test_bytes(make: Any, dtype: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    layer, x = nn.Preprocess(**options, dtype=dtype), make.array(pixels(*shape))
    expected = by_hand(pixels(*shape), layer.mean, layer.std)
    with make.unchanged(x):
        y, ctx = layer.forward(x, train=True)
    make.check(y, expected, dtype)
    make.check(layer(x), make.to_numpy(y), dtype, rtol=0)
    for need_dx in (True, False):  # bytes have no gradient
        assert layer.backward(ctx, y, nn.Gradients(), need_dx=need_dx) is None


def test_floating_images_pass_as_they_are(make: Any, dtype: str) -> None:
    layer, values = nn.Preprocess(0.5, 0.5), np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    x = make.array(values, dtype)  # whatever the dtype of the layer
    y, ctx = layer.forward(x)
    make.check(y, make.to_numpy(x), dtype, rtol=0)
    dy = make.array(values[::-1], dtype)
    make.check(layer.backward(ctx, dy), make.to_numpy(dy), dtype, rtol=0)
    assert layer.backward(ctx, dy, need_dx=False) is None


@pytest.mark.parametrize("kind", ["int8", "int32", "int64", "uint16", "bool"])
def test_other_integers_are_refused(make: Any, kind: str) -> None:
    x = make.array(np.ones((2, 1, 28, 28)), kind)
    for layer in (nn.Preprocess(), models.tiny_convnet()):
        with pytest.raises(
            DtypeError, match=f"images must be uint8 or floating, got {kind}; give values of 0 to"
        ):
            layer(x)


def test_channels_that_do_not_fit() -> None:
    for shape in ((2, 1, 4, 5), (2, 3, 4), (2, 3)):
        with pytest.raises(ShapeError, match=r"mean and std are for \(N, 3, H, W\)"):
            nn.Preprocess(**THREE)(pixels(*shape))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"resnet20: x must have shape \(N, 3, H, W\)"):
        models.resnet20()(pixels(2, 1, 8, 8))
    layer: Any = preprocess_of(models.resnet20())
    before = layer.mean, layer.std
    for name in ("mean", "std"):
        with pytest.raises(ArgumentError, match=rf"one for each of 3 channels, got .*{name}=\(0\.5, 0\.5\)"):
            setattr(layer, name, (0.5, 0.5))
    assert (layer.mean, layer.std) == before


def test_settings_are_checked_when_they_are_set() -> None:
    layer = nn.Preprocess(0.25, 0.5)
    for name, value in (("mean", "0.5"), ("std", 0)):
        with pytest.raises(ArgumentError, match=f"Preprocess: {name} must be"):
            setattr(layer, name, value)
    assert (layer.mean, layer.std) == (0.25, 0.5)


# -- as a layer ----------------------------------------------------------------------------


def test_it_leaves_no_trace() -> None:
    """No entry, no parameter, no segment of a path, no row of a summary."""
    layers = {"conv1": nn.Conv2d(3, 2, 3, seed=0), "bn1": nn.BatchNorm2d(2), "flat": nn.Flatten()}
    with_it, without = nn.Sequential({"": nn.Preprocess(**THREE), **layers}), nn.Sequential(layers)
    assert list(with_it.state_dict()) == list(without.state_dict())
    assert with_it.parameters() == without.parameters()
    assert not nn.Preprocess().state_dict()
    assert xpcnn.summary(with_it, (3, 4, 4)) == xpcnn.summary(without, (3, 4, 4))
    assert nn.is_batch_independent(nn.Preprocess(), train=True)
    fused = nn.fuse(with_it)
    np.testing.assert_allclose(fused(pixels(2, 3, 4, 4)), with_it(pixels(2, 3, 4, 4)), rtol=1e-5)


def test_its_dtype_follows_the_model(make: Any) -> None:
    model, x = models.tiny_convnet(filters=2), pixels(3, 1, 28, 28)
    expected = model(x)
    model.to(backend=make.backend, dtype="float64")
    assert preprocess_of(model).dtype == "float64"
    make.check(model(make.array(x)), expected, "float64", rtol=1e-5)
    model.to(dtype=make.dtype("float32"))  # a dtype of the library's own
    make.check(model(make.array(x)), expected, "float32")
    assert nn.preprocess_of(models.tiny_convnet(dtype="float64")).dtype == "float64"  # type: ignore[union-attr]


def test_containers_of_models_that_prepare_bytes() -> None:
    """Their backward passes have no gradient to add up."""
    x = pixels(2, 1, 28, 28)
    one, other = models.tiny_convnet(filters=2, seed=0), models.tiny_convnet(filters=2, seed=1)
    for both in (nn.Concat(one, other), nn.Residual(one, other), nn.Ensemble(one, other)):
        y, ctx = both.forward(x, train=True)
        grads = nn.Gradients()
        assert both.backward(ctx, np.ones_like(y), grads) is None
        assert len(list(grads.items())) == 6


def test_the_layer_at_the_front() -> None:
    first, body = nn.Preprocess(), models.tiny_convnet(filters=2)
    assert nn.preprocess_of(nn.Sequential(first, nn.ReLU())) is first
    assert nn.preprocess_of(nn.Sequential(body=body, out=nn.Softmax())) is body[""]
    assert nn.preprocess_of(nn.Ensemble(nn.Sequential(nn.Flatten()), body)) is body[""]
    assert nn.preprocess_of(nn.Sequential(nn.Conv2d(1, 1, 3), body)) is None  # it gets no bytes there
    assert nn.preprocess_of(nn.Linear(2, 2)) is None


# -- models and what trains, measures and asks them ------------------------------------------


def test_lenet5_pads_normalised_images_with_zeros() -> None:
    model = models.lenet5(dtype="float64")
    preprocess_of(model).mean = 0.5  # so that the margin is not what black pixels become
    x = pixels(2, 1, 28, 28)
    margin = np.pad(by_hand(x, 0.5, 0.3081), ((0, 0), (0, 0), (2, 2), (2, 2)))
    np.testing.assert_allclose(model(x), model(margin), rtol=1e-12)


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_training_on_bytes_is_training_on_normalised_images(dtype: str | None) -> None:
    x, labels = pixels(8, 1, 28, 28), np.arange(8)
    trained = []
    for images in (x, nn.Preprocess(0.5)(x)):
        model = models.tiny_convnet(filters=2, seed=3)
        trainer = Trainer(model, optim.Adam(model), dtype=dtype)
        losses = [float(trainer.step(images, labels)) for _ in range(3)]
        trained.append((losses, model.state_dict(), evaluate(model, (images, labels))))
    np.testing.assert_equal(trained[0], trained[1])


def test_a_model_without_it_is_trained_on_fractions_of_255() -> None:
    def new() -> nn.Sequential:
        return nn.Sequential(flat=nn.Flatten(), fc=nn.Linear(16, 3, seed=0, dtype="float64"))

    x, labels = pixels(6, 1, 4, 4), np.arange(6) % 3
    with pytest.raises(DtypeError, match="uint8"):
        new()(x)
    for images in (x, x / 255):
        model = new()
        trainer = Trainer(model, optim.SGD(model, lr=0.1))
        loss = trainer.step(images, labels)
        found = (float(loss), evaluate(model, (images, labels)).loss, *predict(model, images).ravel())
        if images is x:
            expected = found
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# -- weight files ----------------------------------------------------------------------------


OLDER = Path(__file__).parents[1] / "io" / "files" / "tiny_with_mean_and_std.safetensors"


def test_older_files_have_them_in_the_recipe(tmp_path: Path) -> None:
    """Written before models normalised bytes themselves; and what such a model answered."""
    model = load_model(OLDER)
    assert (preprocess_of(model).mean, preprocess_of(model).std) == (0.25, 0.5)
    x = (np.arange(288) * 7 % 256).astype(np.uint8).reshape(2, 1, 12, 12)
    expected = [[0.33056387, 0.33437124, 0.3350649], [0.3229541, 0.34327582, 0.3337701]]
    np.testing.assert_allclose(predict(model, x), expected, rtol=1e-6)
    model.save(tmp_path / "w.npz")
    np.testing.assert_array_equal(load_model(tmp_path / "w.npz")(x), model(x))


def test_older_files_of_deep_convnet(tmp_path: Path) -> None:
    """All of them name what the model took once; where that asked for nothing, they are read."""
    model, path = models.deep_convnet(filters=(2, 2, 2)), tmp_path / "w.npz"
    arguments = {"filters": [2, 2, 2], "deskew": False, "digit_size": None}
    recipe = {"name": "deep_convnet", "arguments": arguments, "mean": 0.25, "std": 0.5}
    io.save_arrays(path, model.state_dict(), {"recipe": json.dumps(recipe)})
    again = load_model(path)
    assert preprocess_of(again).mean == 0.25
    assert "deskew" not in again.spec.arguments
    recipe["arguments"] = {**arguments, "deskew": True}
    io.save_arrays(path, model.state_dict(), {"recipe": json.dumps(recipe)})
    with pytest.raises(CheckpointError, match="unexpected keyword argument 'deskew'"):
        load_model(path)


# -- floating images that nobody prepared -----------------------------------------------------


def test_unprepared_images_are_told_once() -> None:
    x = pixels(3, 1, 28, 28).astype(np.float32)
    model = models.tiny_convnet()
    with pytest.warns(UnpreparedImagesWarning, match="mean=0.5, std=1.0"):
        expected = model(x)
    np.testing.assert_array_equal(model(x), expected)  # once: a second warning would be an error
    with pytest.warns(UnpreparedImagesWarning):
        copy.deepcopy(model)(x)  # another layer


def many(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).random(shape, np.float32)


PREPARED: dict[str, Array] = {
    "fractions": many(0, 2, 1, 8, 8),
    "standardised": (many(1, 2, 1, 8, 8) - 0.5) / 0.01,
    "a mean taken off": many(2, 2, 1, 8, 8) * 255 - 120,
    "divided by a small deviation": many(3, 2, 1, 8, 8) / 0.05,
    "of 16 bits": many(4, 2, 1, 8, 8) * 65535,
    "black": np.zeros((2, 1, 8, 8), np.float32),
    "NaN": np.full((2, 1, 8, 8), np.nan, np.float32),
    "none": np.zeros((0, 1, 8, 8), np.float32),
    "empty": np.zeros((2, 1, 0, 8), np.float32),
}


@pytest.mark.parametrize("images", PREPARED.values(), ids=PREPARED)
def test_prepared_images_are_not_told(images: Array) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.Preprocess()(images)


def test_a_layer_that_prepares_images_so_bright() -> None:
    x = pixels(2, 1, 8, 8)
    layer = nn.Preprocess(0.0, 1 / 255)
    np.testing.assert_allclose(layer(layer(x)), x, rtol=1e-6)


@pytest.mark.parametrize("values", [np.full((1, 1, 4, 4), 128.0), np.arange(256.0).reshape(1, 1, 16, 16)])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_bytes_as_floats(make: Any, values: Array, kind: str) -> None:
    if not make.has(kind):
        pytest.skip(f"no {kind}")
    x = make.array(values, kind)
    on_device = not xpcnn.backend_of(x).is_host
    with nullcontext() if on_device else pytest.warns(UnpreparedImagesWarning):
        nn.Preprocess()(x)


def test_a_device_is_not_waited_for(looks: list[str]) -> None:
    """Images on the device are not looked at; those of a trainer are, while they are on the host."""
    host = pixels(3, 1, 28, 28).astype(np.float32)
    model = models.tiny_convnet(filters=2)
    x = xpcnn.asarray(host)
    looks.clear()
    model(x)
    assert looks == []
    trainer = Trainer(model, optim.SGD(model, lr=1e-6))
    with pytest.warns(UnpreparedImagesWarning):
        trainer.step(host, np.arange(3))


# -- by every implementation -------------------------------------------------------------------


ONE = ((1 / 255,), (0.0,))
SHIFTED = ((1 / (255 * 0.3081),), (0.1307 / 0.3081,))
EACH = (tuple(1 / (255 * std) for std in (0.247, 0.243, 0.262)), (0.491 / 0.25, 0.0, -2.0))


def draw_bytes(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng([*shape]).integers(0, 256, shape, dtype=np.uint8)


def check_scaling(i: Implementation, x: Any, constants: Any) -> None:
    """A product and a difference, each rounded where it is computed, then once to the result's dtype."""
    with i.unchanged(x):
        y = scaled_images(x, *constants, i.dtype(i.dtype_name))
    shape = (1,) if len(constants[0]) == 1 else (-1, 1, 1)
    scale, shift = (np.array(each, i.wide).reshape(shape) for each in constants)
    expected = i.to_numpy(x).astype(i.wide) * scale - shift
    i.check_kind(y, x.shape, i.dtype_name)
    if i.dtype_name == "bfloat16":  # which NumPy cannot round to
        np.testing.assert_allclose(i.values(y), expected, rtol=2.0**-8)
    else:
        np.testing.assert_array_equal(i.to_numpy(y), expected.astype(i.dtype_name))
    i.ran("scaled_images", cpu=False)


@pytest.mark.parametrize("constants", [ONE, SHIFTED], ids=["0 to 1", "shifted"])
@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (3, 3, 5, 7), (5, 6), (256,), (0, 1, 3, 3)], ids=str)
def test_one_scale(implementation: Implementation, shape: tuple[int, ...], constants: Any) -> None:
    values = np.arange(256, dtype=np.uint8) if shape == (256,) else draw_bytes(*shape)
    check_scaling(implementation, implementation.array(values, "uint8"), constants)


def test_a_scale_for_each_channel(implementation: Implementation) -> None:
    """Gaps between the pixels, too."""
    check_scaling(implementation, implementation.array(draw_bytes(2, 3, 5, 4), "uint8"), EACH)
    if implementation.kind != "torch":  # it has no negative strides
        larger = implementation.array(draw_bytes(4, 6, 8, 10), "uint8")
        check_scaling(implementation, larger[:2, ::2, ::-1, ::2], EACH)
