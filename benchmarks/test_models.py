"""A training step and inference of simple_convnet, deep_convnet and the ResNet-18 for CIFAR."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.conftest import TORCH
from benchmarks.torch_reference import LAYOUTS, TorchReference, spec_of
from xpcnn.backend import get_backend, to_numpy, use_backend
from xpcnn.cli import bench_cases
from xpcnn.cli.bench_cases import CHECKED, MODEL_PASSES, MODELS, STEPS, Candidate, ModelCase, Problem


@functools.lru_cache(maxsize=1)
def problem(name: str, torch: TorchReference | None) -> Problem:
    """Return the model on the current backend, with PyTorch's candidates."""
    case = MODELS[name]
    one = bench_cases.model_problem(name, case, get_backend())
    if torch is not None:
        for layout in LAYOUTS:
            for pass_name in MODEL_PASSES:
                prepare = functools.partial(torch_call, torch, case, pass_name, layout)
                evidence = functools.partial(torch_evidence, torch, case, pass_name, layout)
                one.candidates.append(Candidate("torch", pass_name, prepare, evidence, layout))
    return one


def torch_call(
    torch: TorchReference,
    case: ModelCase,
    pass_name: str,
    layout: str,
    images: int | None = None,
    **options: Any,
) -> Callable[[], Any]:
    """Prepare PyTorch's pass, from the same initial weights; with few images, without dropout."""
    with use_backend("numpy"):
        model = case.build(dropout=images is None)
    state = [to_numpy(value) for value in model.state_dict().values()]
    x, t = (array[:images] for array in case.batch())
    return torch.network(spec_of(model), state, x, t, layout, **options)[pass_name]


def torch_evidence(
    torch: TorchReference, case: ModelCase, pass_name: str, layout: str, result: Any
) -> np.ndarray:
    """Return what `bench_cases.model_result` does, of PyTorch."""
    if pass_name == "inference":
        return torch.host(result)[:CHECKED]
    step = torch_call(torch, case, pass_name, layout, CHECKED, optimizer="SGD", lr=bench_cases.SGD_LR)
    return bench_cases.descent([float(step()) for _ in range(STEPS)])


@pytest.mark.parametrize("candidate", ["auto", *TORCH])
@pytest.mark.parametrize("pass_name", MODEL_PASSES)
@pytest.mark.parametrize("model", MODELS)
def test_model(run: Any, torch: TorchReference | None, model: str, pass_name: str, candidate: str) -> None:
    run(problem(model, torch), candidate, pass_name)
