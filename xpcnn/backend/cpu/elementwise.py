"""Passes over every element in blocks: biases, ReLU, sums, and the updates of an optimiser's parameters.

The maximum with an array of zeros is three times as fast as that with the number 0. The updates are those of
`optim.optimizer.foreach`: each rule does the operations of the portable `update` in their order, so the bits
are the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from xpcnn.backend.cpu.parallel import (
    Array,
    blocks,
    channel_matrix,
    flat_pair,
    is_supported,
    parallel_for_slices,
    zeros,
)

__all__ = ["KERNELS", "keep_where_positive", "rectify"]

_BIAS_BYTES: Final = 256 << 10
"""Bytes that the biases, which are repeated to the length of a block, take at most."""

_SMALL_BIAS: Final = 1 << 15
"""Numbers to which biases are added in less time than repeating them more often takes."""


def relu_array(x: Array) -> Any:
    """Return ``max(x, 0)``; NaN stays NaN."""
    pair = flat_pair(x) if is_supported(x) else None
    if pair is None:
        return NotImplemented
    flat_x, y, flat_y = pair
    parallel_for_slices(lambda share: rectify(flat_x[share], flat_y[share]), flat_x.size, 1)
    return y


def relu_grad(dy: Array, y: Array) -> Any:
    """Return `dy` where `y` is positive, else 0, whatever stands there (NaN included)."""
    if not is_supported(dy, y) or dy.ndim == 0 or dy.size == 0:
        return NotImplemented
    kept = np.empty_like(dy)
    _run_in_rows(lambda rows: keep_where_positive(dy[rows], y[rows], kept[rows]), dy)
    return kept


def add(x: Array, other: Array) -> Any:
    """Return ``x + other``, arrays of one shape."""
    if not is_supported(x, other) or x.ndim == 0 or x.size == 0 or x.shape != other.shape:
        return NotImplemented
    total = np.empty_like(x)
    _run_in_rows(lambda rows: np.add(x[rows], other[rows], out=total[rows]), x)
    return total


def add_bias(y: Array, bias: Array) -> Any:
    """Return y (N, K, OH, OW), which is fresh, after adding a number to each channel of it."""
    return _add_bias(y, bias, relu=False)


def add_bias_relu(y: Array, bias: Array) -> Any:
    """Return ``max(y + bias, 0)`` likewise."""
    return _add_bias(y, bias, relu=True)


def _add_bias(y: Array, bias: Array, relu: bool) -> Any:
    matrix = channel_matrix(y) if is_supported(y, bias) else None
    if matrix is None or y.size == 0:
        return NotImplemented
    if y.size <= _SMALL_BIAS:  # row by row of an image: fewer calls
        biases = np.empty((y.shape[3], y.shape[1]), y.dtype)
        biases[...] = bias
        images = matrix.reshape(-1, biases.size)
        images += biases.reshape(-1)
        if relu:
            np.maximum(images, zeros(y.dtype)[: biases.size], out=images)
        return y
    pixels, channels = matrix.shape
    # Repeating the biases has to be cheap beside adding them: a quarter of y at most.
    rows = min(-(-pixels // 4), max(1, _BIAS_BYTES // (channels * y.itemsize)))
    biases = np.repeat(bias[None], rows, axis=0).reshape(-1)
    values = matrix.reshape(-1)
    if not relu:  # each number is touched once: fewer calls
        whole = values.size - values.size % biases.size
        block = values[:whole].reshape(-1, biases.size)
        block += biases
        values = values[whole:]
    for part in blocks(values.size, biases.size):
        piece = values[part]
        piece += biases[: piece.size]
        if relu:
            rectify(piece, piece)
    return y


def _run_in_rows(function: Callable[[slice], object], x: Array) -> None:
    """Call a function with shares of the first axis, whatever the memory order of the others."""
    per_row = x[0].size

    def run(share: slice) -> None:
        function(slice(share.start // per_row, share.stop // per_row))

    parallel_for_slices(run, x.size, per_row)


def keep_where_positive(dy: Array, y: Array, kept: Array) -> None:
    """Write `dy` to `kept` where y is positive, else 0."""
    # numpy.where branches on every element; an integer product is exact and twenty times faster.
    bits = f"i{dy.itemsize}"
    np.multiply(dy.view(bits), y > 0, out=kept.view(bits))


def rectify(x: Array, y: Array) -> None:
    """Write ``max(x, 0)`` to y, both flat."""
    zero = zeros(x.dtype)
    if x.size <= zero.size:
        np.maximum(x, zero[: x.size], out=y)
        return
    for part in blocks(x.size, zero.size):
        values = x[part]
        np.maximum(values, zero[: values.size], out=y[part])


# -- updates of parameters ---------------------------------------------------------------

Options = Mapping[str, Any]
State = Mapping[str, Array]
Update = tuple[Array, Array, State, int, Options]
"""(data, gradient, state, steps, options) of one parameter"""

Rule = Callable[[Array, Array, Array, State, int, Options], None]
"""Takes a block of the new weights, to be written, of the old ones, and of the rest.

