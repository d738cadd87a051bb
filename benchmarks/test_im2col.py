"""im2col alone: patch by patch, by a slice for each tap, and by one copy of a strided view."""

from __future__ import annotations

from typing import Any

import pytest

from xpcnn.backend import Backend
from xpcnn.bench import unfolding
from xpcnn.bench.geometries import CONVOLUTIONS

GEOMETRIES = [name for name, geometry in CONVOLUTIONS.items() if geometry.groups == 1]


@pytest.mark.parametrize("way", unfolding.WAYS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_im2col(run: Any, backend: Backend, geometry: str, way: str) -> None:
    run(unfolding.problem(geometry, CONVOLUTIONS[geometry], backend), way, unfolding.PASS)
