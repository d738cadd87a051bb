"""Names, shapes, order and numbers of the parameters, against modules of torchvision's structure."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.model_cases import ALL, OF_ONE_SIZE, count
from tests.support.torch_models import CIFAR_RESNETS, TWINS, torch, twin
from xpcnn import models, nn
from xpcnn.nn.init import without_memory

# As torchvision's documentation and the papers' implementations publish them.
PARAMETERS = {
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "googlenet": 6_624_904,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "deep_convnet": 123_552,
}


def build(name: str, **options: Any) -> nn.Layer:
    with without_memory():
        return models.build(name, **options)


def assert_same_entries(model: nn.Layer, **options: Any) -> None:
    with torch.device("meta"):
        expected = twin(**options).state_dict()
    found = {path: tuple(state.shape) for path, state in model._states().items()}
    assert list(found.items()) == [(path, tuple(tensor.shape)) for path, tensor in expected.items()]


def test_every_model_has_a_twin() -> None:
    assert {*TWINS, *OF_ONE_SIZE} == set(ALL)


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_numbers(name: str) -> None:
    assert count(build(name)) == PARAMETERS[name]


@pytest.mark.parametrize("name", TWINS)
def test_entries_as_published_and_for_small_images(name: str) -> None:
    classes = 10 if name in (*CIFAR_RESNETS, "deep_convnet", "lenet5") else 1000
    channels = 1 if name in ("deep_convnet", "lenet5") else 3
    assert_same_entries(build(name), name=name, classes=classes, in_channels=channels)
    options = {"classes": 7, "in_channels": 2, "small_images": True}
    assert_same_entries(build(name, **options), name=name, **options)


def test_googlenet_with_auxiliary_heads() -> None:
    model = build("googlenet", aux=True)
    assert count(model) == 13_004_888
    assert_same_entries(model, name="googlenet", aux=True)
    # torchvision's order: the heads stand between the last module and the last layer
    paths = list(model.parameters())
    assert paths.index("inception5b.branch4.1.bn.bias") < paths.index("aux1.conv.conv.weight")
    assert paths[-4:] == ["aux2.fc2.weight", "aux2.fc2.bias", "fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("alexnet", ["features.0.weight", "features.10.bias", "classifier.1.weight", "classifier.6.bias"]),
        ("vgg16", ["features.0.weight", "features.28.bias", "classifier.0.weight", "classifier.6.bias"]),
        ("vgg16_bn", ["features.1.running_mean", "features.41.num_batches_tracked", "classifier.3.bias"]),
        ("googlenet", ["conv1.conv.weight", "conv1.bn.running_var", "inception3a.branch3.1.conv.weight"]),
        ("resnet18", ["layer2.0.downsample.0.weight", "layer2.0.downsample.1.num_batches_tracked"]),
        ("resnet50", ["layer1.0.conv3.weight", "layer4.2.bn3.running_mean", "fc.weight"]),
    ],
)
def test_names_that_checkpoints_have(name: str, paths: list[str]) -> None:
    """A second source: keys seen in torchvision's files, beside the twins."""
    assert set(paths) <= set(build(name)._states())
