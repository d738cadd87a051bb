"""Pure functions, each with its backward: ``op(x, …) -> (y, ctx)`` and ``op.backward(ctx, dy) -> gradients``.

An op takes its namespace from its inputs, keeps their dtype and device, never writes into them, and keeps
nothing between calls: what backward needs is in `ctx`, a NamedTuple.
"""

from xpcnn.ops.activation import (
    OutputContext,
    leaky_relu,
    leaky_relu_backward,
    log_softmax,
    log_softmax_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from xpcnn.ops.conv import (
    ConvGeometry,
    algorithm_names,
    col2im,
    conv2d,
    conv2d_backward,
    conv2d_relu,
    conv2d_relu_max_pool2d,
    conv_algorithm,
    conv_transpose2d,
    conv_transpose2d_backward,
    get_workspace_limit,
    im2col,
    set_workspace_limit,
)
from xpcnn.ops.conv.autotune import autotune
from xpcnn.ops.dropout import dropout, dropout_backward
from xpcnn.ops.gated import gelu, gelu_backward, silu, silu_backward
from xpcnn.ops.layer_norm import group_norm, group_norm_backward, layer_norm, layer_norm_backward
from xpcnn.ops.linear import linear, linear_backward
from xpcnn.ops.local_response import local_response_norm, local_response_norm_backward
from xpcnn.ops.loss import (
    mean_squared_error,
    mean_squared_error_backward,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)
from xpcnn.ops.norm import batch_norm, batch_norm_backward
from xpcnn.ops.norm_relu import batch_norm_relu, batch_norm_relu_backward
from xpcnn.ops.pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from xpcnn.ops.shape import flatten, flatten_backward

__all__ = [
    "ConvGeometry",
    "OutputContext",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "algorithm_names",
    "autotune",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_relu",
    "batch_norm_relu_backward",
    "col2im",
    "conv2d",
    "conv2d_backward",
    "conv2d_relu",
    "conv2d_relu_max_pool2d",
    "conv_algorithm",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "dropout",
    "dropout_backward",
    "flatten",
    "flatten_backward",
    "gelu",
    "gelu_backward",
    "get_workspace_limit",
    "group_norm",
    "group_norm_backward",
    "im2col",
    "layer_norm",
    "layer_norm_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "linear",
    "linear_backward",
    "local_response_norm",
    "local_response_norm_backward",
    "log_softmax",
    "log_softmax_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "mean_squared_error",
    "mean_squared_error_backward",
    "relu",
    "relu_backward",
    "set_workspace_limit",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
    "tanh",
    "tanh_backward",
]
