"""The memory of a training step, beside what its backward pass needs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.peers.networks import batch_of
from xpcnn import Trainer, models, optim
from xpcnn.backend import Backend, Key
from xpcnn.bench.geometries import NetworkCase

__all__ = ["StepMemory", "array_bytes", "step_memory"]

_STEPS = 2
"""Steps before the one that is measured: the optimiser's state is there, and what is kept for later steps."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step.

    Attributes
    ----------
    row, work : str
    threads : int
    peak : int
        The most that is held at one time beside the parameters, the optimiser's state and the batch. What a
        step leaves behind for the next one is in it, as long as it is an array.
    contexts : int
        All arrays that a forward pass leaves for backward, each counted once.
    made : int
        Of these, what the forward pass made: neither parameters nor images.
    """

    row: str
    work: str
    threads: int
    peak: int
    contexts: int
    made: int

    @property
    def ratio(self) -> float:
        """The peak by the contexts."""
        return self.peak / self.contexts

    def to_json(self) -> dict[str, Any]:
        """Return what is kept of it."""
        return {"kind": "memory", **asdict(self), "ratio": self.ratio}


def step_memory(row: str, work: str, threads: int, case: NetworkCase) -> StepMemory:
    """Measure a step; in a process of its own, since what is allocated before is not counted."""
    model = models.build(case.model, **case.options)  # loads what is loaded lazily
    images, labels = batch_of(case)
    Trainer(model, optim.Adam(model)).step(images[:2], labels[:2])
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        model = models.build(case.model, **case.options)
        images, labels = batch_of(case)
        optimizer = optim.Adam(model, lr=1e-3)
        trainer = Trainer(model, optimizer)
        for _ in range(_STEPS):
            trainer.step(images, labels)
        tracemalloc.reset_peak()
        trainer.step(images, labels)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    resting = array_bytes(model, optimizer, images, labels)
    _, ctx = model.forward(images, train=True, key=Key(0))
    known = array_bytes(model, images)
    return StepMemory(
        row, work, threads, peak - before - resting, array_bytes(ctx), array_bytes(ctx, model, images) - known
    )


def array_bytes(*things: Any) -> int:
    """Return the bytes of all arrays that can be reached from `things`, each memory counted once.

    Examples
    --------
    >>> x = np.zeros(10)
    >>> array_bytes((x, {"part": x[:5]}), [np.zeros(2)])
    96
    """
    return sum({id(owner): owner.nbytes for owner in map(_owner, _arrays(things, set()))}.values())


def _owner(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _arrays(thing: Any, seen: set[int]) -> Iterator[np.ndarray]:
    if id(thing) in seen or isinstance(thing, type | Backend):
        return
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        yield thing
        return
    parts: Iterable[Any] = ()
    if isinstance(thing, dict):
        parts = thing.values()
    elif isinstance(thing, tuple | list):
        parts = thing
    elif type(thing).__module__.startswith("xpcnn."):
        slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        parts = [*getattr(thing, "__dict__", {}).values(), *(getattr(thing, name, None) for name in slots)]
    for part in parts:
        yield from _arrays(part, seen)
