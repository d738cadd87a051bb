"""One BLAS thread while a model runs: set by the first, lifted by the last; the same bits with any number."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import threadpoolctl

from tests.support.backend import run_python
from xpcnn.backend import use_backend
from xpcnn.backend.threads import one_blas_thread


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
        with one_blas_thread:
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == {2}
    with pytest.raises(RuntimeError), one_blas_thread:
        raise RuntimeError
    assert blas_threads() == {2}
    with use_backend("numpy") as backend:
        assert blas_threads() == {2}  # choosing a backend is no model run
        with backend.execution_context():
            assert blas_threads() == {1}


@pytest.mark.usefixtures("two_threads")
def test_the_last_thread_to_leave_lifts_it() -> None:
    for _ in range(2):  # the second thread is another one
        entered, leave = threading.Event(), threading.Event()

        def stay(entered: threading.Event = entered, leave: threading.Event = leave) -> None:
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


@pytest.mark.slow
@pytest.mark.process
def test_the_same_bits_with_any_number_of_blas_threads() -> None:
    libraries = [f"{library}_NUM_THREADS" for library in ("OPENBLAS", "MKL", "OMP")]
    one, two = (run_python(TRAIN, **dict.fromkeys(libraries, threads)).stdout for threads in "12")
    assert len(one) > 60
    assert one == two
