"""Local response normalisation: each value against its neighbours in the channels around it."""

from __future__ import annotations

from typing import NamedTuple

from xpcnn.backend import Array, Backend
from xpcnn.ops.op import check_dy, check_rank, common_backend, op, real, upcast, whole

__all__ = ["LocalResponseNormContext", "local_response_norm"]


class LocalResponseNormContext(NamedTuple):
    """A reference to the input, from which backward finds the sums again, and the numbers of the formula."""

    x: Array
    size: int
    alpha: float
    beta: float
    k: float


@op
def local_response_norm(
    x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> tuple[Array, LocalResponseNormContext]:
    """Divide each value by a power of the energy in the `size` channels around it.

    ``y[c] = x[c] / (k + alpha/size · Σ_j x[j]²)^beta``, where j runs from ``c − size//2`` to
    ``c + (size − 1)//2`` as far as there are channels: an even window reaches one further down than up. These
    are PyTorch's conventions. The paper does not divide `alpha` by `size`: its n=5, α=1e-4, β=0.75, k=2 are
    ``size=5, alpha=5e-4, beta=0.75, k=2.0`` here.

    Parameters
    ----------
    x : array (N, C) or (N, C, ...)
        Half precision is computed in float32.
    size : int
        How many channels a window spans.
    alpha, beta, k : float
        `alpha` and `k` not negative.

    Returns
    -------
    y : array, the shape of `x`
    ctx : LocalResponseNormContext
        Keeps a reference to `x`.

    Raises
    ------
    ShapeError
        If `x` has no axis of channels.
    ArgumentError
        If `size` is not a positive integer, or `alpha` or `k` is negative.

    References
    ----------
    Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks", 2012.

    Examples
    --------
    >>> import xpcnn
    >>> y, ctx = xpcnn.ops.local_response_norm(
    ...     xpcnn.asarray([[1.0, 2.0, 0.0]]), size=3, alpha=3.0, beta=1.0, k=0.0
    ... )
    >>> y
    array([[0.2, 0.4, 0. ]])
    """
    backend = common_backend("local_response_norm", x=x)
    size, beta = whole("local_response_norm: size", size, 1), real("local_response_norm: beta", beta)
    alpha, k = real("local_response_norm: alpha", alpha, 0), real("local_response_norm: k", k, 0)
    check_rank("local_response_norm", "x", x.shape, 2, "(N, C, ...)")
    ctx = LocalResponseNormContext(x, size, alpha, beta, k)
    wide = upcast(backend, x)
    return backend.xp.astype(wide * _energy(backend, wide, ctx) ** -beta, x.dtype, copy=False), ctx


@local_response_norm.def_backward
def _local_response_norm_grad(ctx: LocalResponseNormContext, dy: Array) -> Array:
    """Return dx.

    With the energy E of the formula, ``dx[i] = dy[i]·E[i]^−β − 2αβ/size · x[i] · Σ_c dy[c]·x[c]·E[c]^(−β−1)``
    over the channels c whose windows hold i.
    """
    backend = check_dy("local_response_norm.backward", dy, ctx.x.shape, ctx.x)
    x = upcast(backend, ctx.x)
    energy = _energy(backend, x, ctx)
    direct = upcast(backend, dy) * energy**-ctx.beta
    # Channel i lies in the windows of c = i − (size − 1)//2 … i + size//2: the mirrored window.
    through = _window_sum(backend, direct * x / energy, (ctx.size - 1) // 2, ctx.size // 2)
    dx = direct - x * through * (2 * ctx.alpha * ctx.beta / ctx.size)
    return backend.xp.astype(dx, dy.dtype, copy=False)


def _energy(backend: Backend, x: Array, ctx: LocalResponseNormContext) -> Array:
    """Return ``k + alpha/size · Σ x²`` for each window."""
    energy = _window_sum(backend, x * x, ctx.size // 2, (ctx.size - 1) // 2)
    energy *= ctx.alpha / ctx.size
    energy += ctx.k
    return energy


def _window_sum(backend: Backend, x: Array, below: int, above: int) -> Array:
    """Return, for each channel of x (N, C, ...), the sum of those from `below` before to `above` after it."""
    channels = x.shape[1]
    total = backend.xp.zeros_like(x)
    total += x  # rather than a copy, which some libraries would make in another memory order
    for distance in range(1, min(channels, max(below, above) + 1)):
        if distance <= below:
            total[:, distance:, ...] += x[:, : channels - distance, ...]
        if distance <= above:
            total[:, : channels - distance, ...] += x[:, distance:, ...]
    return total
