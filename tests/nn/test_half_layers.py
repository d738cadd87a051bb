"""Every layer in half precision, where a backend has it: dtypes are kept, values near the exact ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.nn import draw, drawn_state
from tests.support.nn_cases import CASES, Case
from xpcnn import Key, nn

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The relative error of rounding once."""
ROUNDINGS = 16
"""That a value may have gone through, in the few layers of a case, at the scale of the largest."""


def layer_on(make: Any, case: Case, dtype: str) -> nn.Layer:
    with make.use():
        layer = case.layer().to(dtype=dtype)
    layer.load_state_dict(drawn_state(layer))
    return layer


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_half_precision(make: Any, case: Case, dtype: str) -> None:
    if not make.has(dtype):
        pytest.skip(f"{make.backend} has no {dtype}")
    half = layer_on(make, case, dtype)
    x = make.array(draw(*case.shape), dtype)
    y, ctx = half.forward(x, train=case.train, key=Key(0))
    dy = make.array(draw(*y.shape, seed=9), dtype)
    grads = nn.Gradients()
    dx = half.backward(ctx, dy, grads)
    parameters = half.parameters()
    got = {"y": y, "dx": dx, **{path: grads[parameter] for path, parameter in parameters.items()}}
    for name, array in got.items():
        make.check_kind(array, array.shape, dtype)
        assert np.isfinite(make.to_numpy(array)).all(), name
    if any(isinstance(layer, nn.Dropout) for layer in every_layer_in(half)) and case.train:
        return  # its mask is each backend's own
    exact = case.layer().to(dtype="float64")
    exact.load_state_dict({path: make.to_numpy(array) for path, array in half.state_dict().items()})
    wide = [np.asarray(make.to_numpy(array), np.float64) for array in (x, dy)]
    grads = nn.Gradients()
    exact_y, ctx = exact.forward(wide[0], train=case.train)
    exact_dx = exact.backward(ctx, wide[1], grads)
    wanted = {"y": exact_y, "dx": exact_dx}
    wanted |= {path: grads[parameter] for path, parameter in exact.parameters().items()}
    for name, array in got.items():
        make.check(array, wanted[name], dtype, rtol=ROUNDINGS * UNIT[dtype])


def every_layer_in(layer: nn.Layer) -> list[nn.Layer]:
    return [layer, *(inner for child in layer.children().values() for inner in every_layer_in(child))]
