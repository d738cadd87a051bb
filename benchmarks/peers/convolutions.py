"""A convolution forward and backward to both its inputs, ours and PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.contest import Calls, require_equal
from xpcnn import ops
from xpcnn.backend import get_backend
from xpcnn.backend.torch_peer import LAYOUTS, TorchPeer
from xpcnn.bench.calls import in_channels_last
from xpcnn.bench.convolutions import host_arrays
from xpcnn.bench.measure import OURS
from xpcnn.ops import ConvGeometry

__all__ = ["forward_backward"]


def forward_backward(geometry: ConvGeometry, peer: TorchPeer) -> tuple[Calls, float]:
    """Return the calls, which give (y, dx, dweight), and how far these are apart at most.

    Ours gets its images as a layer leaves them, channels-last, and runs as in a model.
    """
    backend = get_backend()
    x, weight, dy = arrays = host_arrays(geometry, "float32")
    images, gradient = in_channels_last(backend, x), in_channels_last(backend, dy)
    filters = backend.asarray(weight)
    top, _, left, _ = geometry.padding

    def ours() -> tuple[Any, Any, Any]:
        with backend.model_run():
            y, ctx = ops.conv2d(
                images, filters, stride=geometry.stride, padding=(top, left), groups=geometry.groups
            )
            dx, dweight, _ = ops.conv2d_backward(ctx, gradient)
        return y, dx, dweight

    calls: dict[str, Callable[[], Any]] = {OURS: ours}
    for layout in LAYOUTS:
        calls[layout] = _torchs(arrays, layout, geometry, peer)
    results = {
        name: [np.asarray(part) if name == OURS else peer.host(part) for part in call()]
        for name, call in calls.items()
    }
    off = [
        require_equal(part, {name: found[i] for name, found in results.items()})
        for i, part in enumerate(("y", "dx", "dweight"))
    ]
    return calls, max(off)


def _torchs(
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray], layout: str, geometry: ConvGeometry, peer: TorchPeer
) -> Callable[[], Any]:
    import torch

    x, weight, dy = (peer.tensor(array, layout) for array in arrays)
    inputs = x.requires_grad_(), weight.requires_grad_()
    top, _, left, _ = geometry.padding

    def call() -> tuple[Any, Any, Any]:
        y = torch.nn.functional.conv2d(*inputs, None, geometry.stride, (top, left), 1, geometry.groups)
        return y, *torch.autograd.grad(y, inputs, dy)

    return call
