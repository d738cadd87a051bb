"""How much memory a call, a training step, and evaluating 10,000 images take.

    python -m benchmarks.peak_memory                                # evaluating 10,000 images
    python -m benchmarks.peak_memory --model deep_convnet
    python -m benchmarks.peak_memory --model deep_convnet --step    # a training step, beside its contexts

Evaluation: what one call adds to the resting process, which holds the images and the model and has evaluated
one image. Step: the most that the third step holds at one time beside parameters, optimiser state and the
batch, and all arrays that can be reached from the contexts of a forward pass, each memory counted once.
"""

from __future__ import annotations

import argparse
import mmap
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from xpcnn import Trainer, data, models, optim
from xpcnn.backend import Backend, Key
from xpcnn.cli.bench import traced_memory
from xpcnn.cli.bench_cases import MODELS, ModelCase
from xpcnn.train import evaluate

__all__ = ["MemoryUse", "array_bytes", "evaluation_memory", "memory_use", "step_memory"]

MEGABYTE = 1 << 20


class MemoryUse(NamedTuple):
    """What a call allocated, in bytes.

    Attributes
    ----------
    peak : int
        The most that was held at one time, beside what was there before.
    kept : int
        What was still held after the call: its result.
    """

    peak: int
    kept: int

    @property
    def workspace(self) -> int:
        """The peak without the result."""
        return self.peak - self.kept


def memory_use(backend: Backend, call: Callable[[], Any]) -> MemoryUse | None:
    """Call once, and return what it allocated; None where nothing counts that (PyTorch on a CPU).

    NumPy's arrays are counted by `tracemalloc`, which slows Python down; CuPy's where its memory pool hands
    them out, and rounds them up to 512 bytes; PyTorch's on a GPU by PyTorch.

    Examples
    --------
    >>> import numpy as np, xpcnn
    >>> with xpcnn.use_backend("numpy") as backend:
    ...     use = memory_use(backend, lambda: (np.ones(1 << 20, dtype="int8") * 2)[:5].copy())
    >>> round(use.peak / (1 << 20)), use.kept < 10_000
    (2, True)
    """
    if backend.name in ("numpy", "array_api_strict"):
        return MemoryUse(*traced_memory(call))
    counter = {"cupy": _in_pool, "torch": _in_torch}.get(backend.name)
    return None if counter is None else counter(backend, call)


def _in_pool(backend: Backend, call: Callable[[], Any]) -> MemoryUse:
    import cupy

    class Counter(cupy.cuda.MemoryHook):  # type: ignore[misc]
        """Follows the pool's blocks; those that were handed out before are none of its business."""

        name = "xpcnn memory use"

        def __init__(self) -> None:
            self.sizes: dict[int, int] = {}
            self.held = self.peak = 0

        def malloc_postprocess(self, **block: Any) -> None:
            self.sizes[block["mem_ptr"]] = block["mem_size"]
            self.held += block["mem_size"]
            self.peak = max(self.peak, self.held)

        def free_postprocess(self, **block: Any) -> None:
            self.held -= self.sizes.pop(block["mem_ptr"], 0)

    backend.synchronize()
    with Counter() as counter:
        result = call()
        backend.synchronize()
        use = MemoryUse(counter.peak, counter.held)
        del result
    return use


def _in_torch(backend: Backend, call: Callable[[], Any]) -> MemoryUse | None:
    import torch

    if backend.device.type != "cuda":
        return None
    backend.synchronize()
    before = torch.cuda.memory_allocated(backend.device)
    torch.cuda.reset_peak_memory_stats(backend.device)
    result = call()
    backend.synchronize()
    peak = torch.cuda.max_memory_allocated(backend.device)
    kept = torch.cuda.memory_allocated(backend.device)
    del result
    return MemoryUse(peak - before, kept - before)


# -- a training step, and evaluation -------------------------------------------------------


def step_memory(case: ModelCase) -> tuple[int, int]:
    """Return the peak of a training step, and the contexts of a forward pass, in bytes.

    To be called in a process of its own: what is allocated before is not counted.
    """
    images, labels = case.batch()
    Trainer(model := case.build(), optim.Adam(model)).step(images[:2], labels[:2])  # loads what loads lazily
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        images, labels = case.batch()
        model = case.build()
        optimizer = optim.Adam(model, lr=1e-3)
        trainer = Trainer(model, optimizer)
        for _ in range(2):  # the optimiser's state is there, and what is kept for later steps
            trainer.step(images, labels)
        tracemalloc.reset_peak()
        trainer.step(images, labels)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    _, ctx = model.forward(images, train=True, key=Key(0))
    return peak - before - array_bytes(model, optimizer, images, labels), array_bytes(ctx)


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


def evaluation_memory(name: str, samples: int) -> int:
    """Return the bytes that evaluating a model on so many digits adds to this process, beside the images.

    To be called in a process of its own, which has held no more before.
    """
    model, digits = models.build(name), data.synthetic_digits(samples)
    evaluate(model, digits[:1])
    rest = resting_bytes()
    evaluate(model, digits)
    return peak_bytes() - rest


def peak_bytes() -> int:
    """Return the most memory this process has ever held.

    Not of `getrusage`: that begins with what the parent held when this process was started.
    """
    with open("/proc/self/status") as file:
        kib = next(line.split()[1] for line in file if line.startswith("VmHWM:"))
    return int(kib) * 1024


def resting_bytes() -> int:
    """Return what this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="simple_convnet", choices=models.model_names())
    parser.add_argument("--samples", type=int, default=10_000, help="images to evaluate (default: 10,000)")
    parser.add_argument("--step", action="store_true", help="measure a training step")
    options = parser.parse_args(arguments)
    if options.step:
        cases = {case.model: case for case in MODELS.values()}
        if options.model not in cases:
            parser.error(f"--step: --model is one of {', '.join(cases)}")
        peak, contexts = step_memory(cases[options.model])
        print(
            f"{options.model}, training step, batch {cases[options.model].shape[0]}: "
            f"peak {peak / MEGABYTE:.0f} MB, contexts {contexts / MEGABYTE:.0f} MB: {peak / contexts:.2f}"
        )
        return
    added = evaluation_memory(options.model, options.samples) / MEGABYTE
    print(f"{options.model}: {options.samples:,} images evaluated, {added:.0f} MB above the resting process")


if __name__ == "__main__":
    main()
