"""Averaging the weights that training passes through."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from xpcnn.backend import Array, home_of, is_floating
from xpcnn.errors import ArgumentError
from xpcnn.nn import Layer
from xpcnn.nn.parameter import State
from xpcnn.ops.op import whole
from xpcnn.optim.options import copy_like, fraction, load_arrays, saved_state

__all__ = ["WeightAverage"]


class WeightAverage:
    """An exponential moving average of a model's weights [1]_, which often tests better than the last ones.

    Update number n, counted from 0, moves each average a towards the present weight p::

        d = min(decay, (1 + n) / (10 + n))
        a ← a + (1 − d) · (p − a)

    The smaller d of the first updates forgets the initial weights, from which the averages start, within a
    few dozen of them, however close to 1 `decay` is: no trace of them is left to correct for. Weights that do
    not change are their own average, to the last bit.

    Floating parameters and buffers (batch-norm's statistics) are averaged; integer buffers are copied.
    float16 and bfloat16 are averaged in float32 and rounded for `model`: their own steps are too coarse.

    Parameters
    ----------
    model : Layer
        The one that is trained. Its parameters are looked up now: layers replaced later are not noticed.
        After it is moved to another backend, device or dtype, the next update moves the averages there.
    decay : float
        In [0, 1). About 1 / (1 − decay) updates are averaged.

    Attributes
    ----------
    model : Layer
        A deep copy that holds the averages: evaluate it, save it. Read its weights only; what is written into
        it is lost at the next update.
    source : Layer
        The model that is trained.
    decay : float
    count : int
        The updates so far.

    Raises
    ------
    ArgumentError
        When `model` is no layer, or `decay` outside [0, 1).

    References
    ----------
    .. [1] B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM
       Journal on Control and Optimization 30, 1992.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn import nn, optim
    >>> model = nn.Sequential(fc=nn.Linear(1, 1, weight_init=0.0))
    >>> average = optim.WeightAverage(model, decay=0.5)
    >>> for _ in range(3):
    ...     model.fc.weight.data = model.fc.weight.data + 1  # what an optimiser does
    ...     average.update()
    >>> average.model.fc.weight.data.round(3)
    array([[2.7]], dtype=float32)
    """

    def __init__(self, model: Layer, decay: float = 0.999) -> None:
        if not isinstance(model, Layer):
            raise ArgumentError(f"WeightAverage: model must be a Layer, got {type(model).__name__}")
        self.decay = fraction("WeightAverage: decay", decay)
        self.source = model
        self.model = copy.deepcopy(model)
        self.count = 0
        self._sources: dict[str, State] = {**model.parameters(), **model.buffers()}
        self._targets: dict[str, State] = {**self.model.parameters(), **self.model.buffers()}
        self._averages = {path: copy_like(source, source.data) for path, source in self._sources.items()}

    def update(self) -> None:
        """Take in the model's present weights. Call this after each ``optimizer.step(grads)``."""
        keep = min(self.decay, (1 + self.count) / (10 + self.count))
        moved = {}
        for path, source in self._sources.items():
            # A new array each time: contexts of forward passes through `model` may hold the old one.
            new = copy_like(source, source.data)
            if is_floating(new.dtype):
                old = home_of(new).asarray(self._averages[path], new.dtype)  # where the model is by now
                new -= old
                new *= 1 - keep
                new += old
            moved[path] = new
        self._set(moved)
        self.count += 1

    def _set(self, averages: dict[str, Array]) -> None:
        self._averages = averages
        for path, source in self._sources.items():
            self._targets[path].data = home_of(averages[path]).asarray(averages[path], source.data.dtype)

    # -- saved state ------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return copies of everything it takes to go on bit for bit.

        Returns
        -------
        dict
            ``decay``, ``count``, and ``averages``: arrays by path, float32 for a float16 or bfloat16 model.
        """
        return {
            "decay": self.decay,
            "count": self.count,
            "averages": {path: home_of(a).copy(a) for path, a in self._averages.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Parameters
        ----------
        state : mapping
            The arrays may be of any library; they are copied to the device and dtype of the trained model.

        Raises
        ------
        StateDictError
            When decay, paths or shapes differ. All differences are named, and nothing is loaded.
        """
        with saved_state("WeightAverage.load_state_dict", "a WeightAverage") as problems:
            updates, decay = whole("count", state["count"], 0), fraction("decay", state["decay"])
            if decay != self.decay:
                problems.append(f"decay: saved {decay}, here {self.decay}")
            loaded = load_arrays(problems, self._sources, state["averages"])
        self.count = updates
        self._set(loaded)

    def __repr__(self) -> str:
        return f"WeightAverage({type(self.model).__name__}, decay={self.decay}, count={self.count})"
