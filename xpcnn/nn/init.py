"""What layers are built with: initial weights, drawn on the host so that backends agree, and checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from xpcnn.backend import FLOATS, Array, dtype_name, get_backend, host_generator
from xpcnn.errors import ArgumentError, DtypeError
from xpcnn.ops.op import in_words, real, require_possible, whole

__all__ = ["Initializer", "draw", "he", "normal", "xavier"]

# (host generator, shape, fan_in, fan_out) -> host array. fan_in counts the values an output sums over,
# fan_out the outputs a value goes into (of all groups together, as PyTorch counts).
Initializer = Callable[[Any, tuple[int, ...], int, int], Array]


def normal(std: float) -> Initializer:
    """Return an initialiser that draws from N(0, std²), whatever the layer's size."""
    std = real("normal: std", std, 0)
    return lambda rng, shape, fan_in, fan_out: rng.standard_normal(shape) * std


def xavier() -> Initializer:
    """Return the initialiser N(0, 2/(fan_in + fan_out)), for sigmoid and tanh.

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.
    """
    return lambda rng, shape, fan_in, fan_out: rng.standard_normal(shape) * math.sqrt(2 / (fan_in + fan_out))


def he() -> Initializer:
    """Return the initialiser N(0, 2/fan_in), for ReLU.

    References
    ----------
    He, Zhang, Ren and Sun, "Delving deep into rectifiers", 2015.
    """
    return lambda rng, shape, fan_in, fan_out: rng.standard_normal(shape) * math.sqrt(2 / fan_in)


LACKING = 10_000
"""Weights that a file may lack of its model: a few biases are named then, one by one."""

MOST_REPLACED = 1 << 24
"""Weights that a constructor may make and a file replaces, such as those of a large head."""


@dataclass
class _Limits:
    most: float  # weights in an array
    left: float  # weights that may still have memory of their own


_limits: ContextVar[_Limits | None] = ContextVar("how much memory weights may take", default=None)


@contextmanager
def without_memory(most: float = math.inf, own: float = 0) -> Iterator[None]:
    """Make initial weights that are all one number and take no memory, of at most so many in an array.

    Those of a file come in their place: a file does not decide how much memory reading it takes.

    Parameters
    ----------
    most : float
        Of the weights in an array; more are refused.
    own : float
        How many weights, of all arrays together, still have memory of their own: a constructor may write into
        these, and into the others not.

    Examples
    --------
    >>> from xpcnn import nn
    >>> with without_memory(10**15):
    ...     layer = nn.Linear(10**6, 10**9)
    ...     nn.Linear(10**9, 10**9)
    Traceback (most recent call last):
        ...
    xpcnn.errors.ArgumentError: weights of shape (1000000000, 1000000000) are more than 1,000,000,000,000,000
    >>> layer.weight.shape
    (1000000000, 1000000)
    """
    token = _limits.set(_Limits(most, own))
    try:
        yield
    finally:
        _limits.reset(token)


def draw(
    init: Initializer | str | float,
    seed: Any,
    shape: tuple[int, ...],
    fan_in: int,
    fan_out: int,
    dtype: Any = "float32",
) -> Array:
    """Return initial weights on the host, in float64; `without_memory`, on the current backend in `dtype`.

    Parameters
    ----------
    init : "he", "xavier", a standard deviation, or an Initializer
    seed : int, NumPy generator or None
        None draws from fresh entropy.
    shape, fan_in, fan_out
        Of the weight.
    """
    if isinstance(init, str):
        if init not in ("he", "xavier"):
            raise ArgumentError(
                f"weight_init: unknown initialiser {init!r}; use 'he', 'xavier', a number or an Initializer"
            )
        init = he() if init == "he" else xavier()
    elif not callable(init):
        init = normal(real("weight_init", init, 0))
    if _limits.get() is not None:
        return constant(0.0, shape, dtype)
    require_possible("weight_init", "the weight", shape)
    values = init(host_generator(seed), shape, fan_in, fan_out)
    given = tuple(getattr(values, "shape", ()))
    if given != shape:
        raise ArgumentError(f"weight_init: the initialiser gave shape {given} for a weight of shape {shape}")
    return values


def constant(value: float, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return initial weights that are one number, on the current backend."""
    backend, limits, count = get_backend(), _limits.get(), math.prod(shape)
    if limits is not None:
        if count > limits.most:
            raise ArgumentError(f"weights of shape {shape} are more than {limits.most:,}")
        if count > limits.left:
            return backend.xp.broadcast_to(backend.asarray(value, dtype), shape)
        limits.left -= count
    if value == 0:  # which takes no memory yet on a host
        return backend.xp.zeros(shape, dtype=backend.dtype(dtype), device=backend.device)
    return backend.xp.full(shape, value, dtype=backend.dtype(dtype), device=backend.device)


def floating(layer: str, dtype: Any) -> Any:
    """Return a dtype, or the name of one, that parameters can have."""
    try:
        fits = dtype_name(dtype) in FLOATS
    except DtypeError:
        fits = False
    if not fits:
        raise DtypeError(
            f"{layer}: dtype must be float16, bfloat16, float32 or float64, got {in_words(dtype)}"
        )
    return dtype


def grouped(layer: str, name: str, groups: Any, **channels: Any) -> tuple[int, ...]:
    """Return a number of groups, and the numbers of channels, each of which it divides."""
    number, *counts = (
        whole(f"{layer}: {key}", value, 1) for key, value in {name: groups, **channels}.items()
    )
    if any(count % number for count in counts):
        shown = " and ".join(f"{key}={count}" for key, count in zip(channels, counts, strict=True))
        raise ArgumentError(f"{layer}: {name}={number} must divide {shown}")
    return (number, *counts)
