"""The algorithm "native": PyTorch's own convolution against the loops of `oracles`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support import oracles
from tests.support.conv_cases import CASES, Case, reference
from tests.support.ops import Array, draw, is_channels_last, mentions
from xpcnn import errors, ops
from xpcnn.ops.conv import ConvGeometry, executor
from xpcnn.ops.conv.algorithm import find

torch = pytest.importorskip("torch")

TOLERANCE = {"float32": 1e-5, "float64": 1e-11}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def tensor(values: Array) -> Any:
    return torch.tensor(values)


def torchs() -> Any:
    return find("native").on(xpcnn.backend_of(torch.zeros(1)))


def check(got: Any, expected: Array, dtype: str) -> None:
    assert isinstance(got, torch.Tensor)
    assert got.dtype == getattr(torch, dtype)
    assert tuple(got.shape) == expected.shape
    if expected.size:
        error = np.abs(got.numpy().astype("float64") - expected).max()
        assert error <= TOLERANCE[dtype] * np.abs(expected).max()


def passes(case: Case, x: Any, w: Any, dy: Any) -> tuple[Any, Any, Any]:
    """(y, dx, dweight), without a bias."""
    y, ctx = ops.conv2d(x, w, **case.options, algorithm="native")
    dx, dw, _ = ops.conv2d.backward(ctx, dy)
    return y, dx, dw


@pytest.mark.parametrize(
    ("kernel", "pads"), [((3, 2), (1, 1, 0, 1)), ((2, 3), (0, 1, 1, 1))], ids=["columns", "rows"]
)
def test_padding_that_differs_on_one_axis(kernel: tuple[int, int], pads: tuple[int, int, int, int]) -> None:
    r = reference(case := Case((2, 3, 5, 6), (4, 3, *kernel), padding="same", pads=pads, bias=False))
    got = passes(case, *map(tensor, (r.x, r.w, r.dy)))
    for a, expected in zip(got, (r.y, r.dx, r.dw), strict=True):
        check(a, expected, "float64")


@every_case
def test_matches_the_loops_and_is_channels_last(dtype: str, case: Case) -> None:
    """Also where an axis has length 1 and PyTorch would call other strides channels-last too."""
    r = reference(case, dtype)
    y, dx, dw = passes(case, *map(tensor, (r.x, r.w, r.dy)))
    for got, expected in ((y, oracles.conv2d(r.x, r.w, **case.oracle_options)), (dx, r.dx), (dw, r.dw)):
        check(got, expected, dtype)
    assert is_channels_last(y.numpy())
    assert is_channels_last(dx.numpy())


@pytest.mark.parametrize("name", ["groups", "depthwise"])
def test_takes_the_groups_at_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    library = xpcnn.backend_of(torch.zeros(1)).convolutions["native"]
    seen = []
    monkeypatch.setattr(executor, "_plans", {})  # which hold the passes themselves
    for pass_name in ("forward", "grad_input", "grad_weight"):
        real = getattr(library, pass_name)

        def spy(*args: Any, real: Any = real, **options: Any) -> Any:
            seen.append(args[2].groups)
            return real(*args, **options)

        monkeypatch.setattr(library, pass_name, spy)
    case = CASES[name]
    r = reference(case)
    passes(case, *map(tensor, (r.x, r.w, r.dy)))
    assert seen == [case.groups] * 3


def test_images_without_channels_are_refused() -> None:
    with pytest.raises(errors.AlgorithmError, match=mentions("conv2d", "native", "im2col")):
        ops.conv2d(torch.zeros(2, 0, 5, 6), torch.zeros(4, 0, 3, 3), algorithm="native")


# The workspace --------------------------------------------------------------------------------------


SIZES = {
    "3x3": ((30, 16, 14, 14), (16, 16, 3, 3), 1, 1),
    "even kernel": ((30, 16, 14, 14), (16, 16, 2, 2), "same", 1),
    "depthwise": ((10, 64, 28, 28), (64, 1, 3, 3), 1, 64),
    "7x7 of 3 channels": ((30, 3, 28, 28), (16, 3, 7, 7), 3, 1),
}


@pytest.mark.parametrize(("x_shape", "w_shape", "padding", "groups"), SIZES.values(), ids=SIZES.keys())
def test_tiles_give_the_same(x_shape: Any, w_shape: Any, padding: Any, groups: int) -> None:
    case = Case(x_shape, w_shape, padding=padding, groups=groups)
    geometry = ConvGeometry.of(x_shape, w_shape, padding=padding, groups=groups)
    arrays = [tensor(draw(*shape)) for shape in (x_shape, w_shape, geometry.output_shape)]
    whole = passes(case, *arrays)
    xpcnn.set_workspace_limit(torchs().workspace_bytes(geometry, "float64") // 7)
    for got, expected in zip(passes(case, *arrays), whole, strict=True):
        check(got, expected.numpy(), "float64")


def scratch(call: Callable[[], Any]) -> int:
    """The most bytes that PyTorch held during a call, without its result."""
    from torch.profiler import ProfilerActivity, profile

    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    held = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert peak
    return peak - result.nbytes


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True], ids=["channels-first", "channels-last"])
@pytest.mark.parametrize(("x_shape", "w_shape", "padding", "groups"), SIZES.values(), ids=SIZES.keys())
def test_keeps_to_the_workspace_it_states(
    dtype: str, x_shape: Any, w_shape: Any, padding: Any, groups: int, channels_last: bool
) -> None:
    """Measured, within 10 %."""
    geometry = ConvGeometry.of(x_shape, w_shape, padding=padding, groups=groups)
    x, w, dy = (tensor(draw(*shape, dtype=dtype)) for shape in (x_shape, w_shape, geometry.output_shape))
    if channels_last:
        x, dy = (a.contiguous(memory_format=torch.channels_last) for a in (x, dy))
    algorithm = torchs()
    stated = algorithm.workspace_bytes(geometry, dtype)
    assert scratch(lambda: algorithm.forward(x, w, geometry)) <= 1.1 * stated
    assert scratch(lambda: algorithm.grad_input(dy, w, geometry)) <= 1.1 * stated
    assert scratch(lambda: algorithm.grad_weight(x, dy, geometry)) <= 1.1 * stated
