"""A convolution forward and backward to both its inputs, ours and PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers import torch_calls
from benchmarks.peers.contest import Calls, require_equal
from benchmarks.peers.process import PeerProcess
from xpcnn import ops
from xpcnn.backend import get_backend
from xpcnn.backend.torch_peer import LAYOUTS
from xpcnn.bench.calls import in_channels_last
from xpcnn.bench.convolutions import host_arrays
from xpcnn.bench.measure import OURS
from xpcnn.ops import ConvGeometry

__all__ = ["forward_backward"]


def forward_backward(geometry: ConvGeometry, torch: PeerProcess) -> tuple[Calls, float]:
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
            dx, dweight, _ = ops.conv2d.backward(ctx, gradient)
        return y, dx, dweight

    theirs = {layout: (arrays, geometry, layout) for layout in LAYOUTS}
    calls: Calls = {OURS: ours, **torch.prepare(torch_calls.convolution, theirs)}
    results = {name: [np.asarray(part) for part in call()] for name, call in calls.items()}
    off = [
        require_equal(part, {name: found[i] for name, found in results.items()})
        for i, part in enumerate(("y", "dx", "dweight"))
    ]
    return calls, max(off)
