"""`nn.fuse` of published models: outputs before and after, recipes, files, and what training does to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.model_cases import drawn_state, images, tiny, tiny_shape
from xpcnn import load_model, nn

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def trained(name: str, dtype: str = "float64", **options: Any) -> nn.Sequential:
    """Drawn batch-norm weights and biases, and statistics of activations that images have left there."""
    model = tiny(name, **options)
    model.load_state_dict(drawn_state(model))
    for step in range(3):
        model.forward(images(5, *tiny_shape(name), seed=step), train=True, key=xpcnn.Key(step))
    return model.to(dtype=dtype)


def norms(layer: nn.Layer) -> int:
    """How many batch-norms there are."""
    own = isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
    return own + sum(norms(child) for child in layer.children().values())


WITH_NORMS = ("vgg11_bn", "googlenet", "resnet18", "resnet50", "resnet20")


@pytest.mark.parametrize("name", WITH_NORMS)
def test_the_same_outputs_on_every_backend(make: Any, dtype: str, name: str) -> None:
    model = trained(name, dtype).to(backend=make.backend)
    x = make.array(images(3, *tiny_shape(name), seed=9), dtype)
    before = make.snapshot([*model.state_dict().values()])
    expected = make.to_numpy(model(x))
    assert np.ptp(expected, axis=0).max() > 1e-2 * np.abs(expected).max()  # the images make a difference
    fused = nn.fuse(model)
    assert norms(fused) == 0
    make.check(fused(x), expected, dtype, rtol=TOLERANCE[dtype])
    make.check(fused.forward(x)[0], expected, dtype, rtol=TOLERANCE[dtype])
    np.testing.assert_equal(make.snapshot([*model.state_dict().values()]), before)
    np.testing.assert_array_equal(make.to_numpy(model(x)), expected)


def test_auxiliary_heads_are_folded_too() -> None:
    model = trained("googlenet", aux=True)
    fused = nn.fuse(model)
    assert norms(fused) == 0
    x = images(2, *tiny_shape("googlenet"))
    np.testing.assert_allclose(fused(x), model(x), rtol=1e-10, atol=1e-12)
    assert len(fused.forward(x, train=True, key=xpcnn.Key(0))[0]) == 3


def test_paths_of_what_is_left_stay() -> None:
    model: Any = trained("vgg11_bn")
    fused = nn.fuse(model)
    norms_paths = {f"features.{i}." for i, layer in model.features.children().items() if norms(layer)}
    kept = [path for path in model.state_dict() if not any(path.startswith(norm) for norm in norms_paths)]
    assert list(fused.state_dict()) == kept


# -- recipes and files --------------------------------------------------------------------------


def test_a_fused_models_file(tmp_path: Path) -> None:
    model = trained("resnet20")
    path = tmp_path / "fused.safetensors"
    fused = nn.fuse(model)
    fused.save(path)
    other = nn.fuse(tiny("resnet20", seed=7))
    other.load(path)
    x = images(2, *tiny_shape("resnet20"))
    for again in (other, load_model(path)):
        assert repr(again) == repr(fused)
        np.testing.assert_array_equal(again(x), fused(x))


def test_models_with_a_layer_in_common() -> None:
    shared = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    members = [nn.Sequential(shared, nn.ReLU()), nn.Sequential(shared)]
    fused: Any = nn.fuse(nn.Ensemble(*members))
    assert norms(fused) == 0
    x = images(2, 2, 6, 6).astype("float32")
    np.testing.assert_allclose(fused(x), nn.Ensemble(*members)(x), rtol=1e-5)


# -- training -----------------------------------------------------------------------------------
