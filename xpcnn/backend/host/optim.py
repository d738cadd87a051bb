"""Updates of an optimiser's parameters, in blocks that stay in a cache; see `optim.optimizer.foreach`.

Each rule does the operations of the portable `update` in their order: the bits are the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from xpcnn.backend.host.blocking import Array, is_served, run_in_shares

__all__ = ["KERNELS"]

Options = Mapping[str, Any]
State = Mapping[str, Array]
Update = tuple[Array, Array, State, int, Options]
"""(data, gradient, state, steps, options) of one parameter"""

Rule = Callable[[Array, Array, Array, State, int, Options], None]
"""Takes a block of the new weights, to be written, of the old ones, and of the rest.

Until they are written, the new weights are scratch memory."""

_BLOCK_BYTES: Final = 1 << 20
"""Longer than elsewhere: roots and quotients, not memory, take the time."""

_LARGE: Final = 1 << 18
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
    if not is_served(*arrays):
        return NotImplemented
    # State that is not contiguous has no flat view to write to.
    if not all(array.flags.c_contiguous for _, _, state, *_ in updates for array in state.values()):
        return NotImplemented
    return [_updated(rule, *update) for update in updates]


def _updated(rule: Rule, data: Array, gradient: Array, state: State, steps: int, options: Options) -> Array:
    """Return the new array of one parameter."""
    new = np.empty(data.shape, data.dtype)
    length = _BLOCK_BYTES // data.itemsize
    if data.size <= min(length, _LARGE):
        rule(new, data, gradient, state, steps, options)
        return new
    flat_new, flat_data, flat_gradient = new.reshape(-1), data.reshape(-1), gradient.reshape(-1)
    flat_state = {name: array.reshape(-1) for name, array in state.items()}

    def update(share: slice) -> None:
        for start in range(share.start, share.stop, length):
            part = slice(start, min(start + length, share.stop))
            kept = {name: array[part] for name, array in flat_state.items()}
            rule(flat_new[part], flat_data[part], flat_gradient[part], kept, steps, options)

    run_in_shares(update, data.size, 1, _LARGE)
    return new


KERNELS: Final = {
    "sgd_step": functools.partial(_step, _sgd),
    "adagrad_step": functools.partial(_step, _adagrad),
    "rmsprop_step": functools.partial(_step, _rmsprop),
    "adam_step": functools.partial(_step, _adam),
    "adamw_step": functools.partial(_step, _adamw),
}
