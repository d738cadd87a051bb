"""`reference`: the textbook instead of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xpcnn.backend.reference import reference_mode
from xpcnn.ops.conv.algorithm import check_name, conv_algorithm

__all__ = ["reference"]


@contextmanager
def reference(algorithm: str = "im2col") -> Iterator[None]:
    """Run the definitions alone inside a ``with`` block, to step through with a debugger.

    There are no kernels of a backend, no tiles, no fusion and no threads. Convolutions are one call of
    `algorithm` for each group, whatever the workspace limit. Results are the same to rounding; memory and
    time are not. (A training step still works through its batch in parts, as random masks are keyed by them.)

    Parameters
    ----------
    algorithm : str
        What convolutions use where ``"auto"`` would choose, ``"loop"`` for example. An algorithm that a call
        or a layer names itself still wins.

    Raises
    ------
    AlgorithmError
        For an unknown algorithm.

    Notes
    -----
    Local to this thread or task. Each pass runs as the place of its own call says: a backward pass inside is
    the textbook, wherever its forward pass was run. A backward pass outside keeps the algorithm of a forward
    pass inside, as with `conv_algorithm`, and nothing else of it.

    Examples
    --------
    >>> import xpcnn
    >>> x, w = xpcnn.asarray([[[[1.0, 2.0]]]]), xpcnn.asarray([[[[3.0]]]])
    >>> with xpcnn.reference():
    ...     y, ctx = xpcnn.ops.conv2d(x, w)
    >>> y, ctx.algorithm
    (array([[[[3., 6.]]]]), 'im2col')
    """
    check_name(algorithm, "reference")
    with conv_algorithm(algorithm), reference_mode():
        yield
