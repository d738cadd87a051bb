"""Which algorithm `auto` takes: a rule of the geometry, the pass and the backend, always the same answer.

The figures behind the rule are in docs/benchmarks/conv.md. In short, on a CPU: with 32 channels and more the
transforms of `winograd`, and for large kernels those of `fft`, cost less than the products they save. The
other algorithms all do the same products and differ in what they copy. `kn2row` copies nothing, but its
matrices are as narrow as there are channels and as short as a row of the output. Unfolded kernel rows, `mec`,
are better while they are short enough for products that BLAS multiplies in place; of a single channel, and
of few under a tall kernel, whole patches are.
"""

from __future__ import annotations

import math
from typing import Any

from xpcnn.backend import Backend
from xpcnn.ops.conv.geometry import ConvGeometry

__all__ = ["preference"]

MANY, MANY_IF_SHORT = 32, 64  # channels
NARROW, TALL = 8, 8  # channels; rows of a kernel
SHORT = 7  # pixels in a row of the output
WORTH_TRANSFORMING = 256  # pixels of all outputs that a transformed kernel is used for
MANY_IN_A_ROW = 160  # numbers of a kernel row
LARGE = 1600  # taps times channels, of a kernel of 5x5 or more


def preference(geometry: ConvGeometry, pass_name: str, dtype: Any, backend: Backend) -> tuple[str, ...]:
    """Return the algorithms to try in this order; the first that can do it within the workspace is taken.

    A convolution that the library brings along comes first, where there is one. On other GPUs, one large GEMM
    is best; on a CPU it depends.
    """
    on_host = backend.cache_block is not None
    best = _on_cpu(geometry, pass_name) if on_host else "im2col"
    return tuple(dict.fromkeys((*backend.convolutions, best, "im2col", "kn2row", "loop")))


def _on_cpu(geometry: ConvGeometry, pass_name: str) -> str:
    one = geometry.one_group()
    if geometry.groups > 1 and one.c == 1:
        return "kn2row"  # depthwise: the only one that does all groups at once
    fewest, taps = min(one.c, one.k), math.prod(one.kernel)
    if one.stride == (1, 1) and one.n * one.oh * one.ow >= WORTH_TRANSFORMING:
        many = MANY_IF_SHORT if one.ow < SHORT else MANY
        if one.kernel == (3, 3) and one.dilation == (1, 1) and fewest >= many:
            return "winograd"
        if min(one.kernel) >= 5 and fewest * taps >= LARGE:
            return "fft"
    few = 1 < one.c < NARROW and one.kernel[0] < TALL
    if pass_name == "grad_weight":
        dense = one.stride[0] == 1 and one.c > 1
        return "mec" if (dense or few) and one.kernel != (1, 1) else "im2col"
    if one.c < NARROW:
        return "mec" if few or (pass_name == "grad_input" and one.c > 1) else "im2col"
    if one.ow < SHORT or one.k < NARROW:
        return "im2col"
    in_a_row = one.kernel[1] * (one.c if pass_name == "forward" else one.k)
    plain = one.stride == (1, 1) and one.dilation[1] == 1 and one.kernel != (1, 1)
    return "mec" if plain and in_a_row <= MANY_IN_A_ROW else "kn2row"
