"""What the published models ask of their arguments; the same names mean the same in each of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from xpcnn.errors import ArgumentError
from xpcnn.nn.options import floating
from xpcnn.ops.op import flag, real, sizes, whole

__all__ = ["checked_arguments"]

_COUNTS = frozenset({"classes", "in_channels", "filters", "filter_size", "hidden"})
_FLAGS = frozenset({"small_images", "batch_norm", "local_response_norm", "aux", "bias"})


def checked_arguments(
    model: str, arguments: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> dict[str, Any]:
    """Return a builder's arguments, of the types that its parameters have.

    Raises
    ------
    ArgumentError, DtypeError
        For one that no network can be built of; the message names the model, the argument and its value.
    """
    return {name: _checked(model, name, value, parameters[name].default) for name, value in arguments.items()}


def _checked(model: str, name: str, value: Any, default: Any) -> Any:
    if name == "input_shape":
        shape = sizes(model, name, value)
        if len(shape) != 3:
            raise ArgumentError(f"{model}: input_shape must be (channels, height, width), got {value!r}")
        return shape
    if name == "filters" and isinstance(default, tuple):
        return sizes(model, name, value)
    if name in _COUNTS:
        return whole(f"{model}: {name}", value, 1)
    if name in _FLAGS:
        return flag(f"{model}: {name}", value)
    if name == "dropout":
        return real(f"{model}: {name}", value, 0, 1)
    return floating(model, value) if name == "dtype" else value
