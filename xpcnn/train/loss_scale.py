"""The number that losses are multiplied by in float16."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from xpcnn.backend import Array, Backend, backend_of, get_backend, home_of
from xpcnn.errors import StateDictError

__all__ = ["LARGEST_SCALE", "SMALLEST_SCALE", "LossScale"]

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
        self._set(INITIAL_SCALE, 0)

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
        """Go on from what `state_dict` returned.

        Raises
        ------
        StateDictError
            When its scale is no power of two; nothing is loaded then.
        """
        scale, good_steps = float(state["scale"]), int(state["good_steps"])
        if math.frexp(scale)[0] != 0.5:
            raise StateDictError(f"LossScale.load_state_dict: scale must be a power of two, got {scale!r}")
        self._set(scale, good_steps)

    def _set(self, scale: float, good_steps: int) -> None:
        backend = get_backend()
        self.scale = backend.asarray(scale, "float32")
        self.good_steps = backend.asarray(good_steps, "int64")
