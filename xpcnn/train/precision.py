"""What a training step computes in, and that a step which is not finite changes nothing.

Where reading a value would wait for a device, the host reads nothing: the loss scale, its count of good steps
and the flag of a step are 0-d arrays on the device, and `where` takes the step back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from xpcnn.backend import Array, Key, backend_of, dtype_name, home_of, is_floating, namespace
from xpcnn.errors import ArgumentError, BackendError, DtypeError
from xpcnn.nn import Gradients, Layer
from xpcnn.nn.value_and_grad import ValueAndGrad
from xpcnn.optim import Optimizer, WeightAverage
from xpcnn.train.amp import LowPrecisionModel
from xpcnn.train.divergence import Problem, find_problem, finite_gradients, finite_rows
from xpcnn.train.loss_scale import SMALLEST_SCALE, LossScale

__all__ = ["UNREAD", "Precision", "precision_of"]

UNREAD = 10
"""Losses are read from a device so many at a time, as reading one waits for it."""


def precision_of(model: Layer, dtype: Any) -> Precision:
    """Return how a `Trainer` with that argument `dtype` computes its steps.

    Raises
    ------
    ArgumentError
        For a dtype that is neither half precision nor None.
    DtypeError
        When a parameter of the model is not float32.
    BackendError
        When the model's backend has no such dtype.
    """
    if dtype is None:
        return Precision(model)
    name = dtype_name(dtype)
    if name not in ("float16", "bfloat16"):
        raise ArgumentError(
            f"Trainer: dtype must be 'float16', 'bfloat16' or None, got {name!r}; None computes in the "
            f"model's own dtype"
        )
    for path, parameter in model.parameters().items():
        if dtype_name(parameter.dtype) != "float32":
            raise DtypeError(
                f"Trainer: dtype={name!r} trains float32 parameters, but {path} is "
                f"{dtype_name(parameter.dtype)}; call model.to(dtype='float32') before making the optimiser"
            )
    try:
        model.backend.dtype(name)
    except BackendError as error:
        raise BackendError(f"Trainer: dtype={name!r}: {error}; use float32, or another backend") from None
    return Float16(model) if name == "float16" else Precision(model, LowPrecisionModel(model, name))


class Precision:
    """Steps of which one that is not finite changes nothing.

    Where values are on the host, `problem` names what is not finite in a step, and the step is not to be
    applied. Where looking would wait for a device, `updating` takes such a step back there.

    Parameters
    ----------
    model : Layer
        Whose parameters are trained.
    computing : LowPrecisionModel, optional
        What computes for it in half precision.
    """

    patience = 1
    """So many losses in a row that are not finite are a divergence."""

    loss_scale: LossScale | None = None

    problem: Problem | None = None
    """What is not finite in the step at hand."""

    def __init__(self, model: Layer, computing: LowPrecisionModel | None = None) -> None:
        self._model = model
        self.computing: Layer = model if computing is None else computing
        self.dtype = None if computing is None else computing.dtype
        self.find_buffers()
        self._finite: Array = None  # whether the step at hand is to be kept, 0-d; None keeps it
        self.unread: deque[tuple[int, Array]] = deque(maxlen=UNREAD)
        """Of the last steps on a device, their numbers and which samples were finite."""

    def gradients(
        self, compute: ValueAndGrad, x: Array, t: Array, key: Key, step: int = 0
    ) -> tuple[Array, Gradients]:
        """Return the loss of a batch, a 0-d array, and the gradients of the model's parameters.

        Batch statistics of a step that fails or is not finite are put back; on a device its loss is NaN.

        Parameters
        ----------
        compute : function
            What `nn.value_and_grad` returned for `computing`.
        """
        backend, self.problem = backend_of(x), None
        buffers = [(buffer, buffer.data) for buffer in self._buffers]
        with _overflow_is_expected():
            try:
                value, grads = compute(x, t, key=key)
            except BaseException:  # such as a label that is no class, or Ctrl-C
                for buffer, old in buffers:
                    buffer.data = old
                raise
            self._finite = self._overflow_flag(value)
            if not backend.is_host:
                rows = finite_rows(x, t)
                self.unread.append((step, rows))
                value = self._judge(value, grads, rows)
            elif not backend.has_finite_sums(_computed(x, t, value, grads)):
                self.problem = self._problem(value, grads, finite_rows(x, t))
            if self.problem is not None:
                for buffer, old in buffers:
                    buffer.data = old
        if self._finite is not None:
            for buffer, old in buffers:
                buffer.data = _if(self._finite, buffer.data, old)
        return value, grads

    def find_buffers(self) -> None:
        """Look for the model's buffers; done for a new trainer and by each fit, not by each step."""
        self._buffers = list(self._model.buffers().values())

    def _overflow_flag(self, value: Array) -> Array:
        """Return whether nothing overflowed, 0-d on the device; None without a loss scale."""
        return None

    def _problem(self, value: Array, grads: Gradients, rows: Array) -> Problem | None:
        return find_problem(self._model, value, grads, rows)

    def _judge(self, value: Array, grads: Gradients, rows: Array) -> Array:
        """Note on the device whether a step is to be kept; return its loss, NaN if it is not."""
        xp = namespace(value)
        self._finite = finite_gradients(grads, xp.all(rows) & xp.isfinite(value))
        return xp.where(self._finite, value, xp.full_like(value, math.nan))

    @contextmanager
    def updating(
        self, grads: Gradients, optimizer: Optimizer, average: WeightAverage | None
    ) -> Iterator[None]:
        """Return the context in which these gradients are clipped and applied."""
        if self._finite is None:
            yield
            return
        # An update gives parameters and averages new arrays, and the old ones keep their values. The
        # optimiser's own arrays it changes in place, so these are copied.
        entries = [entry for entry in optimizer._entries.values() if entry.parameter in grads]
        parameters = [(entry.parameter, entry.parameter.data) for entry in entries]
        states = [
            (entry.state, {slot: home_of(array).copy(array) for slot, array in entry.state.items()})
            for entry in entries
        ]
        averages = {} if average is None else dict(average._averages)
        with _overflow_is_expected():
            yield
        for parameter, old in parameters:
            if parameter.data is not old:
                parameter.data = _if(self._finite, parameter.data, old)
        for state, before in states:
            for slot, new in state.items():
                old = before[slot] if slot in before else namespace(new).zeros_like(new)
                state[slot] = _if(self._finite, new, old)
        if average is not None:
            average._set(
                {path: _if(self._finite, new, averages[path]) for path, new in average._averages.items()}
            )

    def fault(self, scale: float) -> str | None:
        """Return why training cannot go on with such a loss scale, or None."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds, as plain values; they are read from the device."""
        return {"dtype": self.dtype, **(self.loss_scale.state_dict() if self.loss_scale else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, by a precision of the same dtype."""
        if self.loss_scale is not None:
            self.loss_scale.load_state_dict(state)


class Float16(Precision):
    """Steps in float16 with a loss scale, and without those in which something overflows.

    Of such a step nothing stays on the device: parameters, the arrays of the optimiser and of the averaged
    weights, and batch-norm's statistics keep their bits. What the host counts has moved on, since it does not
    know: the number of the step, which schedules and random masks are functions of, and the numbers of
    updates by which Adam and `WeightAverage` correct for their start. That matters little: steps are lost
    until the scale fits, when training begins, and once in some thousands later.
    """

    patience = 10

    def __init__(self, model: Layer) -> None:
        self.loss_scale: LossScale = LossScale()
        self._low = LowPrecisionModel(model, "float16", self.loss_scale)
        super().__init__(model, self._low)

    def _overflow_flag(self, value: Array) -> Array:
        finite = namespace(value).isfinite(value)
        return finite if self._low.finite is None else finite & self._low.finite

    def _problem(self, value: Array, grads: Gradients, rows: Array) -> Problem | None:
        return find_problem(self._model, None, None, rows)  # what overflows is taken back

    def _judge(self, value: Array, grads: Gradients, rows: Array) -> Array:
        xp = namespace(value)
        finite = xp.all(rows)
        self._finite = self._finite & finite
        return xp.where(finite, value, xp.full_like(value, math.nan))

    @contextmanager
    def updating(
        self, grads: Gradients, optimizer: Optimizer, average: WeightAverage | None
    ) -> Iterator[None]:
        with super().updating(grads, optimizer, average):
            yield
        self.loss_scale.update(self._finite)

    def fault(self, scale: float) -> str | None:
        if scale > SMALLEST_SCALE:
            return None
        return f"gradients overflow float16 even with the loss times {scale:g}"


def _computed(x: Array, t: Array, value: Array, grads: Gradients) -> list[Array]:
    """Return all floating arrays of a step that must be finite."""
    given = [array for array in (x, t) if is_floating(array.dtype)]
    return [*given, value, *(gradient for _, gradient in grads.items())]


def _if(flag: Array, new: Array, old: Array) -> Array:
    """Return one of two arrays, chosen by a 0-d array where they are."""
    backend = backend_of(new)
    return backend.xp.where(flag, new, backend.asarray(old, new.dtype))  # the model may have moved


def _overflow_is_expected() -> AbstractContextManager[object]:
    """Return a context in which NumPy does not warn of what the flag of a step tells."""
    return np.errstate(over="ignore", invalid="ignore")
