"""What an algorithm must return, and the errors where it does not."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Array, Backend, backend_of, dtype_name
from xpcnn.errors import AlgorithmError, BackendError
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.plan import ConvPlan
from xpcnn.ops.op import in_words

__all__ = ["check_fresh", "check_kind"]


def check_fresh(plan: ConvPlan, result: Any, a: Array, b: Array) -> None:
    """Require an array that may be written to: the bias and other tiles are added in place."""
    if _backend_of(plan, result) is plan.backend and not plan.backend.is_fresh(result, a, b):
        raise AlgorithmError(
            f"{_where(plan)} returned memory of its arguments, or memory that cannot be written to; "
            f"it must return a new array: xpcnn adds to it in place"
        )


def check_kind(
    plan: ConvPlan, result: Any, shape: tuple[int, ...], like: Array, geometry: ConvGeometry
) -> None:
    """Require an array of this shape, with the dtype and backend of `like`."""
    backend = _backend_of(plan, result)
    if backend is not plan.backend:
        raise AlgorithmError(f"{_where(plan)} returned an array on {backend}; its input is on {plan.backend}")
    if tuple(result.shape) != shape or result.dtype != like.dtype:
        raise AlgorithmError(
            f"{_where(plan)} returned {dtype_name(result.dtype)} {tuple(result.shape)}; "
            f"for x {geometry.input_shape} and weight {geometry.weight_shape} "
            f"it must return {dtype_name(like.dtype)} {shape}"
        )


def _backend_of(plan: ConvPlan, result: Any) -> Backend:
    try:
        return backend_of(result)
    except BackendError:
        raise AlgorithmError(f"{_where(plan)} returned no array: {in_words(result)}") from None


def _where(plan: ConvPlan) -> str:
    return f"the {plan.pass_name} of convolution algorithm {plan.algorithm.name!r}"
