"""The share of a step outside compiled calls: what is timed, what counts, and that all is put back."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import outside_kernels
from tests.support.native import needs_kernels
from xpcnn.backend.cpu.native.library import library
from xpcnn.cli.bench_cases import MODELS, ModelCase


def test_functions_are_timed_and_put_back() -> None:
    def sleep(seconds: float, *, twice: bool = False) -> str:
        time.sleep(seconds * (1 + twice))
        return "slept"

    owner, matmul = SimpleNamespace(sleep=sleep, lanes=8), np.matmul
    with outside_kernels.timed_calls([(owner, "sleep"), (np, "matmul")]) as seconds:
        assert owner.sleep(0.01, twice=True) == "slept"
        assert np.matmul(np.ones((2, 2)), np.ones(2)).tolist() == [2.0, 2.0]
    assert len(seconds) == 2
    assert seconds[0] >= 0.02 > seconds[1]
    assert (owner.sleep, owner.lanes, np.matmul) == (sleep, 8, matmul)


def test_the_share() -> None:
    """A step of a call in the kernels, one of those of F(4×4), and as long again outside."""
    kernels: Any = SimpleNamespace(width=lambda: None, forward=lambda: time.sleep(0.01))
    kernels.winograd = {4: SimpleNamespace(forward=lambda: time.sleep(0.01))}

    def step() -> None:
        kernels.forward()
        kernels.winograd[4].forward()
        time.sleep(0.02)

    found = outside_kernels.share_outside(step, kernels, 1)
    assert found["calls"] == 2
    assert found["step_ms"] > found["kernels_ms"] > 19
    assert found["products_ms"] == 0
    assert found["share_outside"] == pytest.approx(0.5, abs=0.2)


@needs_kernels
def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(MODELS, "simple_convnet", ModelCase("simple_convnet", {"hidden": 5}, (3, 1, 28, 28)))
    before = dict(vars(library("float32")))
    outside_kernels.main(["--models", "simple_convnet", "--rounds", "1"])
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["kernels"].startswith(("v", "neon"))
    simple = found["simple_convnet"]
    assert simple["calls"] >= 10
    assert min(simple["kernels_ms"], simple["products_ms"]) > 0
    assert simple["share_outside"] == 1 - simple["kernels_ms"] / simple["step_ms"]
    assert vars(library("float32")) == before


def test_without_kernels(numpy_alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        outside_kernels.main([])
    assert "there are no compiled kernels: switched off by $XPCNN_NATIVE=0" in capsys.readouterr().err
