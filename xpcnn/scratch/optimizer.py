"""The book's optimisers (``common/optimizer.py``), whose ``update(params, grads)`` changes `params` in place.

`SGD`, `Momentum`, `AdaGrad` and `RMSprop` drive the core's. `Nesterov` and `Adam` have the book's own
formulas, which differ from the core's and from PyTorch's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from xpcnn import optim
from xpcnn.arguments import real
from xpcnn.backend import Array, asarray, backend_of, dtype_name, is_array, native
from xpcnn.errors import ArgumentError, DtypeError
from xpcnn.nn import Gradients, Parameter
from xpcnn.ops.op import upcast
from xpcnn.scratch._arrays import cast_like, is_floating
from xpcnn.scratch._namespace import np

__all__ = ["SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "RMSprop", "np"]

_EPS = 1e-7


@dataclass(eq=False, repr=False)
class _BookOptimizer(ABC):
    """What the optimisers share: reading and writing the two dictionaries.

    Parameters may be floating arrays of any backend, which keep their identity and dtype, or plain numbers,
    whose entries are replaced. Gradients are taken in the dtype of their parameter. Half precision is updated
    in float32 and then rounded. Options are held as floats: NumPy's float64 would turn float32 arrays into
    float64.
    """

    lr: float = 0.01

    def __setattr__(self, name: str, value: Any) -> None:
        option = name in ("lr", "momentum", "decay_rate", "beta1", "beta2")
        super().__setattr__(name, real(f"{type(self).__name__}: {name}", value) if option else value)

    def update(self, params: MutableMapping[str, Any], grads: Mapping[str, Any]) -> None:
        """Change each parameter by its gradient.

        Raises
        ------
        DtypeError
            When a parameter is not floating. Nothing is changed then.
        ArgumentError
            When `params` or `grads` is no dictionary, or a parameter no array.
        """
        where = f"{type(self).__name__}.update"
        for name, value in (("params", params), ("grads", grads)):
            if not isinstance(value, Mapping):
                raise ArgumentError(f"{where}: {name} must be a dictionary, got {type(value).__name__}")
        old = {key: _as_array(where, key, value) for key, value in params.items()}
        slopes = {key: cast_like(_as_number(grads[key]), value) for key, value in old.items()}
        for key, new in self._new_values(old, slopes).items():
            if isinstance(params[key], Real):
                params[key] = float(new)
            else:
                params[key][...] = cast_like(new, params[key])

    def _new_values(self, params: dict[str, Array], grads: dict[str, Array]) -> dict[str, Array]:
        return {key: self._step(key, params[key], slope) for key, slope in grads.items()}

    @abstractmethod
    def _step(self, key: str, p: Array, g: Array) -> Array:
        """Return a parameter after a step, as a new array."""


def _as_array(where: str, key: str, value: Any) -> Array:
    """Return a parameter in the dtype it is updated in."""
    value = _as_number(value)
    if not is_array(value):
        raise ArgumentError(
            f"{where}: params[{key!r}] must be an array or a number, got {type(value).__name__}"
        )
    if not is_floating(value):
        raise DtypeError(
            f"{where}: params[{key!r}] must be floating, as a step changes it by fractions, got "
            f"{dtype_name(value.dtype)}; convert it: params[{key!r}] = params[{key!r}].astype('float32')"
        )
    return upcast(backend_of(value), value)


def _as_number(value: Any) -> Any:
    return native(asarray(float(value)) if isinstance(value, Real) else value)


@dataclass(eq=False, repr=False)
class _CoreOptimizer(_BookOptimizer):
    """One of the core's optimisers for each key, made when the key is first seen.

    So one object may serve several networks, as in the book's comparisons.
    """

    _cores: dict[str, tuple[Parameter, optim.Optimizer]] = field(default_factory=dict, init=False)

    @abstractmethod
    def _make(self, parameters: dict[str, Parameter]) -> optim.Optimizer:
        """Return the core's optimiser of a parameter."""

    def _step(self, key: str, p: Array, g: Array, lr: float | None = None) -> Array:
        if key not in self._cores:
            parameter = Parameter(0.0)
            self._cores[key] = parameter, self._make({key: parameter})
        parameter, core = self._cores[key]
        parameter.data, core.lr = p, self.lr if lr is None else lr
        grads = Gradients()
        grads.add(parameter, g)
        core.step(grads)
        return parameter.data


