"""deep_convnet on digits that are made upright, and stretched, first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn import data, models, nn, ops
from xpcnn.errors import ArgumentError, ShapeError


@pytest.mark.parametrize("size", [None, 20, (20, 12)])
@pytest.mark.parametrize("deskew", [False, True])
def test_it_is_the_network_on_images_so_prepared(deskew: bool, size: Any) -> None:
    images = data.synthetic_digits(5).images.astype("float32") / 255
    prepared = ops.deskew(images)[0] if deskew else images
    prepared = prepared if size is None else ops.normalize_size(prepared, size)[0]
    outputs = []
    for model, x in (
        (models.deep_convnet(seed=0, dropout=0.0, deskew=deskew, digit_size=size), images),
        (models.deep_convnet(seed=0, dropout=0.0), prepared),
    ):
        logits, ctx = model.forward(x, train=True)
        grads = nn.Gradients()
        model.backward(ctx, np.ones_like(logits), grads, need_dx=False)
        outputs.append((logits, {name: grads[parameter] for name, parameter in model.parameters().items()}))
    np.testing.assert_array_equal(outputs[0][0], outputs[1][0])
    assert outputs[0][1].keys() == outputs[1][1].keys()
    for name, gradient in outputs[1][1].items():
        np.testing.assert_array_equal(outputs[0][1][name], gradient)


def test_wrong_sizes() -> None:
    with pytest.raises(ArgumentError, match=r"NormalizeSize: size must be at least 1, got 0"):
        models.deep_convnet(digit_size=0)
    images = data.synthetic_digits(1).images.astype("float32") / 255
    with pytest.raises(ShapeError, match=r"normalize_size: size \(40, 9\) does not fit .*; pad them"):
        models.deep_convnet(digit_size=(40, 9))(images)
