"""AdaGrad: a learning rate for each weight, falling with the gradients it has met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from xpcnn.backend import Array, namespace
from xpcnn.optim.optimizer import Groups, Optimizer, Slots, Trained, foreach
from xpcnn.optim.options import Rule, non_negative

__all__ = ["AdaGrad"]


class AdaGrad(Optimizer):
    """AdaGrad [1]_: steps shrink with the sum of all squared gradients so far.

    For a parameter p with the gradient g, and h = 0 at first::

        g ← g + weight_decay · p
        h ← h + g²
        p ← p − lr · g / (√h + eps)

    Parameters
    ----------
    model : Layer or mapping of path to Parameter
    lr : float
    eps : float
        Added to the root; keeps weights without gradients from dividing by 0.
    weight_decay : float
        The factor of an L2 penalty, which joins the gradient.
    groups : mapping of pattern to dict, optional
        Other options for some parameters; see `Optimizer`.

    References
    ----------
    .. [1] J. Duchi, E. Hazan and Y. Singer, "Adaptive subgradient methods for online learning and stochastic
       optimization", JMLR 12, 2011.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn import nn, optim
    >>> weight = nn.Parameter([1.0, 2.0], dtype="float32")
    >>> optimizer = optim.AdaGrad({"weight": weight}, lr=0.5)
    >>> grads = nn.Gradients()
    >>> grads.add(weight, xpcnn.asarray([10.0, -0.1], dtype="float32"))
    >>> optimizer.step(grads)
    >>> weight.data
    array([0.5, 2.5], dtype=float32)
    """

    rules: ClassVar[Mapping[str, Rule]] = {"eps": non_negative, "weight_decay": non_negative}

    def __init__(
        self,
        model: Trained,
        lr: float = 0.01,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        groups: Groups = None,
    ) -> None:
        super().__init__(model, lr=lr, groups=groups, eps=eps, weight_decay=weight_decay)

    def slots(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("h",)

    @foreach("adagrad_step")
    def update(self, data: Array, gradient: Array, state: Slots, steps: int, **options: Any) -> Array:
        weight_decay = options["weight_decay"]
        if weight_decay:
            gradient = gradient + weight_decay * data
        state["h"] += gradient * gradient
        change = namespace(data).sqrt(state["h"])
        change += options["eps"]
        change = gradient / change
        change *= options["lr"]
        data -= change
        return data
