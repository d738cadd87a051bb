"""The bound on scratch memory that every algorithm keeps by working in pieces."""

from __future__ import annotations

from xpcnn.backend import Backend
from xpcnn.errors import ArgumentError
from xpcnn.ops.checks import plain

__all__ = ["get_workspace_limit", "set_workspace_limit", "workspace_limit"]

_limit: int | None = None


def set_workspace_limit(limit: int | None) -> None:
    """Bound the scratch memory of each convolution call, in bytes, for the whole process.

    Convolutions that would need more work through the batch, then through rows of the output,
    in pieces. None restores each backend's own default: 64 MiB on a CPU, 1 GiB on a GPU.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.set_workspace_limit(16 << 20)
    >>> xpcnn.get_workspace_limit()
    16777216
    >>> xpcnn.set_workspace_limit(None)
    """
    global _limit
    limit = plain(limit)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ArgumentError(f"set_workspace_limit: limit must be a positive number of bytes, got {limit!r}")
    _limit = limit


def get_workspace_limit() -> int | None:
    """Return the limit in bytes, or None where each backend's default holds."""
    return _limit


def workspace_limit(backend: Backend) -> int:
    """Return the bytes a convolution on `backend` may use."""
    return backend.default_workspace if _limit is None else _limit
