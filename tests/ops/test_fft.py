"""The convolution algorithm "fft": right, in single precision throughout, and within its workspace."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support import oracles
from tests.support.conv_cases import CASES, Case, reference
from tests.support.ops import draw, scratch
from xpcnn import ops
from xpcnn.ops.conv.algorithms import fft


def sizes_of_one_axis() -> Iterator[tuple[int, int, int, int, int]]:
    """(size, kernel, padding, stride, dilation) of every small axis that leaves an output."""
    for size, kernel, padding, stride, dilation in itertools.product(
        (1, 2, 5, 6), (1, 2, 3), (0, 1, 4), (1, 2, 3), (1, 2)
    ):
        if dilation * (kernel - 1) < size + 2 * padding:
            yield size, kernel, padding, stride, dilation


@pytest.mark.slow
def test_every_small_axis() -> None:
    """What wraps around never reaches a result, whatever the padding is beside the kernel and the image."""
    axes = list(sizes_of_one_axis())
    for number, (size, kernel, padding, stride, dilation) in enumerate(axes):
        # Another axis across, so that both axes meet every size.
        across = axes[(number * 97 + 13) % len(axes)]
        options = {
            name: (value, across[place])
            for place, name, value in (
                (2, "padding", padding),
                (3, "stride", stride),
                (4, "dilation", dilation),
            )
        }
        x, w = draw(2, 2, size, across[0]), draw(3, 2, kernel, across[1])
        y, ctx = ops.conv2d(x, w, **options, algorithm="fft")
        pads = (padding, padding, across[2], across[2])
        other = {"stride": options["stride"], "pads": pads, "dilation": options["dilation"]}
        expected = oracles.conv2d(x, w, None, **other)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11 * np.abs(expected).max() + 1e-13)
        dy = draw(*expected.shape, seed=1)
        expected_dx, expected_dw, _ = oracles.conv2d_gradients(x, w, dy, **other)
        dx, dw, _ = ops.conv2d.backward(ctx, dy)
        np.testing.assert_allclose(dx, expected_dx, rtol=0, atol=1e-12)
        np.testing.assert_allclose(dw, expected_dw, rtol=0, atol=1e-12)


LARGE = {
    "11x11, stride 4": Case((2, 3, 31, 27), (5, 3, 11, 11), stride=4, padding=2, pads=(2, 2, 2, 2)),
    "3x3, dilated to 17x17": Case((2, 3, 20, 19), (5, 3, 3, 3), padding=8, pads=(8, 8, 8, 8), dilation=8),
    "many channels": Case((2, 150, 6, 6), (140, 150, 3, 3), padding=1, pads=(1, 1, 1, 1)),
}


@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE.keys())
def test_large_kernels_and_many_channels(make: Any, dtype: str, case: Case) -> None:
    """Against PyTorch in float64: what the loops would take long for."""
    torch = pytest.importorskip("torch")
    host = [draw(*shape, dtype=dtype) for shape in (case.x, case.w)]
    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in host]
    y = torch.nn.functional.conv2d(*leaves, **case.options)
    dy = draw(*y.shape, dtype=dtype)
    y.backward(torch.tensor(dy, dtype=torch.float64))
    got, ctx = ops.conv2d(*(make.array(a) for a in host), **case.options, algorithm="fft")
    make.check(got, y.detach().numpy(), dtype)
    for gradient, leaf in zip(ops.conv2d.backward(ctx, make.array(dy)), leaves, strict=False):
        make.check(gradient, leaf.grad.numpy(), dtype)


def test_single_precision_stays_single(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every transform of float32 images gives float32 or complex64, and takes no wider array on the way."""
    seen: list[tuple[str, str]] = []

    def watched(name: str, transform: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, **options: Any) -> Any:
            y = transform(x, **options)
            seen.append((name, str(y.dtype).rpartition(".")[2]))
            return y

        return call

    names = ("rfft", "irfft", "fft", "ifft")
    for name in names:
        monkeypatch.setattr(make.xp.fft, name, watched(name, getattr(make.xp.fft, name)))
    r = reference(CASES["strided and padded"], "float32")
    _, ctx = ops.conv2d(make.array(r.x), make.array(r.w), stride=2, padding=1, algorithm="fft")
    ops.conv2d.backward(ctx, make.array(r.dy))
    assert {name for name, _ in seen} == set(names)
    assert {kind for name, kind in seen if name == "irfft"} == {"float32"}
    assert {kind for name, kind in seen if name != "irfft"} == {"complex64"}


