"""The algorithm "cudnn", with stand-ins for cuDNN's frontend and CuPy; and its graphs in the real frontend.

The stand-in runs the graphs it is given, so that all numbers here come from the sizes, strides and addresses
that cuDNN would be given. What cuDNN's kernels make of them only a GPU can tell.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support import oracles
from tests.support.conv_cases import CASES, Case, reference
from tests.support.cudnn_stand_in import Frontend, Graph, Memory, Offer, memory, pretended_cupy
from tests.support.ops import Array, draw, is_channels_last, mentions
from xpcnn import errors, ops
from xpcnn.backend import _cudnn, registry
from xpcnn.backend._cudnn import CudnnConvolution, Problem
from xpcnn.ops.conv import ConvGeometry

TOLERANCE = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-13}  # the stand-in computes in float64
NAMES = {"float16": "HALF", "float32": "FLOAT", "float64": "DOUBLE"}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


class Device:
    """A pretended CuPy backend, its cuDNN, and what they were asked for."""

    def __init__(self, *offers: Offer) -> None:
        self.frontend = Frontend(offers or (Offer(),))
        self.cupy = pretended_cupy()
        self.backend: Any = SimpleNamespace(tf32=False, deterministic=True)
        self.convolution = CudnnConvolution(self.backend, self.cupy)
        self.convolution.__dict__.update(_cudnn=self.frontend, _missing=None)

    @property
    def barred(self) -> set[str]:
        return self.frontend.graphs[-1].barred

    @property
    def executed(self) -> list[tuple[Any, ...]]:
        return [call for call in self.frontend.calls if call[0] == "execute"]

    def forward(self, x: Any, w: Any, limit: int = 1 << 30, stride: Any = 1) -> Any:
        return self.convolution.forward(x, w, ConvGeometry.of(x.shape, w.shape, stride, 1), limit=limit)


@pytest.fixture
def on_numpy(monkeypatch: pytest.MonkeyPatch) -> Device:
    """The pretended cuDNN in the place of one that NumPy brought along, so that the ops run on it."""
    device = Device()
    monkeypatch.setattr(registry.instance("numpy", "cpu"), "convolutions", {"cudnn": device.convolution})
    return device


def channels_last(values: Array) -> Memory:
    return memory(np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))


def check(got: Any, expected: Array, dtype: str) -> None:
    assert got.dtype == dtype
    assert got.shape == expected.shape
    error = np.abs(np.asarray(got, dtype="float64") - expected).max(initial=0)
    assert error <= TOLERANCE[dtype] * np.abs(expected).max(initial=0)


# The description ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("lay", [memory, channels_last], ids=["channels-first", "channels-last"])
@every_case
def test_matches_the_loops(on_numpy: Device, dtype: str, case: Case, lay: Any) -> None:
    """Empty arrays need no cuDNN."""
    r = reference(case, dtype)
    x, w, dy = lay(r.x), memory(r.w), lay(r.dy)
    y, ctx = ops.conv2d(x, w, None if r.b is None else memory(r.b), **case.options, algorithm="cudnn")
    dx, dw, _ = ops.conv2d.backward(ctx, dy)
    for got, expected in ((y, r.y), (dx, r.dx), (dw, r.dw)):
        check(got, expected, dtype)
    graphs = on_numpy.frontend.graphs
    assert len(graphs) == (3 if x.size else 0)
    assert {graph.compute for graph in graphs} <= {"DOUBLE" if dtype == "float64" else "FLOAT"}
    assert {tensor.data_type for graph in graphs for tensor in graph.tensors} <= {NAMES[dtype]}


def test_tiles_of_the_batch(on_numpy: Device) -> None:
    """Asymmetric padding comes of cutting rows; it goes to cuDNN as it is."""
    x, w = draw(3, 4, 12, 9, dtype="float32"), draw(6, 2, 3, 3, dtype="float32")
    xpcnn.set_workspace_limit(2000)
    y, _ = ops.conv2d(memory(x), memory(w), padding=1, groups=2, algorithm="cudnn")
    check(y, oracles.conv2d(x, w, pads=(1, 1, 1, 1), groups=2), "float32")
    assert len(on_numpy.executed) > 3
    assert any(
        graph.sizes["pre_padding"] != graph.sizes["post_padding"] for graph in on_numpy.frontend.graphs
    )


# Memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lay", [memory, channels_last], ids=["channels-first", "channels-last"])
def test_arrays_are_taken_as_they_lie(lay: Any) -> None:
    device = Device()
    x, w = lay(draw(2, 4, 5, 6)), lay(draw(3, 4, 3, 3))
    y = device.forward(x, w)
    ((_, pack, *_),) = device.executed
    assert pack == {1: x.data.ptr, 2: w.data.ptr, 3: y.data.ptr}
    assert is_channels_last(y) == (lay is channels_last)


def test_one_channel_comes_out_channels_last() -> None:
    """Both layouts fit such an input; channels-last is what the other ops write."""
    assert is_channels_last(Device().forward(memory(draw(2, 1, 5, 6)), memory(draw(3, 1, 3, 3))))


def test_other_layouts_are_copied_within_the_limit() -> None:
    device = Device()
    values, w = draw(2, 4, 5, 12), draw(3, 4, 3, 3)
    x = memory(values)[..., ::2]
    limit = x.nbytes + w.nbytes + 100
    y = device.forward(x, memory(w), limit)
    check(y, oracles.conv2d(values[..., ::2], w, pads=(1, 1, 1, 1)), "float64")
    assert is_channels_last(y)
    assert device.frontend.graphs[0].limit == 100
    device.forward(x, memory(w), 10)
    assert device.frontend.graphs[1].limit == 0


def test_memory_off_the_alignment_is_copied() -> None:
    """A tile of a batch may start anywhere."""
    device = Device()
    values, w = draw(3, 1, 5, 5), draw(2, 1, 3, 3)
    x = memory(values)[1:]
    assert x.data.ptr % 16
    check(device.forward(x, memory(w)), oracles.conv2d(values[1:], w, pads=(1, 1, 1, 1)), "float64")


def test_workspace_is_what_the_plan_needs() -> None:
    device = Device(Offer(workspace=1000))
    x, w = memory(draw(2, 4, 5, 6)), memory(draw(3, 4, 3, 3))
    device.forward(x, w)
    ((*_, workspace, index, handle),) = device.executed
    assert device.cupy.sizes == [1000]
    assert workspace
    assert (index, handle) == (0, "handle")
    without = Device()
    without.forward(x, w)
    assert without.cupy.sizes == []
    assert without.executed[0][2] is None


# The choice of a plan -------------------------------------------------------------------------------

EXACT = {"DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION"}


@pytest.mark.parametrize(
    ("dtype", "tf32", "deterministic", "barred"),
    [
        ("float32", False, True, {"TENSOR_CORE", "NONDETERMINISTIC"}),
        ("float32", True, True, {"NONDETERMINISTIC"}),
        ("float32", False, False, {"TENSOR_CORE"}),
        ("float32", True, False, set()),
        ("float16", False, True, {"NONDETERMINISTIC"}),
        ("float64", False, True, {"NONDETERMINISTIC"}),
    ],
)
def test_numerics_that_are_refused(dtype: str, tf32: bool, deterministic: bool, barred: set[str]) -> None:
    device = Device()
    device.backend.tf32, device.backend.deterministic = tf32, deterministic
    device.forward(memory(draw(1, 2, 5, 5, dtype=dtype)), memory(draw(2, 2, 3, 3, dtype=dtype)))
    assert device.barred == barred | EXACT


def test_first_plan_that_will_do() -> None:
    offers = (
        Offer(notes=("TENSOR_CORE",)),
        Offer(fails=True),
        Offer(workspace=501),
        Offer(workspace=500),
        Offer(),
    )
    device = Device(*offers)
    x, w = (memory(draw(*shape, dtype="float32")) for shape in ((2, 4, 5, 6), (3, 4, 3, 3)))
    device.forward(x, w, limit=500)
    assert device.frontend.graphs[0].limit == 500
    assert device.executed[0][3] == 3
    assert device.cupy.sizes == [500]


@pytest.mark.parametrize(
    ("offers", "said"),
    [
        ((Offer(workspace=501),), "within 500 bytes"),
        ((Offer(fails=True),), "the engine"),
        ((Offer(notes=("NONDETERMINISTIC",)),), "Deselecting"),
    ],
)
def test_no_plan(offers: tuple[Offer, ...], said: str) -> None:
    device = Device(*offers)
    expected = mentions(
        "'cudnn'", "forward", "float64", "(2, 4, 5, 6)", said, "set_workspace_limit", "'im2col'"
    )
    with pytest.raises(errors.AlgorithmError, match=expected) as e:
        device.forward(memory(draw(2, 4, 5, 6)), memory(draw(3, 4, 3, 3)), limit=500)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("error", [Frontend.cudnnGraphNotSupportedError, RuntimeError])
def test_no_engine_at_all(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail(graph: Graph) -> None:
        raise error("No valid engine configs\nmore")

    monkeypatch.setattr(Graph, "build_operation_graph", fail)
    with pytest.raises(errors.AlgorithmError, match=mentions("'cudnn'", "No valid engine configs")) as e:
        Device().forward(memory(draw(2, 4, 5, 6)), memory(draw(3, 4, 3, 3)))
    assert "\n" not in str(e.value)


def test_plans_are_kept() -> None:
    device = Device()
    x, w = draw(2, 4, 5, 6, dtype="float32"), draw(3, 4, 3, 3, dtype="float32")

    def graphs(x: Any = x, w: Any = w, **options: Any) -> int:
        device.forward(memory(x), memory(w), **options)
        return len(device.frontend.graphs)

    assert [graphs(), graphs()] == [1, 1]
    assert graphs(x[:1]) == 2
    assert graphs(limit=99) == 3
    assert graphs(stride=(2, 1)) == 4
    assert graphs(x.astype("float64"), w.astype("float64")) == 5
    device.forward(channels_last(x), channels_last(w))
    assert graphs() == 6
    device.backend.tf32 = True
    assert [graphs(), graphs()] == [7, 7]
    device.backend.deterministic = False
    assert [graphs(), graphs()] == [8, 8]
    geometry, y = ConvGeometry.of(x.shape, w.shape, 1, 1), memory(draw(2, 3, 5, 6, dtype="float32"))
    device.convolution.grad_weight(memory(x), y, geometry, limit=1 << 30)
    device.convolution.grad_input(y, memory(w), geometry, limit=1 << 30)
    assert len(device.frontend.graphs) == 10


def test_one_handle_on_the_current_stream() -> None:
    device = Device()
    x, w = memory(draw(2, 4, 5, 6)), memory(draw(3, 4, 3, 3))
    device.forward(x, w)
    device.cupy.cuda.get_current_stream = lambda: SimpleNamespace(ptr=42)
    device.forward(x, w)
    names = [call if call[0] == "set_stream" else call[0] for call in device.frontend.calls]
    first, second = ("set_stream", "handle", 4711), ("set_stream", "handle", 42)
    assert names == ["create_handle", first, "execute", second, "execute"]


def test_frontend_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "cudnn" else find_spec(name, *rest)
    )
    reason = CudnnConvolution(SimpleNamespace(), None).unsupported(None, "float32")  # type: ignore[arg-type]
    assert reason is not None
    for part in ("pip install 'xpcnn[cudnn]'", "xpcnn[cudnn13]", "'im2col'"):
        assert part in reason
    assert "\n" not in reason


def test_cudnn_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise RuntimeError("Unable to find symbol cudnnGetVersion\nmore")

    module = ModuleType("cudnn")
    module.__spec__ = importlib.machinery.ModuleSpec("cudnn", None)
    vars(module).update(backend_version=fail)
    monkeypatch.setitem(sys.modules, "cudnn", module)
    reason = CudnnConvolution(SimpleNamespace(), None).unsupported(None, "float32")  # type: ignore[arg-type]
    assert reason is not None
    assert "cudnnGetVersion" in reason
    assert "pip install" in reason
    assert "\n" not in reason


def test_dtypes_without_kernels() -> None:
    convolution = Device().convolution
    assert convolution.unsupported(None, "float32") is None
    assert convolution.unsupported(None, "bfloat16") is None
    assert "int8" in (convolution.unsupported(None, "int8") or "")


# The real frontend, without a GPU ----------------------------------------------------------------------


@pytest.fixture
def cudnn() -> Iterator[Any]:
    """The real frontend with a real cuDNN, which describes graphs without a device too."""
    module = pytest.importorskip("cudnn")
    try:
        module.backend_version()
    except RuntimeError as error:
        pytest.skip(f"no cuDNN: {error}")
    return module


def problem(case: Case, pass_name: str, dtype: str = "float32", channels_last: bool = True) -> Problem:
    geometry = ConvGeometry.of(case.x, case.w, **case.options)
    return Problem(pass_name, dtype, channels_last, geometry, False, True, 1 << 30)


PASSES = ("forward", "grad_input", "grad_weight")


@pytest.mark.parametrize("name", [name for name in CASES if "empty" not in name])
def test_real_graphs_are_valid(cudnn: Any, name: str) -> None:
    for pass_name in PASSES:
        for dtype in ("float32", "float16", "bfloat16", "float64"):
            for channels_last in (False, True):
                described = problem(CASES[name], pass_name, dtype, channels_last)
                graph = _cudnn.describe(cudnn, described, None)
                graph.validate()
                found = {t.get_uid(): t for t in (*graph.get_inputs(), *graph.get_outputs())}
                for role, shape in described.shapes.items():
                    tensor = found[{"x": 1, "weight": 2, "y": 3}[role]]
                    assert tuple(tensor.get_dim()) == shape
                    assert tuple(tensor.get_stride()) == _cudnn.strides(shape, channels_last)
