"""What layers are built with: initial weights, drawn on the host so that backends agree, and checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from xpcnn.arguments import MOST_SIZE
from xpcnn.backend import FLOATS, Array, dtype_name, get_backend, host_generator
from xpcnn.errors import ArgumentError, DtypeError
from xpcnn.ops.op import in_words, real, require_possible, whole

__all__ = [
    "LACKING",
    "Initializer",
    "at_most",
    "constant",
    "draw",
    "floating",
    "grouped",
    "he",
    "normal",
    "replacing",
    "xavier",
]

# (host generator, shape, fan_in, fan_out) -> host array. fan_in counts the values an output sums over,
# fan_out the outputs a value goes into (of all groups together, as PyTorch counts).
Initializer = Callable[[Any, tuple[int, ...], int, int], Array]


def _gaussian(std: Callable[[int, int], float]) -> Initializer:
    def initialize(rng: Any, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Any:
        return rng.standard_normal(shape) * std(fan_in, fan_out)

    return initialize


def normal(std: float) -> Initializer:
    """Return an initialiser that draws from N(0, std²), whatever the layer's size."""
    std = real("normal: std", std, 0)
    return _gaussian(lambda fan_in, fan_out: std)


def xavier() -> Initializer:
    """Return the initialiser N(0, 2/(fan_in + fan_out)), for sigmoid and tanh.

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.
    """
    return _gaussian(lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)))


def he() -> Initializer:
    """Return the initialiser N(0, 2/fan_in), for ReLU.

    References
    ----------
    He, Zhang, Ren and Sun, "Delving deep into rectifiers", 2015.
    """
    return _gaussian(lambda fan_in, fan_out: math.sqrt(2 / fan_in))


LACKING = 10_000
"""Weights that a file may lack of its model: a few biases are named then, one by one."""

MOST_REPLACED = 1 << 24
"""Weights that a constructor may make and a description replaces, such as those of a large head."""


class _Budget:
    """How many weights may still be made, and whether `MOST_REPLACED` are among them."""

    def __init__(self, left: int) -> None:
        self.left, self.spare = left, False


_budget: ContextVar[_Budget | None] = ContextVar("how many weights may still be made", default=None)


@contextmanager
def at_most(weights: int) -> Iterator[None]:
    """Refuse to make more than so many weights, all layers together, inside a ``with`` block.

    So a model that is described by a file takes no more memory than the file says it does. Weights are zeros
    there, and not drawn: those of the file come in their place.

    Examples
    --------
    >>> from xpcnn import nn
    >>> with at_most(10):
    ...     nn.Linear(3, 10**9)
    Traceback (most recent call last):
        ...
    xpcnn.errors.ArgumentError: weights of shape (1000000000, 3) are more than the 10 that are there
    """
    token = _budget.set(_Budget(weights))
    try:
        yield
    finally:
        _budget.reset(token)


@contextmanager
def replacing() -> Iterator[Callable[[int], None]]:
    """Make a layer some of whose children are replaced, within `at_most`.

    Yields a function that is given the number of weights that the layer has in the end. These count, and not
    what its constructor made; at a time, `MOST_REPLACED` more may be there.
    """
    budget = _budget.get()
    if budget is None:
        yield lambda weights: None
        return
    before, spare = budget.left, budget.spare
    if not spare:
        budget.left, budget.spare = before + MOST_REPLACED, True

    def count(weights: int) -> None:
        if weights > before:
            raise ArgumentError(f"its {weights:,} weights are more than the {before:,} that are there")
        budget.left, budget.spare = before - weights, spare

    yield count


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
        if init not in ("he", "xavier"):
            raise ArgumentError(
                f"weight_init: unknown initialiser {init!r}; use 'he', 'xavier', a number or an Initializer"
            )
        init = he() if init == "he" else xavier()
    elif not callable(init):
        init = normal(real("weight_init", init, 0))
    if _counted(shape):
        backend = get_backend()
        return backend.xp.zeros(shape, dtype=backend.xp.float32, device=backend.device)
    require_possible("weight_init", "the weight", shape)
    values = init(host_generator(seed), shape, fan_in, fan_out)
    given = tuple(getattr(values, "shape", ()))
    if given != shape:
        raise ArgumentError(f"weight_init: the initialiser gave shape {given} for a weight of shape {shape}")
    return values


def constant(value: float, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return initial weights that are one number, on the current backend."""
    _counted(shape)
    backend = get_backend()
    return backend.xp.full(shape, value, dtype=backend.dtype(dtype), device=backend.device)


def _counted(shape: tuple[int, ...]) -> bool:
    """Return whether weights are counted, and take these from what is left."""
    budget = _budget.get()
    if budget is None:
        return False
    if math.prod(shape) > budget.left:
        raise ArgumentError(f"weights of shape {shape} are more than the {budget.left:,} that are there")
    budget.left -= math.prod(shape)
    return True


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
    try:
        number, *counts = (whole(name, value, 1) for value in (groups, *channels.values()))
    except ArgumentError:
        counts = []
    if not counts or any(value % number for value in counts):
        shown = " and ".join(f"{channel}={in_words(value)}" for channel, value in channels.items())
        raise ArgumentError(
            f"{layer}: {name}={in_words(groups)} must divide {shown}, all integers of at least 1 and at most "
            f"{MOST_SIZE}"
        )
    return (number, *counts)
