"""Pure functions, each with its backward: ``op(x, …) -> (y, ctx)`` and ``op.backward(ctx, dy) -> gradients``.

An op takes its namespace from its inputs, keeps their dtype and device, never writes into them, and keeps
nothing between calls: what backward needs is in `ctx`, a NamedTuple.
"""

from xpcnn.ops.activation import OutputContext, gelu, leaky_relu, relu, sigmoid, silu, tanh
from xpcnn.ops.avg_pool import adaptive_avg_pool2d, avg_pool2d
from xpcnn.ops.conv import ConvGeometry, conv_algorithm
from xpcnn.ops.conv.algorithm import algorithm_names
from xpcnn.ops.conv.autotune import autotune
from xpcnn.ops.conv.columns import col2im, im2col
from xpcnn.ops.conv.conv2d import conv2d
from xpcnn.ops.conv.conv_transpose2d import conv_transpose2d
from xpcnn.ops.conv.plan import get_workspace_limit, set_workspace_limit
from xpcnn.ops.dropout import dropout
from xpcnn.ops.layer_norm import group_norm, layer_norm
from xpcnn.ops.linear import flatten, linear
from xpcnn.ops.local_response import local_response_norm
from xpcnn.ops.loss import mean_squared_error, softmax_cross_entropy
from xpcnn.ops.max_pool import max_pool2d
from xpcnn.ops.norm import batch_norm
from xpcnn.ops.softmax import log_softmax, softmax
from xpcnn.ops.textbook import reference

__all__ = [
    "ConvGeometry",
    "OutputContext",
    "adaptive_avg_pool2d",
    "algorithm_names",
    "autotune",
    "avg_pool2d",
    "batch_norm",
    "col2im",
    "conv2d",
    "conv_algorithm",
    "conv_transpose2d",
    "dropout",
    "flatten",
    "gelu",
    "get_workspace_limit",
    "group_norm",
    "im2col",
    "layer_norm",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log_softmax",
    "max_pool2d",
    "mean_squared_error",
    "reference",
    "relu",
    "set_workspace_limit",
    "sigmoid",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "tanh",
]
