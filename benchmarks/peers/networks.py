"""Training steps and inference of whole networks, ours and PyTorch's, from the same weights."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np

from benchmarks.peers import torch_calls
from benchmarks.peers.contest import Calls, require_equal
from benchmarks.peers.process import PeerProcess
from benchmarks.peers.straightforward import DeepConvNet
from xpcnn import Trainer, models, nn, optim
from xpcnn.backend import get_backend, to_numpy
from xpcnn.backend.torch_peer import LAYOUTS, Spec
from xpcnn.bench.geometries import NetworkCase
from xpcnn.bench.measure import OURS
from xpcnn.bench.network_spec import spec_of
from xpcnn.ops import softmax
from xpcnn.train import predict

__all__ = ["STRAIGHTFORWARD", "batch_of", "beside_straightforward", "inference", "training"]

STRAIGHTFORWARD = "straightforward"

PYTORCHS_BATCH = 200
"""Images at a time in PyTorch's inference: of 50, 100, 200, 500 and 1,000 what was fastest for it."""

_STEPS = 4
"""Losses that are compared: that of the initial weights, and after one, two, three steps."""


def training(case: NetworkCase, torch: PeerProcess) -> tuple[Calls, float]:
    """Return the training steps, and how far their first losses are apart without dropout.

    With dropout, which is part of the work that is timed, the libraries' masks differ.
    """
    losses = {
        name: [float(step()) for _ in range(_STEPS)]
        for name, step in _training_steps(_without_dropout(case), torch).items()
    }
    return _training_steps(case, torch), require_equal("losses", losses)


def _training_steps(case: NetworkCase, torch: PeerProcess) -> Calls:
    model = models.build(case.model, **case.options)
    images, labels = batch_of(case)
    theirs = {layout: (*_described(model), images, labels, layout) for layout in LAYOUTS}
    trainer = Trainer(model, optim.Adam(model, lr=1e-3))
    return {OURS: lambda: trainer.step(images, labels), **torch.prepare(torch_calls.training, theirs)}


def _described(model: nn.Layer) -> tuple[Spec, list[np.ndarray]]:
    """Return what PyTorch builds the same network from."""
    return spec_of(model), [to_numpy(value) for value in model.state_dict().values()]


def _without_dropout(case: NetworkCase) -> NetworkCase:
    if "dropout" not in inspect.signature(getattr(models, case.model)).parameters:
        return case
    return case._replace(options={**case.options, "dropout": 0.0})


def inference(case: NetworkCase, torch: PeerProcess) -> tuple[Calls, float]:
    """Return inference by `predict` and by PyTorch, and how far their probabilities are apart.

    Each goes through the images in the batches that suit it: `predict` as it does by default.
    """
    model = models.build(case.model, **case.options)
    images, labels = batch_of(case)
    batches = [(images[rows], labels[rows]) for rows in _batches(case.shape[0])]
    theirs = {layout: (*_described(model), batches, layout) for layout in LAYOUTS}
    calls: Calls = {
        OURS: lambda: predict(model, images),
        **torch.prepare(torch_calls.inference, theirs),
    }
    found = {name: call() if name == OURS else _probabilities(call()) for name, call in calls.items()}
    return calls, require_equal("probabilities", found)


def _batches(count: int) -> list[slice]:
    return [slice(start, start + PYTORCHS_BATCH) for start in range(0, count, PYTORCHS_BATCH)]


def _probabilities(logits: Sequence[np.ndarray]) -> np.ndarray:
    return to_numpy(softmax(get_backend().asarray(np.concatenate(logits)))[0])


def beside_straightforward(case: NetworkCase, _: PeerProcess) -> tuple[Calls, float]:
    """Return training steps of deep_convnet, ours and the straightforward one's, as `training` does."""
    losses = {
        name: [float(step()) for _ in range(_STEPS)]
        for name, step in _deep_steps(_without_dropout(case)).items()
    }
    return _deep_steps(case), require_equal("losses", losses)


def _deep_steps(case: NetworkCase) -> Calls:
    model = models.build(case.model, **case.options)
    images, labels = batch_of(case)
    state = {path: to_numpy(value) for path, value in model.state_dict().items()}
    plain = DeepConvNet(state, case.options.get("dropout", 0.5))
    wide = images.astype(np.float64)
    trainer = Trainer(model, optim.Adam(model, lr=1e-3))
    return {
        OURS: lambda: trainer.step(images, labels),
        STRAIGHTFORWARD: lambda: plain.step(wide, labels),
    }


def batch_of(case: NetworkCase) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of a case: normal random numbers, the same in every run."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(case.shape, np.float32), rng.integers(0, 10, case.shape[0])
