"""The convolution algorithms by name: three pure functions each, and the reason why not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from xpcnn.backend import Array, Backend
from xpcnn.errors import AlgorithmError
from xpcnn.ops.checks import in_words
from xpcnn.ops.conv.geometry import ConvGeometry

__all__ = [
    "PASSES",
    "ConvAlgorithm",
    "algorithm_names",
    "conv_algorithm",
    "find",
    "register",
    "requested",
]

PASSES = ("forward", "grad_input", "grad_weight")
"""What an algorithm computes, by the names of its methods; each pass may use another algorithm."""


class ConvAlgorithm(ABC):
    """One way to compute a convolution of one group of channels.

    The driver in `tiling` cuts groups, batch and rows, so that an algorithm sees one group
    whose scratch memory fits the limit, with the geometry of just that piece. The bias is
    added outside.

    Attributes
    ----------
    name : str
    takes_groups : bool
        True where the algorithm does all groups of channels at once, better than one after the other.
    takes_half : bool
        True where the algorithm itself sums half precision in float32; others are given float32.
    in_cache : bool
        False where pieces that stay in a cache cost more than they save.
    spreads : bool
        True where NaN or infinity reaches results that the definition keeps it from; see `nonfinite`.
    larger_pieces : float
        How many times as large its pieces are as what stays in a cache: of many calls, each passes over a
        part of their scratch memory.
    """

    name: str
    takes_groups: bool = False
    takes_half: bool = False
    in_cache: bool = True
    spreads: bool = False
    larger_pieces: float = 1.0

    def unsupported(self, geometry: ConvGeometry, dtype: Any, backend: Backend) -> str | None:
        """Return why this algorithm cannot do `geometry`, or None."""
        return None

    @abstractmethod
    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        """Return the scratch memory of the hungriest of the three passes, in bytes."""

    @abstractmethod
    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        """Return y (N, K, OH, OW)."""

    @abstractmethod
    def grad_input(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        """Return dx (N, C, H, W)."""

    @abstractmethod
    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        """Return dweight (K, C, kh, kw)."""

    def forward_into(self, out: Array, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        """Return y, which is `out` if the algorithm has written it there, and fresh otherwise.

        `out` is a place for y in a larger array; nobody reads it before.
        """
        return self.forward(x, weight, geometry)

    def grad_input_into(self, out: Array, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        """Return dx likewise."""
        return self.grad_input(dy, weight, geometry)

    def grad_weight_part(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        """Return what is summed over pieces of a batch; dweight, unless that is made of something else."""
        return self.grad_weight(x, dy, geometry)

    def grad_weight_whole(self, total: Array, geometry: ConvGeometry) -> Array:
        """Return dweight (K, C, kh, kw), or what some pieces add to it, given a sum of parts of one shape.

        The geometry is that of all pieces together; its weight is theirs.
        """
        return total


_algorithms: dict[str, ConvAlgorithm] = {}
_requested: ContextVar[str] = ContextVar("xpcnn_conv_algorithm", default="auto")

Algorithm = TypeVar("Algorithm", bound=type[ConvAlgorithm])


def register(name: str) -> Any:
    """Return a class decorator that makes an algorithm known by `name`."""

    def add(algorithm: Algorithm) -> Algorithm:
        if name in _algorithms or name == "auto":
            raise AlgorithmError(f"convolution algorithm {name!r} is registered already")
        algorithm.name = name
        _algorithms[name] = algorithm()
        return algorithm

    return add


def algorithm_names() -> tuple[str, ...]:
    """Return the names `conv2d` takes as `algorithm`."""
    return ("auto", *_algorithms)


def find(name: str) -> ConvAlgorithm:
    """Return the algorithm of that name."""
    check_name(name)
    return _algorithms[name]


def check_name(name: str) -> None:
    """Require that `name` is "auto" or a registered algorithm."""
    if not isinstance(name, str) or (name != "auto" and name not in _algorithms):
        raise AlgorithmError(
            f"conv2d: unknown algorithm {in_words(name)}; known: {', '.join(algorithm_names())}"
        )


@contextmanager
def conv_algorithm(name: str) -> Iterator[None]:
    """Use the algorithm `name` wherever ``"auto"`` would choose, inside a ``with`` block.

    Local to this thread or task, and kept for the backward pass of a forward pass inside it.

    Examples
    --------
    >>> import xpcnn
    >>> x, w = xpcnn.asarray([[[[1.0, 2.0]]]]), xpcnn.asarray([[[[3.0]]]])
    >>> with xpcnn.conv_algorithm("as_strided"):
    ...     y, ctx = xpcnn.ops.conv2d(x, w)
    >>> ctx.algorithm
    'as_strided'
    """
    check_name(name)
    token = _requested.set(name)
    try:
        yield
    finally:
        _requested.reset(token)


def requested(algorithm: str) -> str:
    """Return the name asked for: the argument, or for "auto" what `conv_algorithm` says."""
    check_name(algorithm)
    return _requested.get() if algorithm == "auto" else algorithm
