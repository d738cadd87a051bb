"""No hidden transposes: channels-last images stay so through every published model, there and back.

Every call of the backend's `channels_last` is looked at, which copies what is not channels-last yet. Two
transposes are known, where images become rows: `Flatten` reads its input in the logical order of the axes, as
weights of PyTorch have it, and hands its gradient back over channels-last memory.

A gradient may be a part of channels-last memory: what a convolution's padding is cut from, or the channels of
one branch of a `Concat`. Its order is the same.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from tests.support.model_cases import FAMILIES, OF_ONE_SIZE, images, tiny, tiny_shape
from xpcnn import Key, models, nn, ops, use_backend
from xpcnn.backend._numpy import NumpyBackend
from xpcnn.models import googlenet_loss
from xpcnn.nn.init import without_memory

Array = np.ndarray[Any, Any]

LOSS = ops.softmax_cross_entropy, ops.softmax_cross_entropy.backward


def is_channels_last(x: Array) -> bool:
    """Whether images are channels-last memory, or a part of it."""
    _, c, h, w = x.shape
    last = x.transpose(0, 2, 3, 1)
    strides = [stride for stride, size in zip(last.strides, last.shape, strict=True) if size > 1]
    return c == 1 or h * w == 1 or strides == sorted(strides, reverse=True)


class Watch:
    """Notes the calls of `channels_last`, and by whom images in another layout were given to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.transposed_by: list[str] = []
        convert = NumpyBackend.channels_last

        def watched(backend: NumpyBackend, x: Array) -> Array:
            self.calls += 1
            if not is_channels_last(x):
                frame = sys._getframe(1)
                self.transposed_by.append(f"{frame.f_globals['__name__']}.{frame.f_code.co_name}")
            return convert(backend, x)

        monkeypatch.setattr(NumpyBackend, "channels_last", watched)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    with use_backend("numpy"):
        yield Watch(monkeypatch)


def run(model: nn.Layer, shape: tuple[int, ...]) -> Array:
    """A training step and inference, on channels-last images; the gradient of the images."""
    c, h, w = shape
    x = images(2, h, w, c, dtype="float32").transpose(0, 3, 1, 2)
    y, ctx = model.forward(x, train=True, key=Key(0))
    loss, loss_backward = googlenet_loss if isinstance(y, tuple) else LOSS
    _, loss_ctx = loss(y, np.array([0, 1]))
    dx = model.backward(ctx, loss_backward(loss_ctx), nn.Gradients())
    model(x)
    return dx


def check(watch: Watch, dx: Array) -> None:
    assert watch.calls > 0
    assert is_channels_last(dx)
    assert [caller for caller in watch.transposed_by if not caller.endswith("._flatten_grad")] == []
    assert len(watch.transposed_by) <= 3  # once for each head


@pytest.mark.parametrize("name", FAMILIES)
def test_narrow_models(watch: Watch, name: str) -> None:
    check(watch, run(tiny(name, dtype="float32"), tiny_shape(name)))


PUBLISHED: dict[str, tuple[str, dict[str, Any], int]] = {
    **{name: (name, {}, 32 if name.startswith("vgg") else 28) for name in FAMILIES},
    "alexnet for large images": ("alexnet", {"small_images": False, "local_response_norm": True}, 63),
    "googlenet for large images": ("googlenet", {"small_images": False, "aux": True}, 64),
    "googlenet with heads": ("googlenet", {"aux": True}, 28),
    "resnet18 for large images": ("resnet18", {"small_images": False}, 64),
    "lenet5, modern": ("lenet5", {"variant": "modern"}, 28),
}
"""Models of published width, whose convolutions choose other algorithms: options, and the images' size."""


@pytest.mark.slow
@pytest.mark.parametrize("case", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_published_widths(watch: Watch, case: tuple[str, dict[str, Any], int]) -> None:
    name, options, size = case
    small: dict[str, Any] = {"in_channels": 3, "small_images": True}
    if name in OF_ONE_SIZE:
        small = {"input_shape": (3, size, size)}
    with without_memory():
        model = models.build(name, **{**small, "classes": 10, **options})
    check(watch, run(model, (3, size, size)))


def test_another_layout_is_seen(numpy_alone: None, monkeypatch: pytest.MonkeyPatch, watch: Watch) -> None:
    """The compiled convolutions read any layout where it lies."""
    right = nn.ReLU.backward

    def wrong(self: nn.ReLU, *args: Any, **kwargs: Any) -> Array:
        return np.ascontiguousarray(right(self, *args, **kwargs))

    monkeypatch.setattr(nn.ReLU, "backward", wrong)
    run(tiny("resnet18", dtype="float32"), tiny_shape("resnet18"))
    assert "xpcnn.ops.conv.algorithms.im2col.matrix_of" in watch.transposed_by
