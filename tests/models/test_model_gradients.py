"""Every model's backward against finite differences along random directions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.model_cases import FAMILIES, drawn_state, images, tiny, tiny_shape
from xpcnn import nn
from xpcnn.backend import Key, backend_of
from xpcnn.models.googlenet import GoogLeNetLogits
from xpcnn.testing import gradcheck


def pixels(*shape: int) -> Any:
    return images(3, *shape, seed=1)


def drawn(name: str, **options: Any) -> nn.Sequential:
    """A tiny model with drawn weights."""
    model = tiny(name, **options)
    model.load_state_dict(drawn_state(model))
    return model


def check(model: nn.Layer, x: Any, *, train: bool = True) -> None:
    """Check with steps so small that hardly any of the many ReLUs and maxima changes sides.

    A deep network in training multiplies a step by thousands on its way up.
    """
    assert gradcheck(model, x, directional=True, train=train, eps=1e-8, rtol=1e-5).compared >= 4


@pytest.mark.parametrize("name", FAMILIES)
def test_training_on_every_backend(make: Any, name: str) -> None:
    with make.use():
        model = drawn(name)
    x = make.array(pixels(*tiny_shape(name)))
    check(model, x)
    check(model, x, train=False)


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("lenet5", (2, 28, 31), {"variant": "sigmoid"}),
        ("lenet5", (2, 32, 32), {"variant": "modern"}),
        ("alexnet", (2, 66, 70), {"small_images": False}),
        ("alexnet", (2, 16, 16), {"local_response_norm": True}),
        ("vgg13_bn", (2, 64, 64), {"small_images": False}),
        ("googlenet", (2, 33, 40), {"small_images": False}),
        ("resnet34", (2, 40, 40), {"small_images": False}),
    ],
)
def test_variants(name: str, shape: tuple[int, int, int], options: dict[str, Any]) -> None:
    check(drawn(name, **options), pixels(*shape))


class Joined(nn.Sequential):
    """GoogLeNet with the logits of its heads side by side, as one array."""

    def forward(self, x: Any, *, train: bool = False, key: Key | None = None) -> tuple[Any, Any]:
        y, ctx = self["model"].forward(x, train=train, key=key)
        return backend_of(x).xp.concat(list(y), axis=1), ctx

    def backward(self, ctx: Any, dy: Any, grads: Any = None, *, need_dx: bool = True) -> Any:
        third = dy.shape[1] // 3
        parts = (dy[:, i * third : (i + 1) * third] for i in range(3))
        return self["model"].backward(ctx, GoogLeNetLogits(*parts), grads, need_dx=need_dx)


def test_auxiliary_heads_on_every_backend(make: Any) -> None:
    with make.use():
        model = drawn("googlenet", aux=True)
    check(Joined(model=model), make.array(pixels(2, 16, 16)))
