"""Compiled kernels in the place of primitives: pooling, batch-norm, ReLU, biases, and updates of parameters.

Each takes what the `primitive` of its name takes, and answers `NotImplemented` where it does not serve the
arguments: for other dtypes, and for memory that is neither in C order nor channels-last.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from xpcnn.backend.cpu.native.library import Library, library
from xpcnn.backend.cpu.native.sizes import Array, pointer, sum_in_pairs
from xpcnn.backend.threads import parallel_for, parallel_map

__all__ = [
    "KERNELS", "channels_last", "in_order_of", "kernels_for", "max_pool", "parts_of",
    "pool_sizes", "run_parts", "sum_parts",
]  # fmt: skip

PARTS: Final = 8
"""Parts of large work, whatever the number of threads."""

LARGE: Final = 1 << 19
"""Numbers from which on a pass over memory gains from a second thread; smaller arrays stay in a cache."""


def kernels_for(*arrays: Array | None) -> Library | None:
    """Return the kernels for aligned arrays of one dtype, or None where dtypes differ or have none."""
    dtypes = {array.dtype for array in arrays if array is not None}
    if not all(array is None or array.flags.aligned for array in arrays):
        return None
    dtype = dtypes.pop()
    return None if dtypes or not dtype.isnative else library(dtype.name)


def channels_last(x: Array) -> Array:
    """Return x (N, C, ...) as (N, ..., C)."""
    return x.transpose(_order(x.ndim))


@functools.cache
def _order(axes: int) -> tuple[int, ...]:
    return (0, *range(2, axes), 1)


def is_dense(x: Array) -> bool:
    return x.flags.c_contiguous or (x.ndim > 2 and channels_last(x).flags.c_contiguous)


def in_order_of(x: Array, other: Array) -> Array:
    """Return `other` in the memory order of `x`, which is dense."""
    if other.strides == x.strides:
        return other
    fresh = np.empty_like(x)
    fresh[...] = other
    return fresh


def parts_of(count: int, numbers: int, large: int | None = None) -> list[tuple[int, int]]:
    """Return (start, length) of the parts of `count` rows of `numbers`; a single one if that is little."""
    parts = min(PARTS, count) if count * numbers >= (LARGE if large is None else large) else 1
    ends = [i * count // parts for i in range(parts + 1)]
    return [(start, stop - start) for start, stop in itertools.pairwise(ends)]


def run_parts(run: Callable[[int, int], None], parts: list[tuple[int, int]]) -> None:
    if len(parts) == 1:
        run(*parts[0])
    else:
        parallel_for(lambda part: run(*part), parts)


LARGE_UPDATE: Final = 1 << 17
"""The same for updates, which take more than a pass over memory."""

# -- one number at a time ----------------------------------------------------------------


def _elementwise(name: str, first: Array, *others: Array) -> Any:
    """Return what a kernel makes of arrays of one shape, in the memory order of the first."""
    kernels = kernels_for(first, *others)
    if kernels is None or not is_dense(first) or any(other.shape != first.shape for other in others):
        return NotImplemented
    y, kernel, step = np.empty_like(first), getattr(kernels, name), first.itemsize
    arrays = [first, *(in_order_of(first, other) for other in others), y]
    places = [pointer(array) for array in arrays]

    def run(start: int, count: int) -> None:
        kernel(*(place + start * step for place in places), count)

    run_parts(run, parts_of(first.size, 1))
    return y


def _relu_array(x: Array) -> Any:
    return _elementwise("relu", x)


def _add(x: Array, other: Array) -> Any:
    return _elementwise("add", x, other)


def _relu_grad(dy: Array, y: Array) -> Any:
    # The memory order is that of the output, which layers before this one have seen.
    return _elementwise("relu_gradient", in_order_of(y, dy), y) if dy.shape == y.shape else NotImplemented


def _add_bias(relu: bool, y: Array, bias: Array) -> Any:
    kernels, last = kernels_for(y, bias), channels_last(y)
    if kernels is None or not (y.size and last.flags.c_contiguous and y.flags.writeable):
        return NotImplemented
    channels, bias = bias.size, np.ascontiguousarray(bias)
    kernels.add_bias(pointer(y), pointer(bias), int(relu), y.size // channels, channels)
    return y


# -- pooling -------------------------------------------------------------------------------


class _Pool(ctypes.Structure):
    """`Pool` of passes.hpp."""

    _names = ("n", "h", "w", "c", "oh", "ow", "kh", "kw", "sh", "sw", "top", "left")
    _fields_ = [(name, ctypes.c_long) for name in _names]


def pool_sizes(geometry: Any, n: int, c: int) -> _Pool:
    """Return the sizes of a `PoolGeometry`, with these numbers of images and channels, for the kernels."""
    sizes = (*geometry.input_shape[2:], c, *geometry.output_shape[2:])
    return _Pool(n, *sizes, *geometry.kernel, *geometry.stride, *geometry.padding)


def _pooled(
    kernel: Callable[..., None], geometry: Any, inputs: list[Array], pooled: list[bool], *options: Any
) -> Array:
    """Return the images that a kernel makes; the last of `pooled` is of them, the others of the `inputs`.

    `pooled` says of each array whether it has the shape of the pooled images, or of those before.
    """
    # Of a tile there may be fewer images and channels than of the whole that the geometry is of.
    n, c = inputs[0].shape[:2]
    size = (geometry.output_shape if pooled[-1] else geometry.input_shape)[2:]
    result = np.empty((n, *size, c), inputs[0].dtype)
    arrays = [*(np.ascontiguousarray(channels_last(array)) for array in inputs), result]
    steps = [array.strides[0] for array in arrays]
    places = [pointer(array) for array in arrays]

    def run(start: int, count: int) -> None:
        sizes = pool_sizes(geometry, count, c)
        *at, to = (place + start * step for place, step in zip(places, steps, strict=True))
        kernel(ctypes.byref(sizes), *at, *options, to)

    run_parts(run, parts_of(n, math.prod(inputs[0].shape[1:])))
    return result.transpose(0, 3, 1, 2)


def max_pool(x: Array, geometry: Any) -> Any:
    kernels = kernels_for(x)
    return NotImplemented if kernels is None else _pooled(kernels.max_pool, geometry, [x], [False, True])


def _max_pool_gradient(dy: Array, x: Array, y: Array, geometry: Any) -> Any:
    kernels = kernels_for(dy, x, y)
    if kernels is None:
        return NotImplemented
    return _pooled(kernels.max_pool_gradient, geometry, [dy, x, y], [True, False, True, False], 0)


def _avg_pool(x: Array, geometry: Any, count_include_pad: bool) -> Any:
    kernels = kernels_for(x)
    if kernels is None:
        return NotImplemented
    return _pooled(kernels.avg_pool, geometry, [x], [False, True], int(count_include_pad))


def _avg_pool_gradient(dy: Array, geometry: Any, count_include_pad: bool) -> Any:
    kernels = kernels_for(dy)
    if kernels is None:
        return NotImplemented
    return _pooled(kernels.avg_pool_gradient, geometry, [dy], [True, False], int(count_include_pad))


# -- sums over the pixels ----------------------------------------------------------------------


def sum_parts(run: Callable[[int, int, int], None], rows: int, numbers: int, shape: tuple[int, ...]) -> Array:
    """Return sums in float64 over rows of so many numbers: of parts of the rows, added in pairs.

    ``run(start, count, to)`` adds a part's to the sums at an address.
    """
    wide = library("float64")
    assert wide is not None

    def part(ends: tuple[int, int]) -> Array:
        sums = np.zeros(shape)
        run(*ends, pointer(sums))
        return sums

    parts = parts_of(rows, numbers)
    return part(parts[0]) if len(parts) == 1 else sum_in_pairs(wide, list(parallel_map(part, parts)))


def _sum_over_pixels(dy: Array) -> Any:
    kernels, last = kernels_for(dy), channels_last(dy)
    if kernels is None or not last.flags.c_contiguous or not dy.size:
        return NotImplemented
    pixels, c = dy.size // dy.shape[1], dy.shape[1]

    def run(start: int, count: int, to: int) -> None:
        kernels.sum_channels(pointer(dy) + start * c * dy.itemsize, count, c, to)

    return sum_parts(run, pixels, c, (c,)).astype(dy.dtype)


# -- softmax cross-entropy -----------------------------------------------------------------------


def _cross_entropy(logits: Array, target: Array) -> Any:
    kernels, (rows, classes) = kernels_for(logits, target), logits.shape
    if kernels is None or target.shape != logits.shape:
        return NotImplemented
    logarithms, row = np.empty(logits.shape, logits.dtype), classes * logits.itemsize
    arrays = np.ascontiguousarray(logits), np.ascontiguousarray(target)
    x, wanted, y = map(pointer, (*arrays, logarithms))

    def run(start: int, count: int, to: int) -> None:
        at = start * row
        kernels.cross_entropy(x + at, wanted + at, count, classes, y + at, to)

    return (sum_parts(run, rows, classes, ()) / rows).astype(logits.dtype), logarithms


def _cross_entropy_gradient(log_probabilities: Array, target: Array, scale: Any) -> Any:
    kernels, (rows, classes) = kernels_for(log_probabilities, target), target.shape
    if kernels is None or not isinstance(scale, float):
        return NotImplemented
    dx, row = np.empty(target.shape, target.dtype), classes * target.itemsize
    arrays = np.ascontiguousarray(log_probabilities), np.ascontiguousarray(target)
    x, wanted, to = map(pointer, (*arrays, dx))

    def run(start: int, count: int) -> None:
        at = start * row
        kernels.cross_entropy_gradient(x + at, wanted + at, scale, count, classes, to + at)

    run_parts(run, parts_of(rows, classes))
    return dx


# -- updates of parameters ---------------------------------------------------------------------

Options = Mapping[str, Any]
Update = tuple[Array, Array, Mapping[str, Array], int, Options]
"""(data, gradient, state, steps, options) of one parameter"""

Rule = Callable[[Library, dict[str, int], int, int, Options], None]
"""Takes the kernels, addresses by name, how many numbers, the steps and the options."""


def _step(rule: Rule, updates: list[Update]) -> Any:
    """Return the new arrays of all parameters; their state is changed in place."""
    served = [kernels_for(data, gradient, *state.values()) for data, gradient, state, *_ in updates]
    # A state is written: one of another shape, or memory that is not to be written, is not for kernels.
    fit = (
        gradient.shape == data.shape
        and all(
            array.shape == data.shape and array.flags.c_contiguous and array.flags.writeable
            for array in state.values()
        )
        for data, gradient, state, *_ in updates
    )
    if None in served or not all(fit):
        return NotImplemented
    return [
        _updated(rule, kernels, *update) for kernels, update in zip(served, updates, strict=True) if kernels
    ]


def _updated(
    rule: Rule,
    kernels: Library,
    data: Array,
    gradient: Array,
    state: Mapping[str, Array],
    steps: int,
    options: Options,
) -> Array:
    fresh = np.empty(data.shape, data.dtype)
    arrays = {
        "fresh": fresh,
        "data": np.ascontiguousarray(data),
        "gradient": np.ascontiguousarray(gradient),
        **state,
    }
    places = {name: pointer(array) for name, array in arrays.items()}

    def run(start: int, count: int) -> None:
        at = {name: place + start * fresh.itemsize for name, place in places.items()}
        rule(kernels, at, count, steps, options)

    run_parts(run, parts_of(fresh.size, 1, LARGE_UPDATE))
    return fresh


def _sgd(kernels: Library, at: dict[str, int], count: int, steps: int, options: Options) -> None:
    momentum, nesterov = options["momentum"], int(options["nesterov"])
    velocity = at["velocity"] if momentum else None
    numbers = options["lr"], momentum, nesterov, options["weight_decay"]
    kernels.sgd(at["fresh"], at["data"], at["gradient"], velocity, *numbers, count)


def _adam(
    decoupled: bool, kernels: Library, at: dict[str, int], count: int, steps: int, options: Options
) -> None:
    (beta1, beta2), lr, decay = options["betas"], options["lr"], options["weight_decay"]
    rate, root = lr / (1 - beta1**steps), math.sqrt(1 - beta2**steps)
    decays = (0.0, 1 - lr * decay) if decoupled else (decay, 1.0)
    arrays = (at[name] for name in ("fresh", "data", "gradient", "m", "v"))
    kernels.adam(*arrays, beta1, beta2, options["eps"], rate, root, *decays, count)


KERNELS: Final[dict[str, Callable[..., Any]]] = {
    "add": _add,
    "add_bias": functools.partial(_add_bias, False),
    "add_bias_relu": functools.partial(_add_bias, True),
    "relu_array": _relu_array,
    "relu_grad": _relu_grad,
    "max_pool_windows": max_pool,
    "max_pool_scatter": _max_pool_gradient,
    "avg_pool_windows": _avg_pool,
    "avg_pool_scatter": _avg_pool_gradient,
    "sum_over_pixels": _sum_over_pixels,
    "cross_entropy": _cross_entropy,
    "cross_entropy_gradient": _cross_entropy_gradient,
    "sgd_step": functools.partial(_step, _sgd),
    "adam_step": functools.partial(_step, functools.partial(_adam, False)),
    "adamw_step": functools.partial(_step, functools.partial(_adam, True)),
}
