"""Published sizes, small images, and what is too small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.model_cases import FAMILIES, OF_ONE_SIZE, images, narrow
from xpcnn import models, nn
from xpcnn.errors import ShapeError, XpcnnError
from xpcnn.nn.init import without_memory

SIZED = [name for name in FAMILIES if name not in OF_ONE_SIZE]
SMALLEST = {"alexnet": 63, "googlenet": 15, "vgg11": 32, "vgg19_bn": 32}
"""Of the networks for large images that do not take any size."""
SMALLEST_WITH_SMALL_STEM = {"alexnet": 1, "googlenet": 2, "vgg11": 16, "vgg19_bn": 16}


def build(name: str, **options: Any) -> nn.Sequential:
    with narrow():
        model = models.build(name, classes=5, **options)
    assert isinstance(model, nn.Sequential)
    return model


def logits(model: nn.Layer, channels: int, *size: int) -> Any:
    return model(images(2, channels, *size, dtype="float32"))


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("name", SIZED)
def test_small_images(name: str, size: int) -> None:
    y = logits(build(name, in_channels=1, small_images=True), 1, size, size)
    assert y.shape == (2, 5)
    assert not np.array_equal(y[0], y[1])


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20"])
def test_resnets_take_any_size(name: str) -> None:
    for small_images in (False, True):
        assert logits(build(name, small_images=small_images), 3, 1, 3).shape == (2, 5)


@pytest.mark.parametrize("small_images", [False, True])
@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_is_the_smallest_that_works(name: str, small_images: bool) -> None:
    smallest = (SMALLEST_WITH_SMALL_STEM if small_images else SMALLEST)[name]
    model = build(name, small_images=small_images)
    assert logits(model, 3, smallest, smallest + 3).shape == (2, 5)
    assert logits(model, 3, smallest + 3, smallest).shape == (2, 5)
    if smallest == 1:
        return
    for size in ((smallest - 1, smallest), (smallest, smallest - 1)):
        with pytest.raises(ShapeError) as caught:
            logits(model, 3, *size)
        hint = "pass small_images=True for images of about 28x28 to 32x32"
        assert str(caught.value) == (
            f"{name}: images of {size[0]}x{size[1]} are too small, it takes {smallest}x{smallest} and more; "
            + ("enlarge or pad them" if small_images else hint)
        )
        assert caught.value.__notes__ == ["in Sequential (Images)"]
        model[""], checked = nn.Identity(), model[""]
        with pytest.raises(XpcnnError):  # nor could the layers do anything with them
            logits(model, 3, *size)
        model[""] = checked


def test_deep_convnet_takes_what_its_affine_layer_fits() -> None:
    model = build("deep_convnet")
    for size in ((28, 28), (35, 30)):
        assert logits(model, 1, *size).shape == (2, 5)
    with pytest.raises(
        ShapeError, match=r"deep_convnet: images of 27x28 are too small.* 28x28 to 35x35; enlarge"
    ):
        logits(model, 1, 27, 28)
    with pytest.raises(ShapeError, match=r"deep_convnet: images of 28x36 are too large.*; crop or shrink"):
        logits(model, 1, 28, 36)


@pytest.mark.parametrize("name", ["lenet5", "deep_convnet", "resnet20"])
def test_small_images_changes_nothing_where_images_are_small_anyway(name: str) -> None:
    assert repr(build(name, small_images=True)) == repr(build(name))


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
