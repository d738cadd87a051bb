"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from xpcnn.backend import Array
from xpcnn.errors import ArgumentError
from xpcnn.ops.op import flag
from xpcnn.optim.optimizer import Groups, Optimizer, Slots, Trained, foreach
from xpcnn.optim.options import Rule, fraction, non_negative

__all__ = ["SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent, plain, with momentum [1]_ or with Nesterov's momentum [2]_.

    For a parameter p with the gradient g, and v = 0 at first::

        g ← g + weight_decay · p
        v ← momentum · v + g
        p ← p − lr · v                      plain (momentum 0): p − lr · g
        p ← p − lr · (g + momentum · v)     with nesterov

    As in PyTorch, the learning rate multiplies v when it is applied, not g when it enters v: after a change
    of lr the whole velocity moves at the new rate.

    Parameters
    ----------
    model : Layer or mapping of path to Parameter
    lr : float
    momentum : float
        In [0, 1).
    weight_decay : float
        The factor of an L2 penalty, which joins the gradient.
    nesterov : bool
        Needs a momentum above 0.
    groups : mapping of pattern to dict, optional
        Other options for some parameters; see `Optimizer`.

    References
    ----------
    .. [1] B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    .. [2] I. Sutskever, J. Martens, G. Dahl and G. Hinton, "On the importance of initialization and momentum
       in deep learning", ICML 2013.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn import nn, optim
    >>> weight = nn.Parameter([1.0, 2.0], dtype="float32")
    >>> optimizer = optim.SGD({"weight": weight}, lr=0.5, momentum=0.5)
    >>> grads = nn.Gradients()
    >>> grads.add(weight, xpcnn.asarray([1.0, -1.0], dtype="float32"))
    >>> optimizer.step(grads)
    >>> weight.data
    array([0.5, 2.5], dtype=float32)
    >>> optimizer.step(grads)
    >>> weight.data
    array([-0.25,  3.25], dtype=float32)
    """

    rules: ClassVar[Mapping[str, Rule]] = {
        "momentum": fraction,
        "weight_decay": non_negative,
        "nesterov": flag,
    }

    def __init__(
        self,
        model: Trained,
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        groups: Groups = None,
    ) -> None:
        super().__init__(
            model, lr=lr, groups=groups, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )

    def slots(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("velocity",) if options["momentum"] else ()

    def check_together(self, where: str, options: Mapping[str, Any]) -> None:
        if options["nesterov"] and not options["momentum"]:
            raise ArgumentError(f"{where}: nesterov=True needs a momentum above 0, such as momentum=0.9")

    @foreach("sgd_step")
    def update(self, data: Array, gradient: Array, state: Slots, steps: int, **options: Any) -> Array:
        momentum, weight_decay = options["momentum"], options["weight_decay"]
        if weight_decay:
            gradient = gradient + weight_decay * data
        if momentum:
            state["velocity"] *= momentum
            state["velocity"] += gradient
            ahead = gradient + momentum * state["velocity"] if options["nesterov"] else state["velocity"]
            gradient = ahead
        data -= options["lr"] * gradient
        return data
