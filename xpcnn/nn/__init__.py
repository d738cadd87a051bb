"""Layers: parameters and thin wrappers around `xpcnn.ops`, and the containers that make models of them."""

from xpcnn.nn import init
from xpcnn.nn.activation import GELU, Dropout, Identity, LeakyReLU, ReLU, Sigmoid, SiLU, Softmax, Tanh
from xpcnn.nn.config import from_config, registered
from xpcnn.nn.containers import Concat, Residual, Sequential
from xpcnn.nn.conv import Conv2d, ConvTranspose2d
from xpcnn.nn.ensemble import Ensemble
from xpcnn.nn.fuse import fuse
from xpcnn.nn.layer import Layer, LoadReport, ModelSpec, ReceptiveField, Stateless
from xpcnn.nn.linear import Flatten, Linear
from xpcnn.nn.norm import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, LocalResponseNorm
from xpcnn.nn.parameter import Buffer, Gradients, Parameter
from xpcnn.nn.pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d, ScaledAvgPool2d
from xpcnn.nn.preprocess import Preprocess, preprocess_of
from xpcnn.nn.summary import Summary, summary
from xpcnn.nn.value_and_grad import is_batch_independent, value_and_grad

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Buffer",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Ensemble",
    "Flatten",
    "Gradients",
    "GroupNorm",
    "Identity",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LoadReport",
    "LocalResponseNorm",
    "MaxPool2d",
    "ModelSpec",
    "Parameter",
    "Preprocess",
    "ReLU",
    "ReceptiveField",
    "Residual",
    "ScaledAvgPool2d",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Stateless",
    "Summary",
    "Tanh",
    "from_config",
    "fuse",
    "init",
    "is_batch_independent",
    "preprocess_of",
    "registered",
    "summary",
    "value_and_grad",
]

for _name in __all__:
    _kind = globals()[_name]
    if isinstance(_kind, type) and issubclass(_kind, Layer) and _kind is not Layer:
        registered(_name)(_kind)
