"""Choosing algorithms by measuring them, where the user asks for that; `auto`'s own rule never measures."""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

from xpcnn.backend import Array, Backend, Key, dtype_name
from xpcnn.errors import AlgorithmError
from xpcnn.ops.conv.algorithm import algorithm_names, find
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.plan import ConvPlan, plan_or_reason, workspace_limit
from xpcnn.ops.conv.tuning_cache import environment_of, threads_of, tuning_cache

__all__ = ["RunPass", "autotune", "fastest_algorithm", "is_tuning"]

RunPass = Callable[[str, str, Array, Array, ConvGeometry], Array]
"""``run_pass(pass_name, algorithm, a, b, geometry)``: what runs one pass of a convolution."""


class Task(NamedTuple):
    """A pass of a convolution that is measured."""

    geometry: ConvGeometry
    pass_name: str
    dtype: Any
    backend: Backend
    run_pass: RunPass


REFERENCE = "im2col"
_NEVER = ("auto", "loop")
_TOLERANCE = {"float64": 1e-9, "float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""How far from the reference a result may be, relative to the largest value: errors, not rounding."""
_TOLERANCE_TF32 = 1e-2
_RUNS, _SECONDS = 5, 0.2  # of each candidate, at most

_tuning: ContextVar[bool] = ContextVar("xpcnn_autotune", default=False)
is_tuning = _tuning.get
"""Return whether this is inside of `autotune`."""

_chosen: dict[tuple[Any, ...], str] = {}
# One measurement at a time: two would disturb each other.
_lock = threading.RLock()


@contextmanager
def autotune() -> Iterator[None]:
    """Let ``algorithm="auto"`` measure which algorithm is the fastest, inside a ``with`` block.

    The first convolution of each geometry, pass, dtype and device runs every algorithm that can do it within
    the workspace limit (except ``"loop"``) on random numbers, compares the results with those of
    ``"im2col"``, leaves out with a warning whatever is wrong, and takes the fastest by the median of a few
    runs. That takes up to some seconds for each; later ones only look the choice up. The batch size is part
    of the geometry.

    Choices are kept in ``autotune.json`` in ``$XPCNN_CACHE_DIR``, or else in the user's cache folder, and
    hold for the device, its settings and threads, the versions of xpcnn and of the backend's library, and
    the workspace limit they were measured with. Each process reads the file once and writes it whole; where
    several write it, the last one's choices stay. Delete the file to measure again.

    Local to this thread or task. An algorithm that is named, by argument or by `conv_algorithm`, is used as
    ever.

    Notes
    -----
    Algorithms differ in the last bits, and measurements vary. The same program gives the same bits again as
    long as the file is kept; on another machine, or once the file is gone, choices and so last bits may
    differ. Outside of the block ``"auto"`` follows a fixed rule, and does not.

    Examples
    --------
    >>> import os, tempfile, xpcnn
    >>> os.environ["XPCNN_CACHE_DIR"] = tempfile.mkdtemp()
    >>> x, w = xpcnn.asarray([[[[1.0, 2.0]]]]), xpcnn.asarray([[[[3.0]]]])
    >>> with xpcnn.autotune():
    ...     y, ctx = xpcnn.ops.conv2d(x, w)
    >>> os.listdir(os.environ.pop("XPCNN_CACHE_DIR"))
    ['autotune.json']
    """
    token = _tuning.set(True)
    try:
        yield
    finally:
        _tuning.reset(token)


def fastest_algorithm(
    geometry: ConvGeometry, pass_name: str, dtype: Any, backend: Backend, run_pass: RunPass
) -> str | None:
    """Return the algorithm measured to be the fastest for a pass of a convolution, as `run_pass` runs it.

    None outside of `autotune`, where nothing would be computed, and where `im2col` cannot be compared with.
    """
    if not _tuning.get() or 0 in geometry.input_shape:
        return None
    task, limit = Task(geometry, pass_name, backend.dtype(dtype), backend, run_pass), workspace_limit(backend)
    what = (geometry, pass_name, dtype_name(dtype), limit, algorithm_names())
    key = (backend, *backend.settings().values(), threads_of(backend), *what)
    if key not in _chosen:
        with _lock:
            if key not in _chosen:  # another thread may have measured it meanwhile
                candidates = _candidates(task, limit)
                if REFERENCE not in candidates:
                    return None
                described = f"{pass_name} {', '.join(map(str, what))} on {environment_of(backend)}"
                cache = tuning_cache()
                found = cache.choices.get(described)
                if found not in candidates:
                    found = _fastest(candidates, task)
                    cache.add(described, found)
                _chosen[key] = found
    return _chosen[key]


def _candidates(task: Task, limit: int) -> list[str]:
    """Return the algorithms that can do it, the reference first."""
    found = []
    for name in dict.fromkeys((REFERENCE, *algorithm_names())):
        if name in _NEVER:
            continue
        try:
            plan = plan_or_reason(*task[:4], find(name), limit)
        except AlgorithmError as error:  # a broken plug-in
            _leave_out(name, error)
        else:
            if isinstance(plan, ConvPlan):
                found.append(name)
    return found


def _leave_out(name: str, reason: object) -> None:
    warnings.warn(f"autotune: leaving out algorithm {name!r}: {reason}", RuntimeWarning, stacklevel=3)


def _fastest(candidates: list[str], task: Task) -> str:
    """Measure the candidates, of which the first is the reference, and return the fastest."""
    token = _tuning.set(False)  # an algorithm may be made of convolutions
    try:
        reference: Array | None = None
        medians: dict[str, float] = {}
        for name in candidates:
            run = partial(_run, name, _random_arrays(task), task)
            try:
                result = run()  # also the warm-up: what is compiled or planned at first use
                reference = result if reference is None else reference
                problem = _difference(result, reference, task.backend)
                seconds = math.inf if problem else _median(run)
            except Exception as error:
                if name == REFERENCE:
                    raise
                problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if problem is None:
                medians[name] = seconds
            else:
                _leave_out(name, f"{problem} (the {task.pass_name} pass of {task.geometry})")
        return min(medians, key=medians.__getitem__)
    finally:
        _tuning.reset(token)


def _random_arrays(task: Task) -> tuple[Array, Array]:
    """Return random arrays for a pass: images over channels-last memory, as other operations leave them."""
    backend, geometry = task.backend, task.geometry

    def images(name: str, shape: tuple[int, int, int, int]) -> Array:
        n, c, h, w = shape
        drawn = backend.uniform(Key(0).fold(name), (n, h, w, c), task.dtype) - 0.5
        return backend.xp.permute_dims(drawn, (0, 3, 1, 2))

    with backend.activated():
        x, dy = images("x", geometry.input_shape), images("dy", geometry.output_shape)
        weight = backend.uniform(Key(0).fold("weight"), geometry.weight_shape, task.dtype) - 0.5
    return {"forward": (x, weight), "grad_input": (dy, weight), "grad_weight": (x, dy)}[task.pass_name]


def _run(name: str, arrays: tuple[Array, Array], task: Task) -> Array:
    """Run one pass by one algorithm, in tiles as ever, and wait for its end."""
    result = task.run_pass(task.pass_name, name, *arrays, task.geometry)
    task.backend.synchronize()
    return result


def _difference(result: Array, reference: Array, backend: Backend) -> str | None:
    """Return how a result is wrong, or None."""
    xp = backend.xp
    allowed = _TOLERANCE_TF32 if backend.tf32 else _TOLERANCE[dtype_name(result.dtype)]
    error = float(xp.max(xp.abs(result - reference))) / (float(xp.max(xp.abs(reference))) or 1.0)
    if error <= allowed:  # not so for NaN
        return None
    return f"its result differs from that of {REFERENCE} by {error:.2g} of the largest value"


def _median(run: Callable[[], Any]) -> float:
    """Return the median seconds of a few runs."""
    times: list[float] = []
    while len(times) < _RUNS and sum(times) < _SECONDS:
        times.append(_seconds(run))
    return sorted(times)[len(times) // 2]


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _reset_in_child() -> None:
    """Release, in a forked child, the lock that another thread of its parent may have held."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
