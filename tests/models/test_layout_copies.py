"""No hidden transposes: channels-last images stay so through every published model, there and back.

What each layer is given and what it returns is looked at, and so is every call of the backend's
`channels_last`, which copies what is not channels-last yet. Two transposes are known, where images become
rows: `Flatten` reads its input in the logical order of the axes, as weights of PyTorch have it, and hands its
gradient back over channels-last memory.

A gradient may be a part of channels-last memory: what a convolution's padding is cut from, or the channels of
one branch of a `Concat`. Its order is the same.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.support.model_cases import ALL, FAMILIES, OF_ONE_SIZE, images, tiny, tiny_shape, without_drawing
from xpcnn import Key, models, nn, ops, use_backend
from xpcnn.backend._numpy import NumpyBackend
from xpcnn.models import googlenet_loss
from xpcnn.ops import fused

Array = np.ndarray[Any, Any]

FLATTEN = "ops.linear._flatten_grad"
"""The only one that transposes what it is given."""


LOSS = ops.softmax_cross_entropy, ops.softmax_cross_entropy.backward


def channels_last(shape: tuple[int, ...]) -> Array:
    n, c, h, w = shape
    return images(n, h, w, c, dtype="float32").transpose(0, 3, 1, 2)


def layout(x: Array) -> str:
    """Tell "channels-last"; "part" for a part of such memory; "other"."""
    _, c, h, w = x.shape
    last = x.transpose(0, 2, 3, 1)
    if c == 1 or h * w == 1 or last.flags.c_contiguous:
        return "channels-last"
    strides = [stride for stride, size in zip(last.strides, last.shape, strict=True) if size > 1]
    return "part" if strides == sorted(strides, reverse=True) else "other"


@dataclass
class Watch:
    """What was seen: arrays that are not channels-last, as "layer: role", and the askers of transposes."""

    parts: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    transposes: list[str] = field(default_factory=list)
    fused: Counter[str] = field(default_factory=Counter)
    arrays: int = 0
    conversions: int = 0

    def array(self, what: str, x: Any) -> None:
        if isinstance(x, np.ndarray) and x.ndim == 4:
            self.arrays += 1
            {"part": self.parts, "other": self.others}.get(layout(x), []).append(what)

    def conversion(self, x: Array, caller: str) -> None:
        self.conversions += 1
        if layout(x) == "other":
            self.transposes.append(caller)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Watches every layer and every call of `channels_last` on NumPy."""
    found = Watch()
    convert = NumpyBackend.channels_last

    def watched(self: NumpyBackend, x: Array) -> Array:
        found.conversion(x, _name(sys._getframe(1)))
        return convert(self, x)

    monkeypatch.setattr(NumpyBackend, "channels_last", watched)
    with use_backend("numpy"):
        yield found


def _name(frame: Any) -> str:
    return f"{frame.f_globals['__name__'].removeprefix('xpcnn.')}.{frame.f_code.co_name}"


def watch_layers(monkeypatch: pytest.MonkeyPatch, found: Watch, model: nn.Layer) -> None:
    paths = dict(_paths(model, type(model).__name__))
    methods = {
        (owner, name)
        for layer in _layers(model)
        for owner in type(layer).__mro__
        for name in ("__call__", "forward", "backward")
        if name in vars(owner)
    }
    for owner, name in methods:
        monkeypatch.setattr(owner, name, _watched(getattr(owner, name), name, paths, found))
    for name in fused.__all__:
        function = getattr(fused, name)
        together = _watched_op(function, name, found, backward=name.endswith("gradient"))
        if hasattr(function, "backward"):
            together.backward = _watched_op(function.backward, f"{name}.backward", found, backward=True)
        monkeypatch.setattr(fused, name, together)


def _watched_op(function: Any, name: str, found: Watch, *, backward: bool) -> Any:
    def watched(*args: Any, **options: Any) -> Any:
        found.fused[name] += 1
        found.array(f"{name}: {'dy' if backward else 'x'}", args[1] if backward else args[0])
        result = function(*args, **options)
        returned = result[0] if isinstance(result, tuple) else result
        found.array(f"{name}: {'dx' if backward else 'y'}", returned)
        return result

    return watched


