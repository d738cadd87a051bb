"""Where the processor time of a training step goes, by op, algorithm and pass."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import xpcnn
from benchmarks.peers.networks import batch_of
from benchmarks.peers.tables import text
from xpcnn import Trainer, models, ops, optim
from xpcnn.backend.threads import THREADS_VARIABLE
from xpcnn.bench.geometries import NETWORKS, NetworkCase

__all__ = ["MODELS", "Owner", "Profile", "owner_of", "profiled", "table_of"]

MODELS: Mapping[str, NetworkCase] = {case.model: case for case in NETWORKS.values()}
"""What can be profiled."""

_STEPS = 10
_LEAST_SHARE = 0.001
"""Lines that take less are summed up in the last one."""

_PACKAGE = Path(xpcnn.__file__).parent
_PASSES = ("forward", "grad_input", "grad_weight")


class Owner(NamedTuple):
    """Whom time is put down to.

    Attributes
    ----------
    level : int
        What is called by an owner and has no higher level belongs to the caller: an op that is part of
        another, the forward pass that computes a gradient.
    op, algorithm, pass_name : str
    """

    level: int
    op: str
    algorithm: str = ""
    pass_name: str = ""


_OTHERS = Owner(0, "other")
_PACKAGES = {
    "train": Owner(1, "trainer"),
    "nn": Owner(2, "layers and containers"),
    "optim": Owner(2, "optimiser", "", "update"),
}


@functools.cache
def owner_of(code: CodeType) -> Owner | None:
    """Return whose time that of a function is; None where it is its caller's."""
    file = Path(code.co_filename)
    if not file.is_relative_to(_PACKAGE):
        return None
    package, *_, module = file.relative_to(_PACKAGE).with_suffix("").parts
    name = code.co_name
    if package != "ops":
        return _PACKAGES.get(package)
    one_pass = name.removesuffix("_partial").removeprefix("finish_")
    if file.parent.name == "algorithms" and one_pass in _PASSES:
        return Owner(4, "convolution", module, one_pass)
    pass_name = "backward" if name.endswith("_grad") else "forward"
    op = name.removeprefix("_").removesuffix("_grad")
    if op not in ops.__all__:
        return None
    if op.startswith("conv2d"):
        return Owner(3, "convolution", "bias and tiles", pass_name)
    return Owner(3, op, "", pass_name)


@dataclass
class Profile:
    """Follows the calls of this thread, and puts the time between two events down to an owner.

    Attributes
    ----------
    seconds : dict of Owner to float
    calls : dict of Owner to int
        How often it was entered.
    """

    clock: Callable[[], float] = time.process_time
    seconds: dict[Owner, float] = field(default_factory=dict)
    calls: dict[Owner, int] = field(default_factory=dict)

    def __enter__(self) -> Profile:
        self._stack = [_OTHERS]
        self._last = self.clock()
        sys.setprofile(self._event)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return"):
            return
        now, current = self.clock(), self._stack[-1]
        self.seconds[current] = self.seconds.get(current, 0.0) + now - self._last
        if event == "call":
            found = owner_of(frame.f_code)
            if found is not None and found.level > current.level:
                self.calls[found] = self.calls.get(found, 0) + 1
                current = found
            self._stack.append(current)
        elif len(self._stack) > 1:  # the frame that began the profile returns too
            self._stack.pop()
        self._last = self.clock()


def profiled(case: NetworkCase, steps: int) -> tuple[Profile, float]:
    """Return the profile of some training steps, and the processor seconds of as many without it."""
    model = models.build(case.model, **case.options)
    trainer = Trainer(model, optim.Adam(model, lr=1e-3))
    images, labels = batch_of(case)

    def run() -> float:
        begun = time.process_time()
        for _ in range(steps):
            trainer.step(images, labels)
        return time.process_time() - begun

    trainer.step(images, labels)
    plain = run()
    with Profile() as profile:
        run()
    return profile, plain


def table_of(model: str, steps: int = _STEPS) -> str:
    """Return the table for a model of `MODELS`, in one thread, since a profiler sees no others."""
    os.environ[THREADS_VARIABLE] = "1"
    case = MODELS[model]
    profile, plain = profiled(case, steps)
    total = sum(profile.seconds.values())
    lines = [["op", "algorithm", "pass", "calls", "ms", "share"]]
    few = 0.0
    for owner, seconds in sorted(profile.seconds.items(), key=lambda item: -item[1]):
        if seconds < _LEAST_SHARE * total:
            few += seconds
            continue
        calls = profile.calls.get(owner, 0) / steps
        lines.append([*owner[1:], f"{calls:.0f}", *_figures(seconds, steps, total)])
    lines.append(["what is less", "", "", "", *_figures(few, steps, total)])
    shape = "x".join(map(str, case.shape))
    title = f"{model}, batch {shape}, one thread: {1e3 * plain / steps:.1f} ms of the processor a step, "
    return f"{title}{1e3 * total / steps:.1f} ms when followed\n\n{text(lines)}"


def _figures(seconds: float, steps: int, total: float) -> list[str]:
    return [f"{1e3 * seconds / steps:.2f}", f"{seconds / total:.1%}"]
