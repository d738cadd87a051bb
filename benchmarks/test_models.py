"""A training step and inference of simple_convnet, deep_convnet and the ResNet-18 for CIFAR."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from benchmarks.conftest import TORCH
from xpcnn.backend import Backend
from xpcnn.backend.torch_peer import TorchPeer
from xpcnn.bench import networks
from xpcnn.bench.geometries import NETWORKS
from xpcnn.bench.measure import Problem


@functools.lru_cache(maxsize=1)
def problem(name: str, backend: Backend, torch_peer: TorchPeer | None) -> Problem:
    return networks.problem(name, NETWORKS[name], backend, torch_peer=torch_peer)


@pytest.mark.parametrize("contestant", ["auto", *TORCH])
@pytest.mark.parametrize("pass_name", networks.PASSES)
@pytest.mark.parametrize("model", NETWORKS)
def test_model(
    run: Any, backend: Backend, torch_peer: TorchPeer | None, model: str, pass_name: str, contestant: str
) -> None:
    run(problem(model, backend, torch_peer), contestant, pass_name)