def _watched(
    method: Callable[..., Any], name: str, paths: dict[int, str], found: Watch
) -> Callable[..., Any]:
    def watched(self: nn.Layer, *args: Any, **kwargs: Any) -> Any:
        path = f"{paths.get(id(self), type(self).__name__)}.{name}"
        backward = name.startswith("backward")
        found.array(f"{path}: {'dy' if backward else 'x'}", args[1] if backward else args[0])
        result = method(self, *args, **kwargs)
        returned = result[0] if isinstance(result, tuple) else result
        found.array(f"{path}: {'dx' if backward else 'y'}", returned)
        return result

    return watched


def _paths(layer: nn.Layer, path: str) -> Iterator[tuple[int, str]]:
    yield id(layer), path
    for name, child in layer.children().items():
        yield from _paths(child, f"{path}.{name}")


def _layers(layer: nn.Layer) -> Iterator[nn.Layer]:
    yield layer
    for child in layer.children().values():
        yield from _layers(child)


def run(monkeypatch: pytest.MonkeyPatch, found: Watch, model: nn.Layer, shape: tuple[int, ...]) -> None:
    """A training step and inference, on channels-last images."""
    x = channels_last((2, *shape))
    watch_layers(monkeypatch, found, model)
    y, ctx = model.forward(x, train=True, key=Key(0))
    loss, loss_backward = googlenet_loss if isinstance(y, tuple) else LOSS
    _, loss_ctx = loss(y, np.array([0, 1]))
    model.backward(ctx, loss_backward(loss_ctx), nn.Gradients())
    model(x)


def check(found: Watch) -> None:
    assert found.arrays > 10
    assert found.conversions > 0
    assert found.others == []
    assert [part for part in found.parts if not part.endswith((": dx", ": dy"))] == []
    assert [caller for caller in found.transposes if caller != FLATTEN] == []
    assert len(found.transposes) <= 3  # once for each head


@pytest.mark.parametrize("name", ALL)
def test_narrow_models(monkeypatch: pytest.MonkeyPatch, watch: Watch, name: str) -> None:
    run(monkeypatch, watch, tiny(name, dtype="float32"), tiny_shape(name))
    check(watch)


PUBLISHED: dict[str, tuple[str, dict[str, Any], int]] = {
    **{name: (name, {}, 32 if name.startswith("vgg") else 28) for name in FAMILIES},
    "alexnet for large images": ("alexnet", {"small_images": False, "local_response_norm": True}, 63),
    "googlenet for large images": ("googlenet", {"small_images": False, "aux": True}, 64),
    "googlenet with heads": ("googlenet", {"aux": True}, 28),
    "resnet18 for large images": ("resnet18", {"small_images": False}, 64),
    "lenet5, sigmoid": ("lenet5", {"variant": "sigmoid"}, 28),
    "lenet5, modern": ("lenet5", {"variant": "modern"}, 28),
}
"""Models of published width, whose convolutions choose other algorithms: options, and the images' size."""


@pytest.mark.parametrize("case", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_published_widths(
    monkeypatch: pytest.MonkeyPatch, watch: Watch, case: tuple[str, dict[str, Any], int]
) -> None:
    name, options, size = case
    small: dict[str, Any] = {"in_channels": 3, "small_images": True}
    if name in OF_ONE_SIZE:
        small = {"input_shape": (3, size, size)}
    with without_drawing():
        model = models.build(name, **{**small, "classes": 10, **options})
    run(monkeypatch, watch, model, (3, size, size))
    check(watch)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg11", ["conv2d_relu", "conv2d_relu_max_pool2d", "relu_max_pool2d_gradient"]),
        ("resnet18", ["batch_norm_relu", "batch_norm_relu.backward"]),
    ],
)
def test_what_is_fused_is_watched_too(
    monkeypatch: pytest.MonkeyPatch, watch: Watch, name: str, expected: list[str]
) -> None:
    run(monkeypatch, watch, tiny(name, dtype="float32"), tiny_shape(name))
    assert sorted(watch.fused) == expected


def test_another_layout_is_seen(monkeypatch: pytest.MonkeyPatch, watch: Watch) -> None:
    right = nn.ReLU.backward

    def wrong(self: nn.ReLU, *args: Any, **kwargs: Any) -> Array:
        return np.ascontiguousarray(right(self, *args, **kwargs))

    monkeypatch.setattr(nn.ReLU, "backward", wrong)
    run(monkeypatch, watch, tiny("resnet18", dtype="float32"), tiny_shape("resnet18"))
    assert any(other.endswith("relu.backward: dx") for other in watch.others)
    assert watch.transposes.count("ops.conv.algorithms.im2col.matrix_of") > 0
