"""Clipping: bounding the norm of gradients before the optimiser applies them."""

from __future__ import annotations

from xpcnn.backend import Array, backend_of, dtype_name, get_backend
from xpcnn.nn import Gradients
from xpcnn.ops.op import positive
from xpcnn.optim.optimizer import require_store

__all__ = ["clip_grad_norm"]


def clip_grad_norm(grads: Gradients, max_norm: float) -> Array:
    """Scale all gradients by one factor, so that their common Euclidean norm is at most `max_norm` [1]_.

    With the norm n over every number in the store, each gradient is multiplied by
    ``min(max_norm / (n + 1e-6), 1)``, as in PyTorch. Nothing is read to the host. A gradient with an infinity
    makes the factor 0, one with NaN makes it NaN, as in PyTorch: the returned norm tells of both.

    Parameters
    ----------
    grads : nn.Gradients
        Its gradients are replaced by scaled ones of the same dtype; the arrays that were there keep their
        values.
    max_norm : float
        Above 0.

    Returns
    -------
    norm : 0-d array
        The norm before scaling, on the gradients' device: float64 where any gradient is, otherwise float32,
        in which float16 and bfloat16 are summed. For an empty store, 0 on the current backend.

    Raises
    ------
    ArgumentError
        When `max_norm` is not a number above 0, or `grads` no store.
    BackendError
        When gradients are of two libraries or on two devices. None is scaled then.

    References
    ----------
    .. [1] R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks",
       ICML 2013.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn import nn, optim
    >>> weight, grads = nn.Parameter([0.0, 0.0]), nn.Gradients()
    >>> grads.add(weight, xpcnn.asarray([30.0, 40.0]))
    >>> optim.clip_grad_norm(grads, max_norm=5.0)
    array(50.)
    >>> grads[weight].round(4)
    array([3., 4.])
    """
    max_norm = positive("clip_grad_norm: max_norm", max_norm)
    require_store("clip_grad_norm", grads)
    gradients = [gradient for _, gradient in grads.items()]
    backend = backend_of(*gradients) if gradients else get_backend()
    xp = backend.xp
    wide = xp.float64 if any(dtype_name(g.dtype) == "float64" for g in gradients) else xp.float32
    total = xp.zeros((), dtype=wide, device=backend.device)
    for gradient in gradients:
        gradient = xp.astype(gradient, wide, copy=False)
        total = total + xp.sum(gradient * gradient)
    norm = xp.sqrt(xp.asarray(total))
    factor = max_norm / (norm + 1e-6)
    factor = xp.minimum(factor, xp.ones_like(factor))
    for parameter, gradient in list(grads.items()):
        scaled = xp.astype(gradient, wide, copy=False) * factor
        grads.replace(parameter, xp.astype(scaled, gradient.dtype, copy=False))
    return xp.asarray(norm)
