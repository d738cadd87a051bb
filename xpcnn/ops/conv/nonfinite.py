"""Keep NaN and infinity where the definition has them, for algorithms whose transforms spread them.

A transform sums numbers that the definition keeps apart, so NaN in one pixel reaches a whole tile or image.
Such results are computed again without transforms. As products sum over the channels, what reaches one
channel of the result reaches all: it is enough to check one channel, and one place of the others.
"""

from __future__ import annotations

import math

from xpcnn.backend import Array, Backend

__all__ = ["DIRECT", "has_spread"]

DIRECT = ("kn2row", "im2col", "loop")
"""What computes such results again: the first that supports the geometry."""


def has_spread(backend: Backend, result: Array) -> bool:
    """Whether NaN or infinity may have spread in a result (N, K, H, W), or (K, C, kh, kw).

    False on a device, as the check would synchronise with it.
    """
    if backend.cache_block_bytes is None or 0 in result.shape:
        return False
    xp = backend.xp
    return not all(math.isfinite(float(xp.sum(part))) for part in (result[:, 0, :, :], result[0, :, 0, 0]))