Until they are written, the new weights are scratch memory."""

_RULE_BYTES: Final = 1 << 20
"""Longer than elsewhere: roots and quotients, not memory, take the time."""

_LARGE_RULE: Final = 1 << 18
"""Elements of a parameter from which on threads share it, for the same reason."""


def _sgd(new: Array, data: Array, gradient: Array, state: State, steps: int, options: Options) -> None:
    momentum = options["momentum"]
    gradient = _decayed(gradient, data, options)
    if momentum:
        velocity = state["velocity"]
        velocity *= momentum
        velocity += gradient
        gradient = gradient + momentum * velocity if options["nesterov"] else velocity
    np.multiply(gradient, options["lr"], out=new)
    np.subtract(data, new, out=new)


def _adagrad(new: Array, data: Array, gradient: Array, state: State, steps: int, options: Options) -> None:
    gradient = _decayed(gradient, data, options)
    change, h = new, state["h"]
    np.multiply(gradient, gradient, out=change)
    h += change
    np.sqrt(h, out=change)
    change += options["eps"]
    np.divide(gradient, change, out=change)
    change *= options["lr"]
    np.subtract(data, change, out=new)


def _rmsprop(new: Array, data: Array, gradient: Array, state: State, steps: int, options: Options) -> None:
    alpha, lr, momentum = options["alpha"], options["lr"], options["momentum"]
    gradient = _decayed(gradient, data, options)
    change, v = new, state["v"]
    np.multiply(gradient, gradient, out=change)
    change *= 1 - alpha
    v *= alpha
    v += change
    np.sqrt(v, out=change)
    change += options["eps"]
    np.divide(gradient, change, out=change)
    if momentum:
        velocity = state["velocity"]
        velocity *= momentum
        velocity += change
        np.multiply(velocity, lr, out=change)
    else:
        change *= lr
    np.subtract(data, change, out=new)


def _adam(new: Array, data: Array, gradient: Array, state: State, steps: int, options: Options) -> None:
    gradient = _decayed(gradient, data, options)
    beta1, beta2 = options["betas"]
    change, m, v = new, state["m"], state["v"]
    np.subtract(gradient, m, out=change)
    change *= 1 - beta1
    m += change
    np.multiply(gradient, gradient, out=change)
    change *= 1 - beta2
    v *= beta2
    v += change
    np.sqrt(v, out=change)
    change /= math.sqrt(1 - beta2**steps)
    change += options["eps"]
    np.divide(m, change, out=change)
    change *= options["lr"] / (1 - beta1**steps)
    np.subtract(data, change, out=new)


def _adamw(new: Array, data: Array, gradient: Array, state: State, steps: int, options: Options) -> None:
    decay = options["weight_decay"]
    shrunk = data * (1 - options["lr"] * decay) if decay else data
    _adam(new, shrunk, gradient, state, steps, {**options, "weight_decay": 0.0})


def _decayed(gradient: Array, data: Array, options: Options) -> Array:
    decay = options["weight_decay"]
    return gradient + decay * data if decay else gradient


def _step(rule: Rule, updates: list[Update]) -> Any:
    """Return the new arrays of all parameters; their state is changed in place."""
    arrays = [array for data, gradient, state, *_ in updates for array in (data, gradient, *state.values())]
    if not is_supported(*arrays):
        return NotImplemented
    # State that is not contiguous has no flat view to write to.
    if not all(array.flags.c_contiguous for _, _, state, *_ in updates for array in state.values()):
        return NotImplemented
    return [_updated(rule, *update) for update in updates]


def _updated(rule: Rule, data: Array, gradient: Array, state: State, steps: int, options: Options) -> Array:
    """Return the new array of one parameter."""
    new = np.empty(data.shape, data.dtype)
    length = _RULE_BYTES // data.itemsize
    if data.size <= min(length, _LARGE_RULE):
        rule(new, data, gradient, state, steps, options)
        return new
    flat_new, flat_data, flat_gradient = new.reshape(-1), data.reshape(-1), gradient.reshape(-1)
    flat_state = {name: array.reshape(-1) for name, array in state.items()}

    def update(share: slice) -> None:
        for start in range(share.start, share.stop, length):
            part = slice(start, min(start + length, share.stop))
            kept = {name: array[part] for name, array in flat_state.items()}
            rule(flat_new[part], flat_data[part], flat_gradient[part], kept, steps, options)

    parallel_for_slices(update, data.size, 1, _LARGE_RULE)
    return new


KERNELS: Final = {
    "add_bias": add_bias,
    "add_bias_relu": add_bias_relu,
    "add": add,
    "relu_grad": relu_grad,
    "relu_array": relu_array,
    "sgd_step": functools.partial(_step, _sgd),
    "adagrad_step": functools.partial(_step, _adagrad),
    "rmsprop_step": functools.partial(_step, _rmsprop),
    "adam_step": functools.partial(_step, _adam),
    "adamw_step": functools.partial(_step, _adamw),
}
