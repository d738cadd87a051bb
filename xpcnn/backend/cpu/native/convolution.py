"""Convolution by the compiled kernels, as the ops see it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from xpcnn.backend.arrays import LibraryArray, dtype_name
from xpcnn.backend.cpu.layout import place_for
from xpcnn.backend.cpu.native.library import library, why_absent
from xpcnn.backend.cpu.native.plan import MOST_TAPS, Plan
from xpcnn.backend.cpu.native.primitives import max_pool
from xpcnn.backend.cpu.native.sizes import Images, Sizes

__all__ = ["CompiledConvolution", "plan_of"]

_plans: dict[Any, Plan] = {}
_MOST_PLANS: Final = 1024


def plan_of(geometry: Any, dtype: str) -> Plan:
    """Return the plan for a `ConvGeometry`; made once, and kept."""
    key = geometry.key, dtype
    plan = _plans.get(key)
    if plan is None:
        (n, c, h, w), (k, _, kh, kw) = geometry.input_shape, geometry.weight_shape
        (oh, ow), (top, _, left, _) = geometry.output_size, geometry.padding
        (sh, sw), (dh, dw) = geometry.stride, geometry.dilation
        sizes = Sizes(n, c, h, w, k, kh, kw, oh, ow, sh, sw, top, left, dh, dw, geometry.groups)
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        plan = _plans[key] = Plan(sizes, dtype)
    return plan


class CompiledConvolution:
    """The compiled kernels on NumPy's arrays: direct products in registers, or Winograd's where that pays."""

    fuses_epilogue = accepts_out = True

    def unsupported(self, geometry: Any, dtype: Any) -> str | None:
        reason, name = why_absent(), dtype_name(dtype)
        if reason:
            return f"needs the compiled kernels, which are {reason}; use 'im2col' without them"
        if library(name) is None:
            return f"computes in float32 or float64, not in {name}"
        kh, kw = geometry.kernel
        if kh * kw > MOST_TAPS:
            return f"takes kernels of at most {MOST_TAPS} weights, got {kh}x{kw}"
        return None

    def workspace_bytes(self, geometry: Any, dtype: Any) -> int:
        return plan_of(geometry, dtype_name(dtype)).workspace

    def forward(
        self,
        x: LibraryArray,
        weight: LibraryArray,
        geometry: Any,
        limit: int,
        out: LibraryArray | None = None,
    ) -> LibraryArray:
        y, memory = place_for(geometry.output_shape, x.dtype, out)
        plan = plan_of(geometry, x.dtype.name)
        plan.forward(Images.of(x), np.ascontiguousarray(weight), None, False, memory)
        return y

    def forward_epilogue(
        self, x: LibraryArray, weight: LibraryArray, geometry: Any, epilogue: Any
    ) -> LibraryArray:
        plan, pooling = plan_of(geometry, x.dtype.name), epilogue.pooling
        given = Images.of(x), np.ascontiguousarray(weight), np.ascontiguousarray(epilogue.bias), epilogue.relu
        if pooling is not None and plan.sizes.n >= plan.sizes.parts:
            return plan.forward_pooled(*given, pooling).transpose(0, 3, 1, 2)
        y, memory = place_for(geometry.output_shape, x.dtype)
        plan.forward(*given, memory)
        # Of few images, several threads compute rows, and the maxima are taken afterwards.
        result: LibraryArray = y if pooling is None else max_pool(y, pooling)
        return result

    def grad_input(
        self,
        dy: LibraryArray,
        weight: LibraryArray,
        geometry: Any,
        limit: int,
        out: LibraryArray | None = None,
    ) -> LibraryArray:
        dx, memory = place_for(geometry.input_shape, dy.dtype, out)
        plan = plan_of(geometry, dy.dtype.name)
        plan.grad_input(Images.of(dy), np.ascontiguousarray(weight), memory)
        return dx

    def grad_weight(self, x: LibraryArray, dy: LibraryArray, geometry: Any, limit: int) -> LibraryArray:
        return plan_of(geometry, x.dtype.name).grad_weight(Images.of(x), Images.of(dy))
