"""The `@op` decorator: a plain function whose backward goes with it."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest

from xpcnn import ops
from xpcnn.ops.op import op

WITH_CONTEXT = sorted(name for name in ops.__all__ if hasattr(getattr(ops, name), "backward"))
WITHOUT_BACKWARD = {
    "ConvGeometry",
    "OutputContext",
    "algorithm_names",
    "autotune",
    "col2im",
    "conv_algorithm",
    "get_workspace_limit",
    "im2col",
    "reference",
    "set_workspace_limit",
}


@pytest.mark.parametrize("name", WITH_CONTEXT)
def test_backward_has_one_spelling(name: str) -> None:
    backward = getattr(ops, name).backward
    assert backward.__qualname__ == f"{name}.backward"
    assert next(iter(inspect.signature(backward).parameters)) == "ctx"
    assert pickle.loads(pickle.dumps(backward)) is backward
    assert not hasattr(ops, f"{name}_backward")


def test_every_public_name_is_an_op_or_known_to_be_none() -> None:
    assert set(ops.__all__) - set(WITH_CONTEXT) == WITHOUT_BACKWARD


@pytest.mark.parametrize("name", WITH_CONTEXT)
def test_an_op_is_a_plain_function(name: str) -> None:
    function = getattr(ops, name)
    assert inspect.isfunction(function)
    assert function.__name__ == name
    assert function.__doc__
    assert "args" not in inspect.signature(function).parameters
    assert pickle.loads(pickle.dumps(function)) is function


def test_one_made_by_a_user() -> None:
    @op
    def scaled(x: Any, factor: float = 2.0) -> tuple[Any, float]:
        return x * factor, factor

    @scaled.def_backward
    def gradient(ctx: float, dy: Any) -> Any:
        return dy * ctx

    y, ctx = scaled(np.ones(2, np.float32), factor=3.0)
    assert y.tolist() == [3.0, 3.0]
    assert scaled.backward is gradient
    assert scaled.backward(ctx, y).tolist() == [9.0, 9.0]
