"""A training step and inference of whole networks: ours by algorithm, and PyTorch's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xpcnn import models, nn, optim
from xpcnn.backend import Backend, backend_of, to_numpy, use_backend
from xpcnn.backend.torch_peer import LAYOUTS, TorchPeer
from xpcnn.bench.calls import waited
from xpcnn.bench.geometries import NetworkCase
from xpcnn.bench.measure import Contestant, Problem
from xpcnn.bench.network_spec import spec_of
from xpcnn.bench.oracle import Expected
from xpcnn.ops import conv_algorithm, softmax_cross_entropy
from xpcnn.train import Trainer

__all__ = ["PASSES", "problem"]

PASSES = ("train", "inference")

_TOLERANCE: Mapping[str, float] = {"float32": 2e-2, "float64": 1e-8}
"""Rounding adds up through many layers; a layer that is wrong is off by far more."""

_REFERENCE = "as_strided"
"""The convolution that the answers are computed with."""

_CHECKED = 4
"""The images that the answers are computed for."""

_BACKWARD = 2
"""The backward pass multiplies twice as much as the forward pass."""

Images = tuple[np.ndarray, np.ndarray]
"""Some images and their labels."""


def problem(
    name: str,
    case: NetworkCase,
    backend: Backend,
    *,
    dtype: str = "float32",
    algorithms: Iterable[str] = ("auto",),
    passes: Iterable[str] = PASSES,
    torch_peer: TorchPeer | None = None,
) -> Problem:
    """Return a network as a problem; `backend` must be the current one.

    A training step is that of `Trainer` with Adam, inference the logits of a batch. The answers are given by
    the same network in float64 on NumPy, with another convolution: for inference the logits, for training
    the gradients of all parameters, without dropout, whose masks differ between libraries.
    """
    rng = np.random.default_rng(0)
    images = rng.standard_normal(case.shape, np.float32).astype(dtype)
    labels = rng.integers(0, 10, case.shape[0])
    few = images[:_CHECKED], labels[:_CHECKED]
    answers = functools.cache(functools.partial(_answers, case, few))
    model = _built(case, dtype)
    contestants = []
    for algorithm in algorithms:
        for one in passes:
            prepare = functools.partial(_ours, one, case, images, labels, dtype, algorithm)
            evidence = functools.partial(_evidence, one, case, few, dtype, algorithm, answers)
            contestants.append(Contestant(algorithm, one, prepare, evidence, backend))
    if torch_peer is not None:
        for layout in LAYOUTS:
            for one in passes:
                theirs = functools.partial(_torch, torch_peer, one, case, images, labels, layout, dtype)
                shown = functools.partial(_torch_evidence, torch_peer, one, case, few, layout, dtype, answers)
                contestants.append(Contestant("torch", one, theirs, shown, variant=layout))
    macs = nn.summary(model, case.shape[1:]).macs * case.shape[0]
    return Problem(
        name,
        f"batch {'x'.join(map(str, case.shape))}",
        contestants,
        operations=lambda one: 2.0 * macs * (1 + (_BACKWARD if one == "train" else 0)),
        traffic=lambda _: 0.0,
        expected=functools.partial(_expected, case=case, few=few, answers=answers),
        tolerance=_TOLERANCE[dtype],
    )


def _built(case: NetworkCase, dtype: str) -> nn.Layer:
    return models.build(case.model, **case.options, dtype=dtype)


def _without_dropout(case: NetworkCase, dtype: str) -> nn.Layer:
    """Return the model with its dropout switched off; its initial weights are the same."""
    model = _built(case, dtype)
    for layer in _every_layer(model):
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return model


def _every_layer(layer: nn.Layer) -> Iterable[nn.Layer]:
    yield layer
    for child in layer.children().values():
        yield from _every_layer(child)


def _ours(
    pass_name: str, case: NetworkCase, images: np.ndarray, labels: np.ndarray, dtype: str, algorithm: str
) -> Callable[[], Any]:
    model = _built(case, dtype)
    backend = backend_of(next(iter(model.parameters().values())).data)
    x, t = backend.asarray(images), backend.asarray(labels)
    trainer = Trainer(model, optim.Adam(model, lr=1e-3))

    def train() -> Any:
        with conv_algorithm(algorithm):
            return waited(backend, trainer.step(x, t))

    def infer() -> Any:
        with backend.model_run(), conv_algorithm(algorithm):
            return waited(backend, model(x))

    return train if pass_name == "train" else infer


def _evidence(
    pass_name: str,
    case: NetworkCase,
    few: Images,
    dtype: str,
    algorithm: str,
    answers: Callable[[], list[np.ndarray]],
    result: Any,
) -> np.ndarray:
    if pass_name == "inference":
        return to_numpy(result)[:_CHECKED]
    with conv_algorithm(algorithm):
        return _joined(_gradients(_without_dropout(case, dtype), *few), answers())


def _expected(
    pass_name: str, case: NetworkCase, few: Images, answers: Callable[[], list[np.ndarray]]
) -> Expected:
    if pass_name == "train":
        return Expected(_joined(answers(), answers()), as_whole=True)
    with use_backend("numpy") as backend, conv_algorithm(_REFERENCE):
        model = _built(case, "float64")
        return Expected(to_numpy(model(backend.asarray(few[0], "float64"))))


def _answers(case: NetworkCase, few: Images) -> list[np.ndarray]:
    with use_backend("numpy"), conv_algorithm(_REFERENCE):
        return _gradients(_without_dropout(case, "float64"), few[0].astype(np.float64), few[1])


def _gradients(model: nn.Layer, images: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Return the gradients of all parameters, in their order."""
    backend = backend_of(next(iter(model.parameters().values())).data)
    with backend.model_run():
        y, ctx = model.forward(backend.asarray(images), train=True)
        _, loss_ctx = softmax_cross_entropy(y, backend.asarray(labels))
        grads = nn.Gradients()
        model.backward(ctx, softmax_cross_entropy.backward(loss_ctx), grads, need_dx=False)
        return [to_numpy(grads[path]) for path in model.parameters()]


def _joined(gradients: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> np.ndarray:
    """Return all gradients as one vector, each relative to the length of its answer."""
    pairs = zip(gradients, answers, strict=True)
    return np.concatenate([np.float64(one).ravel() / np.linalg.norm(answer) for one, answer in pairs])


def _torch(
    peer: TorchPeer,
    pass_name: str,
    case: NetworkCase,
    images: np.ndarray,
    labels: np.ndarray,
    layout: str,
    dtype: str,
) -> Callable[[], Any]:
    with use_backend("numpy"):
        model = _built(case, dtype)
    state = list(map(to_numpy, model.state_dict().values()))
    return peer.network(spec_of(model), state, images, labels, layout)[pass_name]


def _torch_evidence(
    peer: TorchPeer,
    pass_name: str,
    case: NetworkCase,
    few: Images,
    layout: str,
    dtype: str,
    answers: Callable[[], list[np.ndarray]],
    result: Any,
) -> np.ndarray:
    if pass_name == "inference":
        return peer.host(result)[:_CHECKED]
    with use_backend("numpy"):
        model = _without_dropout(case, dtype)
    state = list(map(to_numpy, model.state_dict().values()))
    return _joined(peer.gradients(spec_of(model), state, *few, layout), answers())
