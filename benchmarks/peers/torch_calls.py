"""PyTorch's side of the contests; to be called in its process, with what can be sent there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xpcnn.backend.torch_peer import Spec, TorchPeer
from xpcnn.ops import ConvGeometry

__all__ = ["convolution", "inference", "training"]


def training(
    peer: TorchPeer,
    spec: Spec,
    state: Sequence[np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    layout: str,
) -> Callable[[], Any]:
    """Return a training step by Adam, which gives its loss; arguments as for `TorchPeer.network`."""
    return peer.network(spec, state, images, labels, layout)["train"]


def inference(
    peer: TorchPeer,
    spec: Spec,
    state: Sequence[np.ndarray],
    batches: Sequence[tuple[np.ndarray, np.ndarray]],
    layout: str,
) -> Callable[[], Any]:
    """Return inference of batches of images (and labels, of which nothing depends): the logits of each."""
    # A network belongs to its images: one for each batch, of the same weights.
    parts = [peer.network(spec, state, *batch, layout)["inference"] for batch in batches]
    return lambda: [part() for part in parts]


def convolution(
    peer: TorchPeer,
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    geometry: ConvGeometry,
    layout: str,
) -> Callable[[], Any]:
    """Return a convolution of (x, weight, dy) forward and backward, which gives y, dx and dweight."""
    import torch

    x, weight, dy = (peer.tensor(array, layout) for array in arrays)
    inputs = x.requires_grad_(), weight.requires_grad_()
    top, _, left, _ = geometry.padding

    def call() -> tuple[Any, Any, Any]:
        y = torch.nn.functional.conv2d(*inputs, None, geometry.stride, (top, left), 1, geometry.groups)
        return y, *torch.autograd.grad(y, inputs, dy)

    return call
