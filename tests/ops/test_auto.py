"""The rule by which "auto" chooses, as docs/convolution.md tells it."""

from __future__ import annotations

from typing import Any

import pytest

import xpcnn
from xpcnn.ops.conv import ConvGeometry
from xpcnn.ops.conv.algorithm import PASSES
from xpcnn.ops.conv.executor import plan_for

RULE: dict[str, tuple[Any, Any, dict[str, Any], tuple[str, str, str]]] = {
    "VGG 3x3": ((32, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}, ("winograd", "winograd", "winograd")),
    "32 to 64": ((100, 32, 8, 8), (64, 32, 3, 3), {"padding": 1}, ("winograd", "winograd", "winograd")),
    "32 channels": ((100, 32, 14, 14), (32, 32, 3, 3), {"padding": 1}, ("winograd", "winograd", "winograd")),
    "one small image": ((1, 512, 4, 4), (512, 512, 3, 3), {"padding": 1}, ("im2col", "im2col", "mec")),
    "large kernel": ((32, 64, 28, 28), (64, 64, 5, 5), {"padding": 2}, ("fft", "fft", "fft")),
    "very large kernel": ((8, 32, 56, 56), (32, 32, 11, 11), {"padding": 5}, ("fft", "fft", "fft")),
    "7x7": ((8, 16, 56, 56), (16, 16, 7, 7), {"padding": 3}, ("mec", "mec", "mec")),
    "dilated": ((32, 64, 28, 28), (64, 64, 3, 3), {"dilation": 2}, ("kn2row", "kn2row", "mec")),
    "strided": ((32, 64, 32, 32), (128, 64, 3, 3), {"stride": 2}, ("kn2row", "kn2row", "im2col")),
    "16 channels": ((100, 16, 28, 28), (16, 16, 3, 3), {"padding": 1}, ("mec", "mec", "mec")),
    "16 to 64": ((100, 16, 28, 28), (64, 16, 3, 3), {"padding": 1}, ("mec", "kn2row", "mec")),
    "16 channels, dilated": ((100, 16, 28, 28), (16, 16, 3, 3), {"dilation": 2}, ("kn2row", "kn2row", "mec")),
    "one channel": ((100, 1, 28, 28), (30, 1, 5, 5), {}, ("im2col", "im2col", "im2col")),
    "three channels": ((8, 3, 32, 32), (64, 3, 7, 7), {"stride": 2}, ("mec", "mec", "mec")),
    "three channels, 11x11": ((8, 3, 227, 227), (96, 3, 11, 11), {"stride": 4}, ("im2col", "mec", "im2col")),
    "two channels": ((64, 2, 28, 28), (16, 2, 3, 3), {"padding": 1}, ("mec", "mec", "mec")),
    "six channels": ((100, 6, 14, 14), (16, 6, 5, 5), {}, ("mec", "mec", "mec")),
    "1x1": ((32, 256, 56, 56), (64, 256, 1, 1), {}, ("kn2row", "kn2row", "im2col")),
    "short rows": ((100, 32, 5, 5), (32, 32, 3, 3), {"padding": 1}, ("im2col", "im2col", "mec")),
    "depthwise": ((32, 64, 56, 56), (64, 1, 3, 3), {"groups": 64}, ("kn2row", "kn2row", "kn2row")),
}


def chosen(backend: Any, x: Any, w: Any, options: dict[str, Any]) -> tuple[str, ...]:
    geometry = ConvGeometry.of(x, w, **options)
    return tuple(plan_for(name, geometry, "float32", backend, "auto").algorithm.name for name in PASSES)


@pytest.mark.parametrize("name", RULE)
def test_rule_on_a_cpu(name: str) -> None:
    x, w, options, expected = RULE[name]
    with xpcnn.use_backend("numpy") as backend:
        assert chosen(backend, x, w, options) == expected
        assert chosen(backend, x, w, options) == expected


@pytest.mark.parametrize("name", RULE)
def test_rule_elsewhere(make: Any, name: str) -> None:
    """The library's own convolution where there is one; otherwise one large product."""
    x, w, options, _ = RULE[name]
    with make.use() as backend:
        if backend.name == "numpy":
            return
        usable = [name for name, one in backend.convolutions.items() if one.unsupported("float32") is None]
        best = next(iter(usable), "im2col")
        assert chosen(backend, x, w, options) == (best,) * 3
        assert (best == "native") == (backend.name == "torch")


def test_the_workspace_limit_comes_first() -> None:
    """Too little for the preferred algorithm, enough for the next."""
    x, w, options, _ = RULE["VGG 3x3"]
    limit = xpcnn.get_workspace_limit()
    try:
        xpcnn.set_workspace_limit(700_000)
        with xpcnn.use_backend("numpy") as backend:
            assert chosen(backend, x, w, options)[0] == "kn2row"
    finally:
        xpcnn.set_workspace_limit(limit)
