"""Which algorithm `auto` chooses: a rule of the geometry, the pass and the backend, always the same answer.

The figures behind the rule are in docs/benchmarks/conv.md. In short, on a CPU: with 32 channels and more the
transforms of `winograd`, and for large kernels those of `fft`, cost less than the products they save. The
other algorithms all do the same products and differ in what they copy. `kn2row` copies nothing, but its
matrices are as narrow as there are channels and as short as a row of the output. Unfolded kernel rows, `mec`,
are better while they are short enough for products that BLAS multiplies in place; of a single channel, and
of few under a tall kernel, whole patches are.
"""

from __future__ import annotations

import math

from xpcnn.backend import Backend
from xpcnn.ops.conv.geometry import ConvGeometry

__all__ = ["rank_algorithms"]

WINOGRAD_MIN_CHANNELS, WINOGRAD_MIN_CHANNELS_SHORT = 32, 64  # the latter for short rows of the output
TRANSFORM_MIN_PIXELS = 256  # pixels of all outputs that a transformed kernel is used for
FFT_MIN_KERNEL, FFT_MIN_WEIGHTS = 5, 1600  # rows and columns; taps times channels
FEW_CHANNELS, TALL_KERNEL = 8, 8  # channels; rows of a kernel
SHORT_ROW = 7  # pixels in a row of the output
MEC_MAX_ROW = 160  # numbers of a kernel row


def rank_algorithms(geometry: ConvGeometry, pass_name: str, backend: Backend) -> tuple[str, ...]:
    """Return the algorithms to try in this order; the first that can do it within the workspace is taken.

    A convolution of the library itself comes first, where there is one. On other GPUs, one large GEMM
    is best; on a CPU it depends.
    """
    on_host = backend.cache_block_bytes is not None
    best = _on_cpu(geometry, pass_name) if on_host else "im2col"
    return tuple(dict.fromkeys((*backend.convolutions, best, "im2col", "kn2row", "loop")))


def _on_cpu(geometry: ConvGeometry, pass_name: str) -> str:
    one = geometry.one_group()
    if geometry.groups > 1 and one.c == 1:
        return "kn2row"  # depthwise: the only one that does all groups at once
    fewest, taps = min(one.c, one.k), math.prod(one.kernel)
    if one.stride == (1, 1) and one.n * one.oh * one.ow >= TRANSFORM_MIN_PIXELS:
        least = WINOGRAD_MIN_CHANNELS_SHORT if one.ow < SHORT_ROW else WINOGRAD_MIN_CHANNELS
        if one.kernel == (3, 3) and one.dilation == (1, 1) and fewest >= least:
            return "winograd"
        if min(one.kernel) >= FFT_MIN_KERNEL and fewest * taps >= FFT_MIN_WEIGHTS:
            return "fft"
    few = 1 < one.c < FEW_CHANNELS and one.kernel[0] < TALL_KERNEL
    if pass_name == "grad_weight":
        dense = one.stride[0] == 1 and one.c > 1
        return "mec" if (dense or few) and one.kernel != (1, 1) else "im2col"
    if one.c < FEW_CHANNELS:
        return "mec" if few or (pass_name == "grad_input" and one.c > 1) else "im2col"
    if one.ow < SHORT_ROW or one.k < FEW_CHANNELS:
        return "im2col"
    in_a_row = one.kernel[1] * (one.c if pass_name == "forward" else one.k)
    plain = one.stride == (1, 1) and one.dilation[1] == 1 and one.kernel != (1, 1)
    return "mec" if plain and in_a_row <= MEC_MAX_ROW else "kn2row"
