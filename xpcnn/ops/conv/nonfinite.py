"""NaN and infinity stay where the definition has them, by algorithms whose transforms spread them.

A transform adds numbers up that the definition keeps apart, so that NaN in one pixel reaches a whole tile, or
all of an image. Whatever reaches one channel of the result reaches all, as products sum over the channels:
looking at one channel, and at one place of the others, is enough, and costs next to nothing.
"""

from __future__ import annotations

import math

from xpcnn.backend import Array, backend_of
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.registry import ConvAlgorithm, find

__all__ = ["DIRECT", "computed", "has_spread"]

DIRECT = ("kn2row", "im2col", "loop")
"""What computes such results anew: the first that can."""


def computed(
    pass_name: str,
    algorithm: ConvAlgorithm,
    a: Array,
    b: Array,
    geometry: ConvGeometry,
    out: Array | None = None,
) -> Array:
    """Return a forward or grad_input pass of one piece, which is `out` where the algorithm has written it."""
    if out is None:
        result: Array = getattr(algorithm, pass_name)(a, b, geometry)
    else:
        result = getattr(algorithm, f"{pass_name}_into")(out, a, b, geometry)
    if has_spread(algorithm, result):
        result = getattr(find(DIRECT[0]), pass_name)(a, b, geometry)
    return result


def has_spread(algorithm: ConvAlgorithm, result: Array) -> bool:
    """Whether NaN or infinity may have spread in a result (N, K, H, W), or (K, C, kh, kw).

    On a device, where looking would wait for it, it is not looked for.
    """
    backend = backend_of(result)
    if not algorithm.spreads or backend.cache_block is None or 0 in result.shape:
        return False
    xp = backend.xp
    return not all(math.isfinite(float(xp.sum(part))) for part in (result[:, 0, :, :], result[0, :, 0, 0]))
