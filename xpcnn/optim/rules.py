"""The update rules: SGD, AdaGrad, RMSprop, Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from xpcnn.backend import Array, namespace
from xpcnn.errors import ArgumentError
from xpcnn.ops.op import flag
from xpcnn.optim.optimizer import Optimizer, Slots, foreach
from xpcnn.optim.options import Rules, fraction, non_negative, two_fractions

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "RMSprop"]


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

    rules = Rules(
        lr=(0.01, non_negative),
        momentum=(0.0, fraction),
        weight_decay=(0.0, non_negative),
        nesterov=(False, flag),
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

    rules = Rules(lr=(0.01, non_negative), eps=(1e-10, non_negative), weight_decay=(0.0, non_negative))

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

    rules = Rules(
        lr=(0.01, non_negative),
        alpha=(0.99, fraction),
        eps=(1e-8, non_negative),
        momentum=(0.0, fraction),
        weight_decay=(0.0, non_negative),
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


class Adam(Optimizer):
    """Adam [1]_: running means of the gradient and of its square, corrected for their start at 0.

    For a parameter p with the gradient g at its update number t, and m = v = 0 at first::

        g ← g + weight_decay · p
        m ← beta1 · m + (1 − beta1) · g
        v ← beta2 · v + (1 − beta2) · g²
        p ← p − lr / (1 − beta1ᵗ) · m / (√v / √(1 − beta2ᵗ) + eps)

    t counts the updates of each parameter on its own, so one that is unfrozen late starts as any other.

    Parameters
    ----------
    model : Layer or mapping of path to Parameter
    lr : float
    betas : (float, float)
        How much of each running mean is kept at a step, both in [0, 1).
    eps : float
        Added to the corrected root.
    weight_decay : float
        The factor of an L2 penalty, which joins the gradient. `AdamW` keeps the two apart.
    groups : mapping of pattern to dict, optional
        Other options for some parameters; see `Optimizer`.

    References
    ----------
    .. [1] D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn import nn, optim
    >>> weight = nn.Parameter([1.0, 2.0], dtype="float32")
    >>> optimizer = optim.Adam({"weight": weight}, lr=0.5)
    >>> grads = nn.Gradients()
    >>> grads.add(weight, xpcnn.asarray([10.0, -0.1], dtype="float32"))
    >>> optimizer.step(grads)
    >>> weight.data
    array([0.5, 2.5], dtype=float32)
    """

    rules = Rules(
        lr=(1e-3, non_negative),
        betas=((0.9, 0.999), two_fractions),
        eps=(1e-8, non_negative),
        weight_decay=(0.0, non_negative),
    )

    def slots(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("m", "v")

    @foreach("adam_step")
    def update(self, data: Array, gradient: Array, state: Slots, steps: int, **options: Any) -> Array:
        (beta1, beta2), weight_decay = options["betas"], options["weight_decay"]
        if weight_decay:
            gradient = gradient + weight_decay * data
        # One name for every intermediate lets the allocator reuse memory that is in the cache: with four
        # alive at once, most of the time goes into fresh pages (6 times slower for 430,000 weights on NumPy).
        change = gradient - state["m"]
        change *= 1 - beta1
        state["m"] += change
        change = gradient * gradient
        change *= 1 - beta2
        state["v"] *= beta2
        state["v"] += change
        change = namespace(data).sqrt(state["v"])
        change /= math.sqrt(1 - beta2**steps)
        change += options["eps"]
        change = state["m"] / change
        change *= options["lr"] / (1 - beta1**steps)
        data -= change
        return data


class AdamW(Adam):
    """Adam with decoupled weight decay [1]_: weights shrink by themselves, not through the gradient.

    ``p ← (1 − lr · weight_decay) · p``, and then Adam's update without weight decay.

    Parameters
    ----------
    model : Layer or mapping of path to Parameter
    lr : float
    betas : (float, float)
    eps : float
        These as in `Adam`.
    weight_decay : float
        The part of each weight that is taken away at a step, for a learning rate of 1.
    groups : mapping of pattern to dict, optional
        Other options for some parameters; see `Optimizer`. Biases and normalisation weights are often spared:
        ``{"*.bias": {"weight_decay": 0.0}}``.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn import nn, optim
    >>> weight = nn.Parameter([1.0, 2.0], dtype="float32")
    >>> optimizer = optim.AdamW({"weight": weight}, lr=0.5, weight_decay=0.5)
    >>> grads = nn.Gradients()
    >>> grads.add(weight, xpcnn.asarray([10.0, -0.1], dtype="float32"))
    >>> optimizer.step(grads)
    >>> weight.data
    array([0.25, 2.  ], dtype=float32)
    """

    rules = Rules(Adam.rules, weight_decay=(0.01, non_negative))

    @foreach("adamw_step")
    def update(self, data: Array, gradient: Array, state: Slots, steps: int, **options: Any) -> Array:
        if options["weight_decay"]:
            data *= 1 - options["lr"] * options["weight_decay"]
        return super().update(data, gradient, state, steps, **{**options, "weight_decay": 0.0})
