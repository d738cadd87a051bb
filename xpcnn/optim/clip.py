"""Clipping: bounding gradients before the optimiser applies them."""

from __future__ import annotations

from xpcnn.backend import Array, backend_of, dtype_name, get_backend
from xpcnn.nn import Gradients
from xpcnn.ops.op import check_backend, positive, require_array
from xpcnn.optim.optimizer import require_store

__all__ = ["clip_grad_norm", "clip_grad_value"]


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
    gradients = [require_array("clip_grad_norm", "gradient", gradient) for _, gradient in grads.items()]
    backend = backend_of(gradients[0]) if gradients else get_backend()
    for gradient in gradients:
        check_backend("clip_grad_norm", "a gradient", backend, "another", gradient)
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


def clip_grad_value(grads: Gradients, limit: float) -> None:
    """Bound every number of every gradient to [−limit, limit]; NaN stays NaN.

    Parameters
    ----------
    grads : nn.Gradients
        Its gradients are replaced by clipped ones of the same dtype; the arrays that were there keep their
        values.
    limit : float
        Above 0.

    Raises
    ------
    ArgumentError
        When `limit` is not a number above 0, or `grads` no store.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn import nn, optim
    >>> weight, grads = nn.Parameter([0.0, 0.0, 0.0]), nn.Gradients()
    >>> grads.add(weight, xpcnn.asarray([-3.0, 0.25, 40.0]))
    >>> optim.clip_grad_value(grads, limit=0.5)
    >>> grads[weight]
    array([-0.5 ,  0.25,  0.5 ])
    """
    limit = positive("clip_grad_value: limit", limit)
    require_store("clip_grad_value", grads)
    for parameter, gradient in list(grads.items()):
        backend = backend_of(require_array("clip_grad_value", "gradient", gradient))
        xp = backend.xp
        largest = float(xp.finfo(gradient.dtype).max)  # a limit beyond it is no number of this dtype
        bound = xp.asarray(min(limit, largest), dtype=gradient.dtype, device=backend.device)
        # Not `clip`, whose portable version writes through a mask, which waits for a GPU.
        clipped = xp.maximum(xp.minimum(gradient, bound), -bound)
        grads.replace(parameter, xp.asarray(clipped))
