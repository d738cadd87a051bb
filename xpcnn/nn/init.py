"""Initial weights, drawn on the host so that every backend starts from the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from xpcnn.backend import Array, host_generator
from xpcnn.backend.numbers import real
from xpcnn.errors import ArgumentError
from xpcnn.ops.checks import require_possible

__all__ = ["Initializer", "draw", "he", "normal", "xavier"]

# (host generator, shape, fan_in, fan_out) -> host array. fan_in counts the values an output sums over,
# fan_out the outputs a value goes into (of all groups together, as PyTorch counts).
Initializer = Callable[[Any, tuple[int, ...], int, int], Array]


def normal(std: float) -> Initializer:
    """Return an initialiser that draws from N(0, std²), whatever the layer's size."""
    std = real("normal: std", std, 0)

    def initialize(rng: Any, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
        return rng.standard_normal(shape) * std

    return initialize


def xavier() -> Initializer:
    """Return the initialiser N(0, 2/(fan_in + fan_out)), for sigmoid and tanh.

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.
    """

    def initialize(rng: Any, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
        return rng.standard_normal(shape) * math.sqrt(2 / (fan_in + fan_out))

    return initialize


def he() -> Initializer:
    """Return the initialiser N(0, 2/fan_in), for ReLU.

    References
    ----------
    He, Zhang, Ren and Sun, "Delving deep into rectifiers", 2015.
    """

    def initialize(rng: Any, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
        return rng.standard_normal(shape) * math.sqrt(2 / fan_in)

    return initialize


def draw(
    init: Initializer | str | float, seed: Any, shape: tuple[int, ...], fan_in: int, fan_out: int
) -> Array:
    """Return initial weights on the host, in float64.

    Parameters
    ----------
    init : "he", "xavier", a standard deviation, or an Initializer
    seed : int, NumPy generator or None
        None draws from fresh entropy.
    shape, fan_in, fan_out
        Of the weight.
    """
    if isinstance(init, str):
        known = {"he": he, "xavier": xavier}
        if init not in known:
            raise ArgumentError(
                f"weight_init: unknown initialiser {init!r}; use 'he', 'xavier', a number or an Initializer"
            )
        init = known[init]()
    elif not callable(init):
        init = normal(real("weight_init", init, 0))
    require_possible("weight_init", "the weight", shape)
    values = init(host_generator(seed), shape, fan_in, fan_out)
    given = tuple(getattr(values, "shape", ()))
    if given != shape:
        raise ArgumentError(f"weight_init: the initialiser gave shape {given} for a weight of shape {shape}")
    return values
