"""Published networks, one file each, built from the containers alone."""

from xpcnn.models.alexnet import alexnet
from xpcnn.models.catalog import build, model_names, register_model
from xpcnn.models.deep_convnet import deep_convnet
from xpcnn.models.googlenet import googlenet, googlenet_loss
from xpcnn.models.lenet5 import lenet5
from xpcnn.models.resnet import (
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet101,
    resnet110,
    resnet152,
)
from xpcnn.models.simple_convnet import simple_convnet
from xpcnn.models.tiny_convnet import tiny_convnet
from xpcnn.models.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

__all__ = [
    "alexnet",
    "build",
    "deep_convnet",
    "googlenet",
    "googlenet_loss",
    "lenet5",
    "model_names",
    "register_model",
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
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]
