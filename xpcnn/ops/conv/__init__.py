"""Convolution: `conv2d` and its adjoint `conv_transpose2d`, one geometry, one file for each algorithm."""

from xpcnn.ops.conv import algorithms
from xpcnn.ops.conv.algorithm import ConvAlgorithm, algorithm_names, conv_algorithm, register
from xpcnn.ops.conv.columns import col2im, im2col
from xpcnn.ops.conv.conv2d import Conv2dContext, conv2d
from xpcnn.ops.conv.conv_transpose2d import ConvTranspose2dContext, conv_transpose2d
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.plan import get_workspace_limit, set_workspace_limit

__all__ = [
    "Conv2dContext",
    "ConvAlgorithm",
    "ConvGeometry",
    "ConvTranspose2dContext",
    "algorithm_names",
    "algorithms",
    "col2im",
    "conv2d",
    "conv_algorithm",
    "conv_transpose2d",
    "get_workspace_limit",
    "im2col",
    "register",
    "set_workspace_limit",
]
