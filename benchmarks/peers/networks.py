"""Training steps and inference of whole networks, ours and PyTorch's, from the same weights."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.peers.contest import Calls, require_equal
from benchmarks.peers.straightforward import DeepConvNet
from xpcnn import Trainer, models, optim
from xpcnn.backend import get_backend, to_numpy
from xpcnn.backend.torch_peer import LAYOUTS, TorchPeer
from xpcnn.bench import networks
from xpcnn.bench.geometries import NetworkCase
from xpcnn.bench.measure import OURS
from xpcnn.bench.network_spec import spec_of
from xpcnn.ops import softmax
from xpcnn.train import predict
from xpcnn.train.evaluate import EVALUATION_BATCH

__all__ = ["STRAIGHTFORWARD", "batch_of", "beside_straightforward", "inference", "training"]

STRAIGHTFORWARD = "straightforward"

_STEPS = 4
"""Losses that are compared: that of the initial weights, and after one, two, three steps."""


def training(case: NetworkCase, peer: TorchPeer) -> tuple[Calls, float]:
    """Return the training steps, and how far their first losses are apart without dropout.

    With dropout, which is part of the work that is timed, the libraries' masks differ.
    """
    losses = {
        name: [float(step()) for _ in range(_STEPS)]
        for name, step in _training_steps(_without_dropout(case), peer).items()
    }
    return _training_steps(case, peer), require_equal("losses", losses)


def _training_steps(case: NetworkCase, peer: TorchPeer) -> Calls:
    problem = networks.problem(case.model, case, get_backend(), passes=("train",), torch_peer=peer)
    return {one.variant or OURS: one.prepare() for one in problem.contestants}


def _without_dropout(case: NetworkCase) -> NetworkCase:
    if "dropout" not in inspect.signature(getattr(models, case.model)).parameters:
        return case
    return case._replace(options={**case.options, "dropout": 0.0})


def inference(case: NetworkCase, peer: TorchPeer) -> tuple[Calls, float]:
    """Return inference by `predict` and by PyTorch, and how far their probabilities are apart.

    All go through the images in `predict`'s batches, which is faster for PyTorch, too, than all at once.
    """
    model = models.build(case.model, **case.options)
    images, labels = batch_of(case)
    state = [to_numpy(value) for value in model.state_dict().values()]
    calls: dict[str, Callable[[], Any]] = {OURS: lambda: predict(model, images)}
    for layout in LAYOUTS:
        # Its network belongs to its images: one for each batch, of the same weights.
        parts = [
            peer.network(spec_of(model), state, images[rows], labels[rows], layout)["inference"]
            for rows in _batches(case.shape[0])
        ]
        calls[layout] = functools.partial(_all, parts)
    found = {
        name: call() if name == OURS else _probabilities([peer.host(part) for part in call()])
        for name, call in calls.items()
    }
    return calls, require_equal("probabilities", found)


def _all(parts: Sequence[Callable[[], Any]]) -> list[Any]:
    return [part() for part in parts]


def _batches(count: int) -> list[slice]:
    return [slice(start, start + EVALUATION_BATCH) for start in range(0, count, EVALUATION_BATCH)]


def _probabilities(logits: Sequence[np.ndarray]) -> np.ndarray:
    return to_numpy(softmax(get_backend().asarray(np.concatenate(logits)))[0])


def beside_straightforward(case: NetworkCase, _: TorchPeer) -> tuple[Calls, float]:
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
