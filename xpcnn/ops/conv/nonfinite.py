"""Keep NaN and infinity where the definition has them, for algorithms whose transforms spread them.

A transform sums numbers that the definition keeps apart, so NaN in one pixel reaches a whole tile or image.
Such results are computed again without transforms. As products sum over the channels, what reaches one
channel of the result reaches all: it is enough to check one channel, and one place of the others.
"""

from __future__ import annotations

import math

from xpcnn.backend import Array, backend_of
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.registry import ConvAlgorithm, find

__all__ = ["DIRECT", "computed", "has_spread"]

DIRECT = ("kn2row", "im2col", "loop")
"""What computes such results again: the first that supports the geometry."""


def computed(
    pass_name: str,
    algorithm: ConvAlgorithm,
    a: Array,
    b: Array,
    geometry: ConvGeometry,
    out: Array | None = None,
) -> Array:
    """Return the result of a forward or grad_input pass; where NaN may have spread, it is computed again.

    With `out`, an algorithm may write the result there and return `out`.
    """
    if out is None:
        result: Array = getattr(algorithm, pass_name)(a, b, geometry)
    else:
        result = getattr(algorithm, f"{pass_name}_into")(out, a, b, geometry)
    if has_spread(algorithm, result):
        result = getattr(find(DIRECT[0]), pass_name)(a, b, geometry)
    return result


def has_spread(algorithm: ConvAlgorithm, result: Array) -> bool:
    """Whether NaN or infinity may have spread in a result (N, K, H, W), or (K, C, kh, kw).

    False on a device, as the check would synchronise with it.
    """
    backend = backend_of(result)
    if not algorithm.spreads or backend.cache_block is None or 0 in result.shape:
        return False
    xp = backend.xp
    return not all(math.isfinite(float(xp.sum(part))) for part in (result[:, 0, :, :], result[0, :, 0, 0]))
