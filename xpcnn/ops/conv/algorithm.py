"""What a convolution algorithm is, and where one is found by its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self, TypeVar

from xpcnn import plugins
from xpcnn.backend import Array, Backend
from xpcnn.errors import AlgorithmError, PluginError
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.op import in_words

PASSES = ("forward", "grad_input", "grad_weight")
"""What an algorithm computes, by the names of its methods; each pass may use another algorithm."""

ENTRY_POINTS = "xpcnn.conv_algorithms"
"""The group of entry points in which installed packages offer algorithms of their own."""


class ConvAlgorithm(ABC):
    """One way to compute a convolution: three pure functions of arrays and a geometry.

    The executor splits groups, batch and rows. So an algorithm sees one group of channels, and a tile whose
    scratch memory fits the limit, with the geometry of just that tile. The bias is added outside.
    docs/writing-an-algorithm.md has a worked example.

    ``geometry.padding`` is four numbers: top, bottom, left, right. In a tile they differ from one another.

    Attributes
    ----------
    name : str
        Set by `register`.
    native_groups : bool
        True where the algorithm computes all groups of channels in one call, better than one after the other.
    native_half : bool
        True where the algorithm itself sums half precision in float32; others are given float32.
    cache_blocked : bool
        False where tiles that stay in a cache cost more than they save.
    spreads : bool
        True where NaN or infinity reaches results that the definition keeps it from; see `nonfinite`.
    accepts_out : bool
        True where `forward` and `grad_input` take a fourth argument ``out=None``: a place for the result in a
        larger array, which nobody reads before. They return it if they have written there.
    fuses_epilogue : bool
        True where `forward_epilogue` does what follows a convolution while the result is in a cache.
    """

    name: str
    native_groups: bool = False
    native_half: bool = False
    cache_blocked: bool = True
    spreads: bool = False
    accepts_out: bool = False
    fuses_epilogue: bool = False

    def on(self, backend: Backend) -> Self:
        """Return what computes on a backend: this itself, unless it stands for what the backend brings."""
        return self

    def unsupported(self, geometry: ConvGeometry, dtype: Any, backend: Backend) -> str | None:
        """Return why this algorithm cannot do `geometry`, or None."""
        return None

    @abstractmethod
    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        """Return the scratch memory of the pass that needs the most, in bytes."""

    @abstractmethod
    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        """Return y (N, K, OH, OW)."""

    def forward_epilogue(self, x: Array, weight: Array, geometry: ConvGeometry, epilogue: Any) -> Array:
        """Return what an `Epilogue` of the executor makes of y; called where `fuses_epilogue`."""
        raise NotImplementedError

    @abstractmethod
    def grad_input(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        """Return dx (N, C, H, W)."""

    @abstractmethod
    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        """Return dweight (K, C, kh, kw)."""


ALGORITHMS: dict[str, ConvAlgorithm] = {}
"""What is registered, by name."""

_requested: ContextVar[str] = ContextVar("xpcnn_conv_algorithm", default="auto")

requested = _requested.get
"""Return the name that `conv_algorithm` asks for; "auto" outside of it."""

Algorithm = TypeVar("Algorithm", bound=type[ConvAlgorithm])


def register(name: str) -> Callable[[Algorithm], Algorithm]:
    """Return a class decorator that makes a `ConvAlgorithm` known by `name`.

    A class of the same module and name replaces the one before: a file or a cell may be run again.

    Raises
    ------
    AlgorithmError
        For a name that is taken or no name, and for a class that is no `ConvAlgorithm` or lacks a method.

    Examples
    --------
    >>> from xpcnn import ops
    >>> @ops.conv.register("auto")
    ... class Mine(ops.conv.ConvAlgorithm):
    ...     pass
    Traceback (most recent call last):
    xpcnn.errors.AlgorithmError: register: the name 'auto' is taken; choose another one
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise AlgorithmError(
            f"register: a convolution algorithm needs a name, a word such as 'shifted', "
            f'got {in_words(name)}; write @register("shifted") above the class'
        )
    if name == "auto":
        raise AlgorithmError("register: the name 'auto' is taken; choose another one")

    def add(algorithm: Algorithm) -> Algorithm:
        new = _instance(name, algorithm)
        known = type(ALGORITHMS.setdefault(name, new))  # in one step: other threads may register one, too
        if (known.__module__, known.__qualname__) != (algorithm.__module__, algorithm.__qualname__):
            by = f"{known.__module__}.{known.__qualname__}"
            raise AlgorithmError(f"register: the name {name!r} is taken by {by}; choose another one")
        ALGORITHMS[name] = new
        return algorithm

    return add


def _instance(name: str, algorithm: Any) -> ConvAlgorithm:
    """Return an instance, of that name, of a class that is to be registered; or say what it lacks."""
    if not isinstance(algorithm, type) or not issubclass(algorithm, ConvAlgorithm):
        raise AlgorithmError(
            f"register: algorithm {name!r} must be a subclass of xpcnn.ops.conv.ConvAlgorithm, "
            f"got {in_words(algorithm)}"
        )
    try:
        instance: ConvAlgorithm = algorithm()
    except TypeError as error:  # it lacks methods, or asks for arguments
        raise AlgorithmError(f"register: algorithm {name!r} cannot be made: {error}") from None
    instance.name = name
    return instance


def algorithm_names() -> tuple[str, ...]:
    """Return the names `conv2d` takes as `algorithm`, those of installed plug-ins included."""
    names = {*ALGORITHMS, *plugins.names(ENTRY_POINTS)}
    return ("auto", *sorted(names, key=lambda name: (name != "loop", name)))


def find(name: str) -> ConvAlgorithm:
    """Return the algorithm of that name; one of a plug-in is imported now.

    Raises
    ------
    AlgorithmError
        For a name that is not known, and a plug-in that is broken.
    """
    if name not in ALGORITHMS:
        check_name(name)
        try:
            found = plugins.load(ENTRY_POINTS, name)
            if name not in ALGORITHMS:  # its module may have registered it itself, another thread meanwhile
                ALGORITHMS.setdefault(name, _instance(name, found))
        except (PluginError, AlgorithmError) as error:
            raise AlgorithmError(
                f"conv2d: algorithm {name!r} of a plug-in cannot be used: {error}"
            ) from error
    return ALGORITHMS[name]


def check_name(name: str, op: str = "conv2d") -> str:
    """Return `name`, which must be "auto" or a known algorithm; errors name `op`."""
    if not isinstance(name, str) or name not in algorithm_names():
        known = ", ".join(algorithm_names())
        raise AlgorithmError(f"{op}: unknown algorithm {in_words(name)}; known: {known}")
    return name


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
    check_name(name, "conv_algorithm")
    token = _requested.set(name)
    try:
        yield
    finally:
        _requested.reset(token)
