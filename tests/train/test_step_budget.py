"""How much a reader of one training step has to read: the files it enters once everything is warm."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import xpcnn
from xpcnn import Trainer, data, models, optim

PACKAGE = Path(xpcnn.__file__).parent

MOST_FILES = 25
"""That a step of `simple_convnet` enters, of all threads together."""


def files_entered(function: Callable[[], Any]) -> set[str]:
    """The files of the package in which code runs during a call, on this thread and those that it starts."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            found.add(frame.f_code.co_filename)

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
        threading.setprofile(None)  # type: ignore[arg-type]
    return {str(Path(file).relative_to(PACKAGE)) for file in found if Path(file).is_relative_to(PACKAGE)}


@pytest.fixture(params=[1, 2])
def threads(request: Any) -> Iterator[int]:
    yield request.param
    xpcnn.set_num_threads(None)


@pytest.mark.parametrize("optimizer", [optim.Adam, optim.SGD])
def test_a_step_enters_few_files(threads: int, optimizer: Any) -> None:
    x, t = data.synthetic_digits(100)[:100]
    model = models.simple_convnet()
    trainer = Trainer(model, optimizer(model))
    for _ in range(3):
        trainer.step(x, t)
    xpcnn.set_num_threads(threads)  # and new threads, which the profile sees
    entered = files_entered(lambda: trainer.step(x, t))
    assert {"train/trainer.py", "nn/value_and_grad.py", "ops/loss.py", "ops/conv/conv2d.py"} <= entered
    assert len(entered) <= MOST_FILES, sorted(entered)


def test_the_work_of_other_threads_counts(threads: int) -> None:
    """Or the test above would not see half of it."""
    xpcnn.set_num_threads(threads)
    main, barrier = threading.get_ident(), threading.Barrier(threads)

    def work(_: int) -> None:
        barrier.wait(30)  # all of them at work
        if threading.get_ident() != main:
            xpcnn.Key(0)

    entered = files_entered(lambda: xpcnn.get_backend().parallel_for(work, range(threads)))
    assert "backend/threads.py" in entered
    assert ("backend/random.py" in entered) == (threads == 2)
