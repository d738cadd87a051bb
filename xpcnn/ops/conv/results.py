"""What an algorithm must return, and the errors where it does not."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Array, backend_of, dtype_name
from xpcnn.errors import AlgorithmError, BackendError
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.plan import ConvPlan
from xpcnn.ops.op import in_words

__all__ = ["check_result"]


def check_result(
    plan: ConvPlan, result: Any, shape: tuple[int, ...], a: Array, b: Array, geometry: ConvGeometry
) -> None:
    """Require a new array of this shape, with the dtype and backend of `a`.

    It must share no memory with the arguments: the bias and other tiles are added in place.
    """
    where = f"the {plan.pass_name} of convolution algorithm {plan.algorithm.name!r}"
    try:
        backend = backend_of(result)
    except BackendError:
        raise AlgorithmError(f"{where} returned no array: {in_words(result)}") from None
    if backend is not plan.backend:
        raise AlgorithmError(f"{where} returned an array on {backend}; its input is on {plan.backend}")
    if tuple(result.shape) != shape or result.dtype != a.dtype:
        raise AlgorithmError(
            f"{where} returned {dtype_name(result.dtype)} {tuple(result.shape)}; "
            f"for x {geometry.input_shape} and weight {geometry.weight_shape} "
            f"it must return {dtype_name(a.dtype)} {shape}"
        )
    if not backend.is_fresh(result, a, b):
        raise AlgorithmError(
            f"{where} returned memory of its arguments, or memory that cannot be written to; "
            f"it must return a new array: xpcnn adds to it in place"
        )
