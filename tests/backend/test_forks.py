"""A child that is forked while its parent's threads hold locks and limits: none of them is left in it."""

from __future__ import annotations

import os
import textwrap

import pytest

from tests.support.backend import run_python

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"), pytest.mark.process]

# `in_child(work, check)` forks while a thread is where `work` called `hold`; the child has a bounded time.
PRELUDE = """
import os, signal, sys, threading, warnings
import numpy as np, xpcnn
from threadpoolctl import threadpool_info
from xpcnn.backend.threads import one_blas_thread
from xpcnn.backend.threads import parallel_for

warnings.simplefilter("ignore")
inside, done, parent = threading.Event(), threading.Event(), os.getpid()

def hold(*_, **__):
    if os.getpid() == parent:
        inside.set()
        done.wait(60)

def counts():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

def fork(check):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            os._exit(0 if check() else 1)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def in_child(work, check):
    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(60)
    status = fork(check)
    done.set()
    thread.join(60)
    raise SystemExit(status)

before = counts()
x, w = np.ones((40, 8, 12, 12), "f"), np.ones((8, 8, 3, 3), "f")
"""

CASES = {
    "a thread holds BLAS to one thread": """
        def work():
            with one_blas_thread:
                hold()

        def check():
            free = counts()
            with one_blas_thread:
                held = counts()
            return (free, held, counts()) == (before, [1] * len(before), before)

        in_child(work, check)
    """,
    "a thread sets the limit of BLAS": """
        def check():
            one_blas_thread.write = write
            with one_blas_thread:
                return True

        write, one_blas_thread.write = one_blas_thread.write, hold
        in_child(one_blas_thread.__enter__, check)
    """,
    "the forking thread itself is in a block": """
        def check():
            held = counts()
            one_blas_thread.__exit__()
            return (held, counts()) == ([1] * len(before), before)

        with one_blas_thread:
            status = fork(check)
        raise SystemExit(status)
    """,
    "threads run tasks": """
        xpcnn.set_num_threads(2)
        interval = sys.getswitchinterval()
        in_child(lambda: parallel_for(hold, range(2)), lambda: sys.getswitchinterval() == interval)
    """,
    "threads have run tasks": """
        xpcnn.set_num_threads(2)
        y = xpcnn.ops.conv2d(x, w)[0]
        raise SystemExit(fork(lambda: np.array_equal(xpcnn.ops.conv2d(x, w)[0], y)))
    """,
    "a thread measures algorithms": """
        import tempfile
        os.environ["XPCNN_CACHE_DIR"] = tempfile.mkdtemp()
        from xpcnn.ops.conv import autotune

        def tuned(padding):
            with xpcnn.autotune():
                return xpcnn.ops.conv2d(x[:2], w, padding=padding)[0]

        def check():
            autotune._fastest = fastest
            return tuned(1).shape == (2, 8, 12, 12)

        def measure(*_):
            hold()
            return "im2col"

        fastest, autotune._fastest = autotune._fastest, measure
        in_child(lambda: tuned(0), check)
    """,
    "multiprocessing, while threads compute": """
        import multiprocessing

        xpcnn.set_num_threads(2)
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
    """,
}


@pytest.mark.parametrize("case", CASES)
def test_forked_while(case: str) -> None:
    done = run_python(PRELUDE + textwrap.dedent(CASES[case]), OPENBLAS_NUM_THREADS="2")
    assert (done.returncode, done.stderr) == (0, "")
