"""One BLAS thread while a model runs: set by the first, lifted by the last; the same bits with any number."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import threadpoolctl

from xpcnn.backend import use_backend
from xpcnn.backend.blas import one_blas_thread


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def two_threads() -> Iterator[None]:
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("NumPy's BLAS here does not run on two threads")
        yield


@pytest.mark.usefixtures("two_threads")
def test_held_inside_and_lifted_after() -> None:
    with one_blas_thread:
        assert blas_threads() == {1}
        with one_blas_thread:
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_threads")
def test_lifted_after_an_error() -> None:
    with pytest.raises(RuntimeError), one_blas_thread:
        raise RuntimeError
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_threads")
def test_the_last_thread_to_leave_lifts_it() -> None:
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with one_blas_thread:
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=stay)
    with one_blas_thread:
        thread.start()
        assert entered.wait(10)
    assert blas_threads() == {1}
    leave.set()
    thread.join()
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_threads")
def test_choosing_a_backend_is_no_model_run() -> None:
    with use_backend("numpy") as backend:
        assert blas_threads() == {2}
        with backend.execution_context():
            assert blas_threads() == {1}


@pytest.mark.usefixtures("two_threads")
def test_set_and_lifted_from_other_threads() -> None:
    seen: list[set[int]] = []

    def run() -> None:
        with one_blas_thread:
            seen.append(blas_threads())
        seen.append(blas_threads())

    for _ in range(2):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert seen == [{1}, {2}] * 2


TRAIN = """
import hashlib
from xpcnn import Trainer, data, models, optim
model = models.simple_convnet(filters=16, hidden=64)
trainer = Trainer(model, optim.Adam(model))
digits = data.synthetic_digits(300)
trainer.fit(digits, epochs=1, progress=None)
trainer.step(*digits)
print(hashlib.sha256(b"".join(p.data.tobytes() for p in model.parameters().values())).hexdigest())
"""


def test_the_same_bits_with_any_number_of_blas_threads() -> None:
    def trained(threads: str) -> str:
        limits = {f"{library}_NUM_THREADS": threads for library in ("OPENBLAS", "MKL", "OMP")}
        return subprocess.run(
            [sys.executable, "-c", TRAIN],
            env={**os.environ, **limits},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert trained("1") == trained("2")
