"""Pooling, batch normalisation and ReLU."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from benchmarks.conftest import TORCH
from xpcnn.backend import Backend
from xpcnn.backend.torch_peer import TorchPeer
from xpcnn.bench import layers
from xpcnn.bench.geometries import LAYERS
from xpcnn.bench.measure import OURS, Problem


@functools.lru_cache(maxsize=1)
def problem(name: str, backend: Backend, torch_peer: TorchPeer | None) -> Problem:
    return layers.problem(name, LAYERS[name], backend, torch_peer=torch_peer)


@pytest.mark.parametrize("contestant", [OURS, *TORCH])
@pytest.mark.parametrize("pass_name", layers.PASSES)
@pytest.mark.parametrize("layer", LAYERS)
def test_layer(
    run: Any, backend: Backend, torch_peer: TorchPeer | None, layer: str, pass_name: str, contestant: str
) -> None:
    run(problem(layer, backend, torch_peer), contestant, pass_name)
