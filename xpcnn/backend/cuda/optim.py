"""Updates of all of an optimiser's parameters by one kernel; see `together` in `xpcnn.optim`.

A step copies two small tables to the device, of pointers and of numbers, for which nobody waits.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.cuda.arrays import c_strides, contiguous, element_strides, empty, merge_axes, storage_of
from xpcnn.backend.cuda.launch import PointerTable, launch
from xpcnn.backend.cuda.source import Family, expressions
from xpcnn.backend.current import backend_of

__all__ = ["FAMILY", "KERNELS"]

Options = Mapping[str, Any]
Update = tuple[Array, Array, Mapping[str, Array], int, Options]
"""(data, gradient, state, steps, options) of one parameter"""

Constants = Callable[[int, Options], tuple[float, ...]]
"""Returns a kernel's options for an update of this number, in float64."""

# Optimisers widen half precision first.
_STORAGE: Final = ("float", "double")

FAMILY: Final = Family("optim", expressions("update_all", _STORAGE, ("Sgd", "AdaGrad", "RmsProp", "Adam")))

_LANES: Final = 256  # these two as in the source
_TILE: Final = 1024
_AXES: Final = 4
_OPTIONS: Final = 8
_MOST: Final = 1 << 31  # places in a parameter, and work items, are counted in 32 bits
# The struct ``Update``: sizes, how the gradient is read, and the options.
_UPDATE: Final = struct.Struct(f"={2 + 1 + (_AXES - 1) + _AXES}q{_OPTIONS}d")


def _sgd(steps: int, options: Options) -> tuple[float, ...]:
    return options["lr"], options["weight_decay"], options["momentum"], float(options["nesterov"])


def _adagrad(steps: int, options: Options) -> tuple[float, ...]:
    return options["lr"], options["weight_decay"], options["eps"]


def _rmsprop(steps: int, options: Options) -> tuple[float, ...]:
    lr, decay, eps, alpha = (options[name] for name in ("lr", "weight_decay", "eps", "alpha"))
    return lr, decay, eps, alpha, 1 - alpha, options["momentum"]


def _adam(
    steps: int, options: Options, *, decay: float | None = None, shrink: float = 1.0
) -> tuple[float, ...]:
    beta1, beta2 = options["betas"]
    decay = options["weight_decay"] if decay is None else decay
    lr, root = options["lr"] / (1 - beta1**steps), math.sqrt(1 - beta2**steps)
    return lr, decay, options["eps"], 1 - beta1, beta2, 1 - beta2, root, shrink


def _adamw(steps: int, options: Options) -> tuple[float, ...]:
    return _adam(steps, options, decay=0.0, shrink=1 - options["lr"] * options["weight_decay"])


def _step(rule: str, kept: tuple[str, ...], constants: Constants, updates: list[Update]) -> Any:
    """Return the new arrays of all parameters; their state is changed in place.

    An optimiser's rule is a kernel's argument. It keeps at most two arrays.
    """
    storage = storage_of(*(data for data, *_ in updates))
    tiles = [-(-data.size // _TILE) for data, *_ in updates]
    most = max(sum(tiles) * _LANES, *(data.size for data, *_ in updates))
    if storage not in _STORAGE or most >= _MOST:
        return NotImplemented
    rows: list[bytes] = []
    pointers: list[Array | None] = []
    updated: list[Array] = []
    first_tile = 0
    for (data, gradient, state, steps, options), own_tiles in zip(updates, tiles, strict=True):
        reading = _reading(gradient.shape, element_strides(gradient))
        if not reading:
            gradient = contiguous(gradient)
            reading = _reading(gradient.shape, element_strides(gradient))
        numbers = constants(steps, options)
        unused = (0.0,) * (_OPTIONS - len(numbers))
        rows.append(_UPDATE.pack(data.size, first_tile, *reading, *numbers, *unused))
        first_tile += own_tiles
        updated.append(empty(data, data.shape))
        arrays = [*(state.get(name) for name in kept), None, None]
        pointers += [contiguous(data), gradient, updated[-1], *arrays[:2]]
    table = backend_of(updates[0][0]).asarray(np.frombuffer(b"".join(rows), np.int64))
    kernel = f"update_all<{storage}, {rule}>"
    launch(FAMILY, kernel, first_tile * _LANES, PointerTable(tuple(pointers)), table, len(updates))
    return updated


@functools.lru_cache(maxsize=4096)
def _reading(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Return the fields ``contiguous``, ``axes`` and ``strides`` of a gradient; none for too many axes."""
    axes = merge_axes(shape, strides)
    if len(axes) > _AXES:
        return ()
    sizes, steps = zip(*[(1, 0)] * (_AXES - len(axes)), *axes, strict=True)
    return int(axes == merge_axes(shape, c_strides(shape))), *sizes[1:], *steps


KERNELS: Final = {
    "sgd_step": functools.partial(_step, "Sgd", ("velocity",), _sgd),
    "adagrad_step": functools.partial(_step, "AdaGrad", ("h",), _adagrad),
    "rmsprop_step": functools.partial(_step, "RmsProp", ("v", "velocity"), _rmsprop),
    "adam_step": functools.partial(_step, "Adam", ("m", "v"), _adam),
    "adamw_step": functools.partial(_step, "Adam", ("m", "v"), _adamw),
}
