"""LeNet-5: the paper's numbers, its table of connections, padding to 32×32, and learning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.support.model_cases import count, images
from xpcnn import Trainer, models, nn, optim
from xpcnn.data import synthetic_digits
from xpcnn.errors import ShapeError
from xpcnn.models._images import Images
from xpcnn.models.lenet5 import PartialConv2d, ScaledTanh
from xpcnn.testing import gradcheck

VARIANTS = ("tanh", "sigmoid", "modern")

# Parameters of each layer in section II.B of the paper; the last is our affine layer of 10·84 + 10.
PAPER = {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164, "output": 850}


def test_the_papers_numbers() -> None:
    model = models.lenet5()
    found = {name: count(model[name]) for name in PAPER}
    unseen = int((~model.c3.connections.data).sum()) * 25
    assert {**found, "c3": found["c3"] - unseen} == PAPER
    shapes = {row.path: row.output_shape for row in nn.summary(model, (1, 32, 32)).rows}
    expected = {"c1": (6, 28, 28), "s2": (6, 14, 14), "c3": (16, 10, 10), "s4": (16, 5, 5), "c5": (120, 1, 1)}
    assert {name: shapes[name] for name in expected} == expected
    assert (shapes["f6"], shapes["output"]) == ((84,), (10,))
    assert count(models.lenet5(variant="modern")) == 61_706


def test_connections_of_c3() -> None:
    seen = models.lenet5().c3.connections.data[:, :, 0, 0]
    # The paper: the first six see 3 neighbours, the next six 4, then three see 4 others, the last sees all.
    assert seen.sum(axis=1).tolist() == [3] * 6 + [4] * 9 + [6]
    assert seen.sum(axis=0).tolist() == [10] * 6
    shown = [np.flatnonzero(row).tolist() for row in seen[[5, 9, 12, 14]]]
    assert shown == [[0, 1, 5], [0, 3, 4, 5], [0, 1, 3, 4], [0, 2, 3, 5]]


def test_what_is_not_connected_is_never_used(make: Any) -> None:
    with make.use():
        layer = PartialConv2d(((0,), (0, 1), (2,)), 3, 3, dtype="float64", seed=0)
    weight = make.to_numpy(layer.weight.data)
    unseen = ~make.to_numpy(layer.connections.data)[:, :, 0, 0]
    assert not weight[unseen].any()
    assert weight[~unseen].all()
    x = make.array(images(2, 3, 5, 4))
    before = make.to_numpy(layer(x))
    spoilt = np.array(weight)
    spoilt[unseen] = np.nan
    layer.load_state_dict({"weight": spoilt}, strict=False)
    np.testing.assert_array_equal(make.to_numpy(layer(x)), before)

    layer.load_state_dict({"weight": weight}, strict=False)
    gradcheck(layer, x)
    y, ctx = layer.forward(x)
    grads = nn.Gradients()
    layer.backward(ctx, y, grads, need_dx=False)
    assert not make.to_numpy(grads["weight"])[unseen].any()
    layer.weight.trainable = layer.bias.trainable = False
    assert layer.backward(ctx, y, frozen := nn.Gradients()) is not None
    assert len(frozen) == 0


def test_scaled_tanh() -> None:
    layer = ScaledTanh()
    points = np.asarray([[-1.0, 0.0, 1.0, 50.0]])
    # "f(1) = 1 and f(−1) = −1": appendix A
    np.testing.assert_allclose(layer(points), [[-1, 0, 1, 1.7159]], atol=1e-4)
    gradcheck(layer, images(3, 4))
    single = points.astype("float32")
    y, ctx = layer.forward(single)
    assert y.dtype == layer.backward(ctx, y).dtype == np.dtype("float32")


@pytest.mark.parametrize("variant", VARIANTS)
def test_initial_weights(variant: str) -> None:
    model = models.lenet5(variant=variant)
    weight = model.c5.weight.data
    expected = {"tanh": math.sqrt(2 / (400 + 3000)), "modern": math.sqrt(2 / 400)}
    expected["sigmoid"] = 4 * expected["tanh"]
    assert abs(weight.std() / expected[variant] - 1) < 0.01
    c3 = model.c3.weight.data
    if variant == "tanh":  # 60 of 96 connections: 93.75 inputs and 250 outputs on average
        assert abs(c3[c3 != 0].std() / math.sqrt(2 / 344) - 1) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns(variant: str) -> None:
    digits = synthetic_digits(20)
    model = models.lenet5(variant=variant)
    trainer = Trainer(model, optim.AdamW(model, lr=0.003, weight_decay=0.1))
    for _ in range(120 if variant == "sigmoid" else 20):
        trainer.step(digits.images, digits.labels)
    assert trainer.evaluate(digits).accuracy == 1
    if variant != "modern":  # what is not connected stays at zero
        weight = model.c3.weight.data
        seen = np.broadcast_to(model.c3.connections.data, weight.shape)
        assert not weight[~seen].any()
        assert weight[seen].all()


# -- smaller images ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (27, 32), (1, 5)])
def test_images_get_zeros_on_all_sides(make: Any, size: tuple[int, int], dtype: str) -> None:
    layer = Images("test", 2, 0.0, 1.0, smallest=1, pad_to=32)
    x = images(3, 2, *size, dtype=dtype)
    (top, bottom), (left, right) = (((32 - s) // 2, 32 - s - (32 - s) // 2) for s in size)
    expected = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    assert abs(top - bottom) <= 1
    given = make.array(x)
    with make.unchanged(given):
        y, ctx = layer.forward(given)
        make.check(y, expected, dtype, rtol=0)
        make.check(layer(given), expected, dtype, rtol=0)
    dy = images(3, 2, 32, 32, seed=1, dtype=dtype)
    inner = dy[:, :, top : 32 - bottom, left : 32 - right]
    make.check(layer.backward(ctx, make.array(dy)), inner, dtype, rtol=0)
    assert layer.backward(ctx, make.array(dy), need_dx=False) is None


def test_refused() -> None:
    model = models.lenet5()
    for size in ((33, 28), (28, 33)):
        with pytest.raises(
            ShapeError, match=r"lenet5: images of .* are too large, it takes 1x1 to 32x32; crop"
        ):
            model(images(1, 1, *size, dtype="float32"))
    assert repr(model[""]) == "Images('lenet5', 1, 0.0, 0.3081, 1, largest=32, pad_to=32)"
