"""Convolution: `conv2d` and its adjoint `conv_transpose2d`, one geometry, one file for each algorithm."""

from xpcnn.ops.conv import algorithms
from xpcnn.ops.conv.algorithm import ConvAlgorithm, conv_algorithm, register
from xpcnn.ops.conv.geometry import ConvGeometry

__all__ = ["ConvAlgorithm", "ConvGeometry", "algorithms", "conv_algorithm", "register"]
