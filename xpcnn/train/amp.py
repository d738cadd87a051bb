"""Half precision with float32 weights: a layer that computes for a model in float16 or bfloat16 [1]_.

float16 has no numbers below 2⁻²⁴, so small gradients become 0 in it. The gradient of the loss is therefore
multiplied by a loss scale before it is rounded to float16, and the parameters' gradients are divided by it in
float32. bfloat16 has the exponents of float32, and needs no scale.

.. [1] P. Micikevicius et al., "Mixed precision training", ICLR 2018.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from typing import Any

from xpcnn.backend import Array, Backend, Key, backend_of, dtype_name, get_backend, home_of, is_floating
from xpcnn.errors import ArgumentError, BackendError, DtypeError
from xpcnn.nn import Gradients, Layer, Preprocess
from xpcnn.nn.parameter import Buffer, State
from xpcnn.nn.tree import walk

__all__ = ["LARGEST_SCALE", "SMALLEST_SCALE", "LossScale", "LowPrecisionModel", "low_precision"]

# As in PyTorch's GradScaler.
INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
# Gradients that overflow even with the one are beyond float16 by themselves. Gradients that are all 0 let the
# scale grow to the other and no further, so that it and its inverse stay numbers of float32.
SMALLEST_SCALE, LARGEST_SCALE = 2.0**-14, 2.0**64


class LossScale:
    """A scale for losses that follows what overflows: halved at once, and doubled after 2000 good steps.

    Attributes
    ----------
    scale : 0-d array, float32
        A power of two, so that scaling rounds nothing.
    good_steps : 0-d array, int64
        The steps without overflow since the scale last changed.

    Examples
    --------
    >>> import xpcnn
    >>> loss_scale = LossScale()
    >>> loss_scale.update(xpcnn.asarray(False))
    >>> float(loss_scale.scale)
    32768.0
    """

    scale: Array
    good_steps: Array

    def __init__(self) -> None:
        self.load_state_dict({"scale": INITIAL_SCALE, "good_steps": 0})

    def move(self, backend: Backend) -> None:
        """Move both to a backend, if they are not there."""
        if home_of(self.scale) is not backend:
            self.scale, self.good_steps = backend.asarray(self.scale), backend.asarray(self.good_steps)

    def update(self, finite: Array) -> None:
        """Take in whether a step's gradients were all finite, a 0-d array of bool; nothing is read."""
        xp, scale = backend_of(finite).xp, self.scale
        good_steps = xp.where(finite, self.good_steps + 1, xp.zeros_like(self.good_steps))
        grows = good_steps >= GROWTH_INTERVAL
        higher = xp.where(grows & (scale < LARGEST_SCALE), scale * 2, scale)
        lower = xp.where(scale > SMALLEST_SCALE, scale / 2, scale)
        self.scale = xp.where(finite, higher, lower)
        self.good_steps = xp.where(grows, xp.zeros_like(good_steps), good_steps)

    def state_dict(self) -> dict[str, Any]:
        """Return both as plain numbers, read from the device."""
        backend = home_of(self.scale)
        return {
            "scale": float(backend.to_numpy(self.scale)),
            "good_steps": int(backend.to_numpy(self.good_steps)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        backend = get_backend()
        self.scale = backend.asarray(float(state["scale"]), "float32")
        self.good_steps = backend.asarray(int(state["good_steps"]), "int64")


def low_precision(model: Layer, dtype: Any) -> LowPrecisionModel | None:
    """Return what computes for a model in a `Trainer` with that argument `dtype`; None for the model itself.

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
        return None
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
    return LowPrecisionModel(model, name, LossScale() if name == "float16" else None)


class LowPrecisionModel(Layer):
    """A model that computes in half precision, with float32 weights, and takes and returns float32.

    A copy of the model computes, whose parameters are the model's, rounded before each forward pass. What
    must not be rounded is not copied, but shared: a layer that owns floating buffers, such as batch-norm with
    its running statistics, is the model's own and computes in float32 between two casts. So are layers
    without any parameters, whose attributes may change: a dropout's `p`.

    Gradients are those of the model's own parameters, in float32.

    Parameters
    ----------
    model : Layer
        Its parameters are float32.
    dtype : str
        "float16" or "bfloat16".
    loss_scale : LossScale, optional
        By whose scale gradients are multiplied on their way through the copy.

    Attributes
    ----------
    finite : 0-d array of bool, or None
        With a loss scale, whether all gradients of the last backward pass are finite; on the device.
    """

    finite: Array | None = None

    def __init__(self, model: Layer, dtype: str, loss_scale: LossScale | None = None) -> None:
        self.model, self.dtype, self.loss_scale = model, dtype, loss_scale
        self._copy_model()

    def children(self) -> dict[str, Layer]:
        return {"": self.model}

    def own_states(self) -> dict[str, State]:
        return {}

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        if self.loss_scale is not None:
            self.loss_scale.move(backend_of(x))
        self._round_weights()
        if is_floating(x.dtype):  # bytes are normalised by the model, and rounded then
            x = cast(x, self.dtype)
        y, ctx = self._copy.forward(x, train=train, key=key)
        return cast(y, "float32"), ctx

    def backward(self, ctx: Any, dy: Any, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        scale = 1 if self.loss_scale is None else self.loss_scale.scale
        found = None if grads is None else Gradients()
        dx = self._copy.backward(ctx, cast(dy, self.dtype, scale), found, need_dx=need_dx)
        if found is not None and grads is not None:
            grads.bind(self.model)
            for (own, _), gradient in zip(found.items(), self._unscaled(found), strict=True):
                grads.add(self._masters.get(own, own), gradient)
        return None if not need_dx or dx is None else cast(dx, "float32") * (1 / scale)  # bytes have none

    def _unscaled(self, found: Gradients) -> list[Array]:
        """Return gradients in float32, without the loss scale, and note whether all of them are finite."""
        self.finite = None
        gradients = [cast(gradient, "float32") for _, gradient in found.items()]
        if self.loss_scale is None or not gradients:
            return gradients
        # As one array: a few kernels, where launching some for each would take the time.
        xp = backend_of(gradients[0]).xp
        joined = xp.concat([xp.reshape(one, (-1,)) for one in gradients]) * (1 / self.loss_scale.scale)
        self.finite = xp.all(xp.isfinite(joined))
        ends = itertools.accumulate(math.prod(one.shape) for one in gradients)
        return [
            xp.reshape(joined[end - math.prod(one.shape) : end], one.shape)
            for one, end in zip(gradients, ends, strict=True)
        ]

    def _round_weights(self) -> None:
        """Give the copy the model's present weights, and its present layers."""
        layers = [layer for _, layer in walk(self.model)]
        if list(map(id, layers)) != list(map(id, self._layers)):  # some were replaced
            self._copy_model()
        for own, master in self._masters.items():
            own.data = cast(master.data, self.dtype)
            own.trainable = master.trainable

    def _copy_model(self) -> None:
        self._layers = [layer for _, layer in walk(self.model)]
        memo: dict[int, Any] = {}  # what deepcopy finds here, it takes for the copy of what has that id
        for layer in self._layers:
            states = layer.own_states().values()
            statistics = [one for one in states if isinstance(one, Buffer) and is_floating(one.dtype)]
            if isinstance(layer, Preprocess) or statistics:
                memo[id(layer)] = _InFloat32(layer, self.dtype)
            elif not states and not layer.children():
                memo[id(layer)] = layer
        self._copy: Layer = copy.deepcopy(self.model, memo)
        pairs = zip(self._copy.parameters().values(), self.model.parameters().values(), strict=True)
        self._masters = {own: master for own, master in pairs if own is not master}


class _InFloat32(Layer):
    """A layer that computes in float32, between casts from and to half precision."""

    def __init__(self, layer: Layer, dtype: str) -> None:
        self.layer, self.dtype = layer, dtype

    def children(self) -> dict[str, Layer]:
        return {"": self.layer}

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        x = cast(x, "float32") if is_floating(x.dtype) else x
        y, ctx = self.layer.forward(x, train=train, key=key)
        return cast(y, self.dtype), ctx

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        dx = self.layer.backward(ctx, cast(dy, "float32"), grads, need_dx=need_dx)
        return None if dx is None else cast(dx, self.dtype)


def cast(value: Any, dtype: str, factor: Any = None) -> Any:
    """Return an array, or a tuple of them as models and losses give, times a factor, in another dtype."""
    if isinstance(value, tuple):
        changed = [cast(item, dtype, factor) for item in value]
        return type(value)(*changed) if hasattr(value, "_fields") else tuple(changed)
    backend = backend_of(value)
    return backend.xp.astype(value if factor is None else value * factor, backend.dtype(dtype), copy=False)