# Sizes ------------------------------------------------------------------------------------------------


def test_fast_sizes_are_the_next_products_of_small_primes() -> None:
    limit = 3000
    products = sorted(
        2**a * 3**b * 5**c * 7**d
        for a, b, c, d in itertools.product(range(13), range(9), range(7), range(6))
        if 2**a * 3**b * 5**c * 7**d <= limit
    )
    for least in range(1, limit - 100):
        assert fft.fast_size(least) == next(size for size in products if size >= least)


def test_one_side_of_padding_serves_both() -> None:
    """28 rows padded by 4 on each side need a transform of 32, not of 36; and none larger without padding."""
    for padding, expected in ((4, (32, 32)), (0, (28, 28))):
        geometry = ops.ConvGeometry.of((1, 1, 28, 28), (1, 1, 5, 5), padding=padding)
        assert fft._sizes(geometry) == expected


def test_needs_the_fft_extension() -> None:
    class Bare:
        """A library with nothing but the core of the standard."""

    from xpcnn.backend import Backend

    geometry = ops.ConvGeometry.of((1, 1, 4, 4), (1, 1, 3, 3))
    reason = fft.Fft().unsupported(geometry, "float32", Backend("bare", Bare, "cpu"))
    assert reason is not None
    assert "fft extension" in reason
    assert "bare" in reason
    assert fft.Fft().unsupported(geometry, "float32", xpcnn.backend_of(np.zeros(1))) is None


# Workspace --------------------------------------------------------------------------------------------


MEASURED = {
    "stride 1": ((8, 8, 32, 32), (16, 8, 3, 3), {"padding": 1}),
    "stride 2": ((8, 8, 32, 32), (16, 8, 3, 3), {"padding": 1, "stride": 2}),
    "rows apart": ((8, 8, 64, 8), (32, 8, 3, 3), {"stride": (3, 1)}),
    "columns apart": ((8, 8, 8, 64), (32, 8, 3, 3), {"stride": (1, 3)}),
    "few outputs": ((8, 48, 30, 30), (4, 48, 5, 5), {"padding": 2}),
    "few inputs": ((8, 4, 30, 30), (48, 4, 5, 5), {"padding": 2}),
    "a large kernel": ((8, 12, 24, 24), (12, 12, 9, 9), {"padding": 4}),
    "groups": ((8, 8, 32, 32), (16, 4, 3, 3), {"padding": 1, "groups": 2}),
    "one channel": ((8, 1, 60, 60), (4, 1, 5, 5), {}),
    "many kernels": ((8, 32, 20, 20), (32, 32, 3, 3), {"padding": 1}),
}


@pytest.mark.parametrize("pass_name", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize(("shape", "weight", "options"), MEASURED.values(), ids=MEASURED.keys())
def test_workspace_bytes_are_what_is_used(
    shape: Any, weight: Any, options: dict[str, Any], pass_name: str
) -> None:
    """Untiled, no pass holds more than is said, and the hungriest not much less."""
    geometry = ops.ConvGeometry.of(shape, weight, **options).one_group()
    algorithm = fft.Fft()
    x, w = draw(*geometry.input_shape, dtype="float32"), draw(*geometry.weight_shape, dtype="float32")
    dy = draw(*geometry.output_shape, dtype="float32")
    arrays = {"forward": (x, w), "grad_input": (dy, w), "grad_weight": (x, dy)}[pass_name]
    run = getattr(algorithm, pass_name)
    run(*arrays, geometry)
    _, used = scratch(lambda: run(*arrays, geometry))
    said = algorithm.workspace_bytes(geometry, "float32")
    assert 0.6 * said <= used <= 1.05 * said + 20_000  # of Python's own objects