class SGD(_CoreOptimizer):
    """Stochastic gradient descent: ``p ← p − lr · g``.

    Examples
    --------
    >>> from xpcnn.scratch.optimizer import SGD, np
    >>> params = {"W1": np.array([1.0, 2.0])}
    >>> SGD(lr=0.5).update(params, {"W1": np.array([1.0, -1.0])})
    >>> params["W1"]
    array([0.5, 2.5])
    """

    def _make(self, parameters: dict[str, Parameter]) -> optim.Optimizer:
        return optim.SGD(parameters)


@dataclass(eq=False, repr=False)
class Momentum(_CoreOptimizer):
    """Descent with momentum: ``v ← momentum · v − lr · g``, ``p ← p + v``.

    The learning rate enters the velocity; in the core it multiplies the velocity when that is applied.
    """

    momentum: float = 0.9

    def _make(self, parameters: dict[str, Parameter]) -> optim.Optimizer:
        return optim.SGD(parameters, momentum=self.momentum)

    def _step(self, key: str, p: Array, g: Array, lr: float | None = 1.0) -> Array:
        return super()._step(key, p, self.lr * g, lr)


class AdaGrad(_CoreOptimizer):
    """AdaGrad: ``h ← h + g²``, ``p ← p − lr · g / (√h + 1e-7)``."""

    def _make(self, parameters: dict[str, Parameter]) -> optim.Optimizer:
        return optim.AdaGrad(parameters, eps=_EPS)


@dataclass(eq=False, repr=False)
class RMSprop(_CoreOptimizer):
    """RMSprop: ``h ← decay_rate · h + (1 − decay_rate) · g²``, ``p ← p − lr · g / (√h + 1e-7)``."""

    decay_rate: float = 0.99

    def _make(self, parameters: dict[str, Parameter]) -> optim.Optimizer:
        return optim.RMSprop(parameters, alpha=self.decay_rate, eps=_EPS)


@dataclass(eq=False, repr=False)
class Nesterov(_BookOptimizer):
    """Nesterov's momentum in the book's form, of which PyTorch's and the core's is a close relative.

    ``v ← momentum · v − lr · g``, ``p ← p + momentum² · v − (1 + momentum) · lr · g``.

    References
    ----------
    Bengio, Boulanger-Lewandowski and Pascanu, "Advances in optimizing recurrent networks", 2012.

    Examples
    --------
    >>> from xpcnn.scratch.optimizer import Nesterov, np
    >>> params = {"W1": np.array([1.0])}
    >>> Nesterov(lr=0.5, momentum=0.5).update(params, {"W1": np.array([1.0])})
    >>> params["W1"]
    array([0.125])
    """

    momentum: float = 0.9
    v: dict[str, Array] | None = field(default=None, init=False)

    def _step(self, key: str, p: Array, g: Array) -> Array:
        self.v = self.v or {}
        momentum, step = self.momentum, self.lr * g
        self.v[key] = momentum * self.v.get(key, 0.0) - step
        return p + momentum * momentum * self.v[key] - (1 + momentum) * step


@dataclass(eq=False, repr=False)
class Adam(_BookOptimizer):
    """Adam with the book's small number, which is added to the root before the root is corrected.

    ``m ← m + (1 − beta1)(g − m)``, ``v ← v + (1 − beta2)(g² − v)``, and with t the number of the update
    ``p ← p − lr · √(1 − beta2ᵗ) / (1 − beta1ᵗ) · m / (√v + 1e-7)``.

    References
    ----------
    Kingma and Ba, "Adam: a method for stochastic optimization", 2015.

    Examples
    --------
    >>> from xpcnn.scratch.optimizer import Adam, np
    >>> params = {"W1": np.array([1.0, 2.0])}
    >>> Adam(lr=0.5).update(params, {"W1": np.array([10.0, -0.1])})
    >>> params["W1"].round(4)
    array([0.5, 2.5])
    """

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    iter: int = field(default=0, init=False)
    m: dict[str, Array] | None = field(default=None, init=False)
    v: dict[str, Array] | None = field(default=None, init=False)

    def _new_values(self, params: dict[str, Array], grads: dict[str, Array]) -> dict[str, Array]:
        self.iter += 1
        return super()._new_values(params, grads)

    def _step(self, key: str, p: Array, g: Array) -> Array:
        self.m, self.v = self.m or {}, self.v or {}
        m, v = self.m.get(key, 0.0), self.v.get(key, 0.0)
        self.m[key] = m + (1 - self.beta1) * (g - m)
        self.v[key] = v + (1 - self.beta2) * (g * g - v)
        rate = self.lr * math.sqrt(1 - self.beta2**self.iter) / (1 - self.beta1**self.iter)
        return p - rate * self.m[key] / (backend_of(g).xp.sqrt(self.v[key]) + _EPS)
