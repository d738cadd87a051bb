"""RMSprop: a learning rate for each weight, by the recent size of its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from xpcnn.backend import Array, namespace
from xpcnn.optim.optimizer import Groups, Optimizer, Slots, Trained, foreach
from xpcnn.optim.options import Rule, fraction, non_negative

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """RMSprop [1]_: gradients divided by the root of a running mean of their squares.

    For a parameter p with the gradient g, and v = u = 0 at first::

        g ← g + weight_decay · p
        v ← alpha · v + (1 − alpha) · g²
        d ← g / (√v + eps)
        u ← momentum · u + d
        p ← p − lr · u                      with momentum 0: p − lr · d

    Parameters
    ----------
    model : Layer or mapping of path to Parameter
    lr : float
    alpha : float
        How much of the running mean is kept at each step, in [0, 1).
    eps : float
        Added to the root; keeps weights without gradients from dividing by 0.
    momentum : float
        In [0, 1).
    weight_decay : float
        The factor of an L2 penalty, which joins the gradient.
    groups : mapping of pattern to dict, optional
        Other options for some parameters; see `Optimizer`.

    References
    ----------
    .. [1] T. Tieleman and G. Hinton, "Lecture 6.5: RMSprop", Neural Networks for Machine Learning, 2012.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn import nn, optim
    >>> weight = nn.Parameter([1.0, 2.0], dtype="float32")
    >>> optimizer = optim.RMSprop({"weight": weight}, lr=0.25, alpha=0.75)
    >>> grads = nn.Gradients()
    >>> grads.add(weight, xpcnn.asarray([10.0, -0.1], dtype="float32"))
    >>> optimizer.step(grads)
    >>> weight.data
    array([0.5, 2.5], dtype=float32)
    """

    rules: ClassVar[Mapping[str, Rule]] = {
        "alpha": fraction,
        "eps": non_negative,
        "momentum": fraction,
        "weight_decay": non_negative,
    }

    def __init__(
        self,
        model: Trained,
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        groups: Groups = None,
    ) -> None:
        super().__init__(
            model, lr=lr, groups=groups, alpha=alpha, eps=eps, momentum=momentum, weight_decay=weight_decay
        )

    def slots(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("v", "velocity") if options["momentum"] else ("v",)

    @foreach("rmsprop_step")
    def update(self, data: Array, gradient: Array, state: Slots, steps: int, **options: Any) -> Array:
        lr, alpha, momentum = options["lr"], options["alpha"], options["momentum"]
        weight_decay = options["weight_decay"]
        if weight_decay:
            gradient = gradient + weight_decay * data
        change = gradient * gradient
        change *= 1 - alpha
        state["v"] *= alpha
        state["v"] += change
        change = namespace(data).sqrt(state["v"])
        change += options["eps"]
        change = gradient / change
        if momentum:
            state["velocity"] *= momentum
            state["velocity"] += change
            change = lr * state["velocity"]
        else:
            change *= lr
        data -= change
        return data
