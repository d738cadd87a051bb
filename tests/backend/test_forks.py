"""A child that is forked while its parent's threads hold locks and limits: none of them is left in it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# `in_child(check)` forks while a thread is where `hold` was called, and gives the child a bounded time.
PRELUDE = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
inside, done = threading.Event(), threading.Event()

def hold(*_, **__):
    inside.set()
    done.wait(60)

def in_child(work, check):
    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            os._exit(0 if check() else 1)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done.set()
    thread.join(60)
    raise SystemExit(status)
"""


def run(code: str) -> None:
    one = {"OPENBLAS_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        env={**os.environ, **one},
        timeout=180,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_while_a_thread_holds_blas_to_one_thread() -> None:
    run("""
        from threadpoolctl import threadpool_info
        from xpcnn.backend.blas import one_blas_thread

        def counts():
            return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

        def work():
            with one_blas_thread:
                hold()

        def check():
            free = counts()
            with one_blas_thread:
                held = counts()
            return (free, held, counts()) == (before, [1] * len(before), before)

        import numpy
        before = counts()
        in_child(work, check)
    """)


def test_while_a_thread_sets_the_limit_of_blas() -> None:
    run("""
        from xpcnn.backend import blas

        def check():
            blas.one_blas_thread.write = put
            with blas.one_blas_thread:
                return True

        put, blas.one_blas_thread.write = blas.one_blas_thread.write, hold
        in_child(lambda: blas.one_blas_thread.__enter__(), check)
    """)


def test_a_block_of_the_forking_thread_itself_goes_on() -> None:
    run("""
        from threadpoolctl import threadpool_info
        from xpcnn.backend.blas import one_blas_thread

        def counts():
            return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

        import numpy
        before = counts()
        with one_blas_thread:
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                held = counts() == [1] * len(before)
        if child == 0:
            os._exit(0 if held and counts() == before else 1)
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """)


def test_while_a_thread_measures_algorithms() -> None:
    run("""
        import tempfile
        os.environ["XPCNN_CACHE_DIR"] = tempfile.mkdtemp()
        import numpy as np, xpcnn
        from xpcnn.ops.conv import autotune

        x, w = np.ones((2, 2, 5, 5), "f"), np.ones((2, 2, 3, 3), "f")

        def tuned(padding):
            with xpcnn.autotune():
                return xpcnn.ops.conv2d(x, w, padding=padding)[0]

        def check():
            autotune._fastest = fastest
            return tuned(1).shape == (2, 2, 5, 5)

        def measure(*_):
            hold()
            return "im2col"

        fastest, autotune._fastest = autotune._fastest, measure
        in_child(lambda: tuned(0), check)
    """)


def test_multiprocessing_while_threads_compute() -> None:
    run("""
        import multiprocessing
        import numpy as np, xpcnn

        xpcnn.set_num_threads(2)
        x, w = np.ones((40, 8, 12, 12), "f"), np.ones((8, 8, 3, 3), "f")
        first = xpcnn.ops.conv2d(x, w)[0]

        def compute():
            while not done.is_set():
                xpcnn.ops.conv2d(x, w)
                inside.set()

        def same(_):
            return np.array_equal(xpcnn.ops.conv2d(x, w)[0], first)

        thread = threading.Thread(target=compute)
        thread.start()
        assert inside.wait(60)
        try:
            with multiprocessing.get_context("fork").Pool(2) as pool:
                right = pool.map_async(same, range(4)).get(100)
        finally:
            done.set()
            thread.join(60)
        assert right == [True] * 4
    """)
