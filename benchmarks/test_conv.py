"""Convolution: every algorithm, pass and geometry, the matrix product it comes down to, and the peers."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from benchmarks.conftest import TORCH
from xpcnn import ops
from xpcnn.backend import Backend
from xpcnn.backend.torch_peer import TorchPeer
from xpcnn.bench import convolutions
from xpcnn.bench.geometries import CONVOLUTIONS
from xpcnn.bench.measure import FLOOR, PLAIN_LOOP, Problem


@functools.lru_cache(maxsize=1)  # tests come geometry by geometry
def problem(name: str, backend: Backend, torch_peer: TorchPeer | None) -> Problem:
    return convolutions.problem(
        name, CONVOLUTIONS[name], backend, torch_peer=torch_peer, plain_loop=backend.name == "numpy"
    )


@pytest.mark.parametrize("algorithm", [FLOOR, *ops.algorithm_names(), *TORCH, PLAIN_LOOP])
@pytest.mark.parametrize("pass_name", convolutions.PASSES)
@pytest.mark.parametrize("geometry", CONVOLUTIONS)
def test_conv(
    run: Any,
    backend: Backend,
    torch_peer: TorchPeer | None,
    geometry: str,
    pass_name: str,
    algorithm: str,
) -> None:
    run(problem(geometry, backend, torch_peer), algorithm, pass_name)
