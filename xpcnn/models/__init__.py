"""Published networks, one file each, built from the containers alone."""

from xpcnn.models.catalog import build, model_names
from xpcnn.models.deep_convnet import deep_convnet
from xpcnn.models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from xpcnn.models.resnet_cifar import resnet20, resnet32, resnet44, resnet56, resnet110
from xpcnn.models.simple_convnet import simple_convnet
from xpcnn.models.tiny_convnet import tiny_convnet

__all__ = [
    "build",
    "deep_convnet",
    "model_names",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "simple_convnet",
    "tiny_convnet",
]
