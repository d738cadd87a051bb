"""One parametrisation over backends for the whole suite, and one over implementations.

A test that takes the fixture `make` runs once for each usable backend; ``--backend NAME`` restricts those
tests to one. One that takes `implementation` runs once for each way to compute a primitive.
"""

import os

import hypothesis
import pytest
import threadpoolctl

import xpcnn
from tests.support import implementations
from tests.support.implementations import (  # noqa: F401 - fixtures
    cpu_kernels,
    cuda_kernels,
    host_launcher,
    implementation,
    kernels,
    launched,
)
from tests.support.make import BACKENDS, DTYPES, Make, why_unusable
from tests.support.native import numpy_alone  # noqa: F401 - a fixture
from xpcnn import data, models
from xpcnn.backend import registry

collect_ignore = ["scratch/scripts"]  # programs, which the tests run: not modules with doctests

# PyTorch reads it when it is imported: a thread pool only slows tensors as small as these.
os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile("xpcnn", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("xpcnn")


def pytest_addoption(parser):
    parser.addoption("--backend", choices=BACKENDS, help="run backend-parametrised tests on this one only")


def pytest_configure(config):
    chosen = config.getoption("backend")
    if chosen and (reason := why_unusable(chosen)):
        raise pytest.UsageError(f"--backend {chosen}: {reason}")


def usable_backends(config):
    chosen = config.getoption("backend")
    return [name for name in BACKENDS if (name == chosen if chosen else why_unusable(name) is None)]


def pytest_report_header(config):
    left_out = [f"{name} ({reason})" for name in BACKENDS if (reason := why_unusable(name))]
    header = ["xpcnn backends: " + ", ".join(usable_backends(config))]
    return [*header, "left out: " + "; ".join(left_out)] if left_out else header


def pytest_generate_tests(metafunc):
    if "make" in metafunc.fixturenames:
        names = usable_backends(metafunc.config)
        metafunc.parametrize("make", names, indirect=True, ids=names, scope="session")
    for fixture in implementations.FIXTURES.keys() & metafunc.fixturenames:
        limits = [getattr(metafunc.module, f"IMPLEMENTATION_{name}", None) for name in ("DTYPES", "KINDS")]
        found = implementations.parameters(metafunc.config, fixture, *limits)
        metafunc.parametrize(fixture, found, indirect=True)


@pytest.fixture(autouse=True, scope="session")
def _one_blas_thread():
    """NumPy gains nothing from more on arrays this small, and loses much on busy cores."""
    with threadpoolctl.ThreadpoolController().select(internal_api="openblas").limit(limits=1):
        yield


@pytest.fixture(scope="session")
def make(request):
    return Make(request.param)


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


# Looks at a device's values ---------------------------------------------------------------------------


@pytest.fixture(params=["torch", "cupy"])
def looks(request, monkeypatch):
    """Every look at an array's values, and every wait for a device, of which PyTorch's is a CPU.

    All ways from CuPy to the host, ``float(x)`` for one, go through the array's `get`.
    """
    library, seen = pytest.importorskip(request.param), []
    if reason := xpcnn.available_backends()[request.param]:
        pytest.skip(reason)

    def note(owner, method, name=None):
        original = getattr(owner, method)

        def noted(*args, **kwargs):
            before = len(seen)
            result = original(*args, **kwargs)
            seen[before:] = [name or method]  # one look, however many calls it is made of
            return result

        monkeypatch.setattr(owner, method, noted)

    if request.param == "torch":
        for name in ("__float__", "__int__", "__bool__", "__index__", "__array__", "item", "tolist", "numpy"):
            note(library.Tensor, name)
        monkeypatch.setattr(registry.load("torch"), "is_host", False)
        note(registry.load("torch"), "to_numpy")
    else:
        note(library.ndarray, "get", "to_numpy")
        note(library.cuda.Stream, "synchronize")
        note(library.cuda.Event, "synchronize")
    with xpcnn.use_backend(request.param):
        yield seen


@pytest.fixture(autouse=True)
def _own_names_end_with_the_test():
    """A model or dataset that a test registers is not known to the next one."""
    registries = (models.catalog.MODELS, data.catalog.DATASETS)
    before = [dict(one.data) for one in registries]
    yield
    for one, known in zip(registries, before, strict=True):
        one.data.clear()
        one.data.update(known)
