"""The plan of a convolution: made once, for all that it depends on, and never changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.conv_cases import CASES
from tests.support.ops import draw
from xpcnn import errors, ops
from xpcnn.ops.conv import executor, plan
from xpcnn.ops.conv.algorithm import PASSES
from xpcnn.ops.conv.executor import plan_for

GEOMETRY = ops.ConvGeometry.of((6, 4, 12, 10), (8, 4, 3, 3), padding=1)
NUMPY = xpcnn.backend_of(np.zeros(1))
FLOAT32 = np.dtype("float32")


@pytest.fixture(autouse=True)
def made(numpy_alone: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passes whose plans were made; there are none at first."""
    found: list[str] = []
    make = plan.make_plan

    def noted(pass_name: str, *others: Any) -> Any:
        found.append(pass_name)
        return make(pass_name, *others)

    monkeypatch.setattr(executor, "make_plan", noted)
    monkeypatch.setattr(executor, "_plans", {})
    return found


@pytest.mark.parametrize("algorithm", ["auto", "im2col", "kn2row"])
@pytest.mark.parametrize("limit", [None, 30_000], ids=["whole", "in tiles"])
def test_once_for_each_pass(made: list[str], algorithm: str, limit: int | None) -> None:
    xpcnn.set_workspace_limit(limit)
    x, w = draw(*GEOMETRY.input_shape, dtype="float32"), draw(*GEOMETRY.weight_shape, dtype="float32")
    for _ in range(3):
        y, ctx = ops.conv2d(x, w, padding=1, algorithm=algorithm)
        ops.conv2d.backward(ctx, y)
    assert sorted(made) == sorted(PASSES)


def ask(
    geometry: Any = GEOMETRY,
    pass_name: str = "forward",
    dtype: Any = FLOAT32,
    backend: Any = NUMPY,
    name: str = "auto",
) -> Any:
    return plan_for(pass_name, geometry, dtype, backend, name)


def in_reference() -> Any:
    with xpcnn.reference():
        return ask()


def on_strict() -> Any:
    with xpcnn.use_backend("array_api_strict") as strict:
        return ask(dtype=strict.xp.float32, backend=strict)


OTHERS: dict[str, Callable[[], Any]] = {
    "geometry": lambda: ask(GEOMETRY.with_batch(7)),
    "pass": lambda: ask(pass_name="grad_weight"),
    "dtype": lambda: ask(dtype=np.dtype("float64")),
    "backend": on_strict,
    "name": lambda: ask(name="im2col"),
    "limit": lambda: (xpcnn.set_workspace_limit(50_000), ask())[1],
    "reference": in_reference,
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_what_it_depends_on(made: list[str], other: Callable[[], Any]) -> None:
    first = ask()
    assert ask() is first
    second = other()
    assert second is not first
    assert len(made) == 2
    xpcnn.set_workspace_limit(None)
    assert ask() is first
    assert len(made) == 2


def test_new_convolutions_of_a_backend_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Everything:
        fuses_epilogue = accepts_out = False

        def workspace_bytes(self, geometry: Any, dtype: Any) -> int:
            return 0

        forward = grad_input = grad_weight = workspace_bytes

        def unsupported(self, geometry: Any, dtype: Any) -> None:
            return None

    assert ask().algorithm.name != "native"
    monkeypatch.setattr(NUMPY, "convolutions", {"native": Everything()})
    assert ask().algorithm.name == "native"


def test_it_cannot_be_changed() -> None:
    assert ask(dataclasses.replace(GEOMETRY)) is ask()
    with pytest.raises(dataclasses.FrozenInstanceError):
        ask().max_workers = 3


def test_they_are_not_kept_without_end(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_MOST_PLANS", 3)
    for n in range(20):
        ask(GEOMETRY.with_batch(n + 1))
        assert len(executor._plans) <= 3


def test_many_tiles_are_not_kept(made: list[str]) -> None:
    """A plan of a large batch in small tiles takes megabytes."""
    xpcnn.set_workspace_limit(30_000)
    assert ask() is ask()
    assert len(ask(GEOMETRY.with_batch(2000)).tiles) > executor._MOST_TILES
    assert list(executor._plans.values()) == [ask()]


def test_a_refusal_is_not_kept(made: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(errors.AlgorithmError, match="needs stride 1"):
            ask(ops.ConvGeometry.of((1, 1, 9, 9), (1, 1, 3, 3), 2), name="winograd")
    assert executor._plans == {}


@pytest.mark.parametrize("pass_name", PASSES)
@pytest.mark.parametrize("limit", [12_000, 3_000])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_tiles_cover_the_output_once(case: Any, limit: int, pass_name: str) -> None:
    """Each number of y belongs to one tile, whose workspace keeps to the limit."""
    geometry = ops.ConvGeometry.of(case.x, case.w, **case.options)
    xpcnn.set_workspace_limit(limit)
    for name in ("im2col", "kn2row", "mec"):
        try:
            found = ask(geometry, pass_name, name=name)
        except errors.AlgorithmError:
            assert limit < 12_000
            continue
        count = np.zeros(geometry.output_shape, int)
        for tile in found.tiles:
            count[tile.outputs] += 1
            assert count[tile.outputs].shape == tile.geometry.output_shape
            assert np.zeros(geometry.input_shape)[tile.inputs].shape == tile.geometry.input_shape
            assert found.algorithm.workspace_bytes(tile.geometry, FLOAT32) <= min(limit, found.workspace)
        assert (count == (0 if found.is_whole else 1)).all()
        assert found.max_workers == 1 or found.max_workers * found.workspace <= limit


def test_no_tiles_in_reference() -> None:
    xpcnn.set_workspace_limit(3_000)
    with xpcnn.reference():
        assert ask().is_whole
        grouped = ask(ops.ConvGeometry.of((6, 4, 12, 10), (8, 2, 3, 3), groups=2))
    assert [tile.inputs[0] for tile in grouped.tiles] == [slice(0, 6)] * 2
