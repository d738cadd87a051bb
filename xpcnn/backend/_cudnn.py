"""cuDNN's convolutions, by NVIDIA's frontend. The only file that imports it, and only when it is used."""

from __future__ import annotations

import functools
import importlib.util
import math
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.arrays import dtype_name, itemsize
from xpcnn.errors import AlgorithmError

if TYPE_CHECKING:
    from xpcnn.backend._cupy import CupyBackend

__all__ = ["CudnnConvolution", "Plan", "Problem", "choose", "describe", "first_line"]

Shape = tuple[int, int, int, int]

_INSTALL = "pip install 'xpcnn[cudnn]' (or 'xpcnn[cudnn13]' for CUDA 13)"

_DTYPES = {"float16": "HALF", "bfloat16": "BFLOAT16", "float32": "FLOAT", "float64": "DOUBLE"}
"""The frontend's names for the dtypes that are served."""

_PASSES = {
    "forward": ("conv_fprop", ("x", "weight"), "y"),
    "grad_input": ("conv_dgrad", ("y", "weight"), "x"),
    "grad_weight": ("conv_wgrad", ("x", "y"), "weight"),
}
"""Each pass with the frontend's method for it, the arrays that reads in its order, and what it writes."""

_IDS = {"x": 1, "weight": 2, "y": 3}
"""How a graph names its arrays (or their gradients) when it is run."""

_ALIGNMENT = 16
"""Bytes that cuDNN's kernels count on arrays to start at a multiple of: the frontend's default."""

_MOST_PLANS = 512
"""Plans kept for a device; those used longest ago go first."""


class Problem(NamedTuple):
    """All that the choice of a plan depends on, and so the key under which a plan is kept."""

    pass_name: str
    dtype: str
    channels_last: bool
    geometry: Any
    tf32: bool
    deterministic: bool
    limit: int

    @property
    def barred(self) -> tuple[str, ...]:
        """The frontend's names for numerics that are not acceptable here."""
        # Sums are in float32 at least, of the inputs as they are.
        notes = ["DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION"]
        if self.dtype == "float32" and not self.tf32:
            notes.append("TENSOR_CORE")  # on float32, tensor cores multiply TF32
        if self.deterministic:
            notes.append("NONDETERMINISTIC")
        return tuple(notes)

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of each array."""
        g = self.geometry
        return {"x": g.input_shape, "weight": g.weight_shape, "y": g.output_shape}

    def __str__(self) -> str:
        shapes = ", ".join(f"{name} {shape}" for name, shape in self.shapes.items())
        return f"{self.pass_name} of {self.dtype} {shapes}"


class Plan(NamedTuple):
    """A graph, which of its execution plans to run, and the bytes of workspace that one needs."""

    graph: Any
    position: int
    workspace: int


def strides(shape: Shape, channels_last: bool) -> tuple[int, ...]:
    """Return the strides of packed memory, in elements."""
    _, c, h, w = shape
    return (h * w * c, 1, w * c, c) if channels_last else (c * h * w, h * w, w, 1)


def describe(cudnn: Any, problem: Problem, handle: Any) -> Any:
    """Return the frontend's graph of one convolution; it learns the number of groups from the shapes."""
    io = getattr(cudnn.data_type, _DTYPES[problem.dtype])
    compute = cudnn.data_type.DOUBLE if problem.dtype == "float64" else cudnn.data_type.FLOAT
    graph = cudnn.pygraph(
        io_data_type=io, intermediate_data_type=compute, compute_data_type=compute, handle=handle
    )
    method, sources, target = _PASSES[problem.pass_name]
    shapes, geometry = problem.shapes, problem.geometry
    layout = {name: list(strides(shape, problem.channels_last)) for name, shape in shapes.items()}
    read = [
        graph.tensor(dim=list(shapes[name]), stride=layout[name], data_type=io, name=name, uid=_IDS[name])
        for name in sources
    ]
    top, bottom, left, right = geometry.padding
    written = getattr(graph, method)(
        *read,
        pre_padding=[top, left],
        post_padding=[bottom, right],
        stride=list(geometry.stride),
        dilation=list(geometry.dilation),
    )
    written.set_uid(_IDS[target]).set_output(True).set_data_type(io)
    written.set_dim(list(shapes[target])).set_stride(layout[target])
    return graph


def choose(cudnn: Any, problem: Problem, handle: Any) -> Plan:
    """Return cuDNN's first proposal that can be built, is exact enough and keeps to the workspace limit."""
    graph = describe(cudnn, problem, handle)
    graph.validate()
    # What the frontend raises for plans that were deselected, and for all that cuDNN itself declines.
    refusals = (cudnn.cudnnGraphNotSupportedError, RuntimeError)
    said, count = "", 0
    try:
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        graph.deselect_numeric_notes([getattr(cudnn.numerical_note, note) for note in problem.barred])
        graph.deselect_workspace_greater_than(problem.limit)
        count = graph.get_execution_plan_count()
    except refusals as error:
        said = f" (cuDNN: {first_line(error)})"
    for index in range(count):
        try:
            graph.build_plan_at_index(index)
        except refusals as error:
            said = f" (cuDNN: {first_line(error)})"
            continue
        workspace = int(graph.get_workspace_size_plan_at_index(index))
        # A cuDNN older than 9.2 learns what a plan needs only now.
        if workspace <= problem.limit:
            return Plan(graph, index, workspace)
    raise AlgorithmError(
        f"algorithm 'cudnn' has no plan for {problem} within {problem.limit} bytes of workspace{said}; "
        f"raise that with xpcnn.set_workspace_limit, or use algorithm 'im2col'"
    )


class CudnnConvolution:
    """cuDNN on the arrays of one CuPy device.

    Memory is taken as it lies, packed channels-first or packed channels-last; what lies otherwise is copied,
    and the result lies like the first input. Where cuDNN has kernels for one of the two alone (channels-first
    for float64, and for float32 without TF32), it reorders by itself, within its workspace.
    """

    def __init__(self, backend: CupyBackend, cupy: Any) -> None:
        self._backend = backend
        self._cupy = cupy
        self._plan = functools.lru_cache(_MOST_PLANS)(lambda one: choose(self._cudnn, one, self._handle))
        # A handle carries its stream, so that two threads must not use it at once.
        self._lock = threading.Lock()

    fuses_epilogue = accepts_out = False

    def unsupported(self, geometry: Any, dtype: Any) -> str | None:
        if self._missing is not None:
            return self._missing
        name = dtype_name(dtype)
        return None if name in _DTYPES else f"has no kernels for {name}; use 'im2col'"

    def workspace_bytes(self, geometry: Any, dtype: Any) -> int:
        """Return the bytes of what may have to be copied: inputs in other orders, and weights to match."""
        shapes = geometry.input_shape, geometry.output_shape, geometry.weight_shape
        return sum(map(math.prod, shapes)) * itemsize(dtype)

    @functools.cached_property
    def _missing(self) -> str | None:
        if importlib.util.find_spec("cudnn") is None:
            return f"needs NVIDIA's cuDNN and its frontend: {_INSTALL}; or use 'im2col'"
        try:
            self._cudnn.backend_version()
        except Exception as error:  # ImportError, or what the frontend raises without a libcudnn
            return f"cannot load cuDNN ({first_line(error)}); reinstall it: {_INSTALL}; or use 'im2col'"
        return None

    @functools.cached_property
    def _cudnn(self) -> Any:
        import cudnn

        return cudnn

    @functools.cached_property
    def _handle(self) -> Any:
        return self._cudnn.create_handle()  # for the current device, which is the arrays' own

    def _run(self, pass_name: str, first: Array, second: Array, geometry: Any, limit: int) -> Array:
        cupy = self._cupy
        # Where both would do, as with one channel, channels-last: the layout that everything else writes.
        channels_last = first.transpose(0, 2, 3, 1).flags.c_contiguous or not first.flags.c_contiguous
        dtype, settings = dtype_name(first.dtype), (self._backend.tf32, self._backend.deterministic)
        problem = Problem(pass_name, dtype, channels_last, geometry, *settings, limit)
        _, read, written = _PASSES[pass_name]
        given = dict(zip(read, (first, second), strict=True))
        n, c, h, w = shape = problem.shapes[written]
        result = cupy.empty((n, h, w, c) if channels_last else shape, dtype=first.dtype)
        result = result.transpose(0, 3, 1, 2) if channels_last else result
        if not all(array.size for array in given.values()) or not result.size:
            result[...] = 0
            return result
        packed = {role: self._packed(array, channels_last) for role, array in given.items()}
        copied = sum(a.nbytes for role, a in packed.items() if a.data.ptr != given[role].data.ptr)
        arrays = {**packed, written: result}
        problem = problem._replace(limit=max(limit - copied, 0))
        with self._lock:
            plan = self._plan(problem)
            # CuPy's pool reuses memory in the order of the stream, so this and copies may be dropped early.
            workspace = cupy.empty(plan.workspace, dtype=cupy.uint8) if plan.workspace else None
            self._cudnn.set_stream(self._handle, cupy.cuda.get_current_stream().ptr)
            plan.graph.execute_plan_at_index(
                {_IDS[role]: int(array.data.ptr) for role, array in arrays.items()},
                None if workspace is None else int(workspace.data.ptr),
                plan.position,
                self._handle,
            )
        return result

    forward = functools.partialmethod(_run, "forward")
    grad_input = functools.partialmethod(_run, "grad_input")
    grad_weight = functools.partialmethod(_run, "grad_weight")

    def _packed(self, array: Array, channels_last: bool) -> Array:
        """Return `array` packed in this layout and aligned: itself where it is."""
        memory = self._cupy.ascontiguousarray(array.transpose(0, 2, 3, 1) if channels_last else array)
        if memory.data.ptr % _ALIGNMENT:
            memory = memory.copy()
        return memory.transpose(0, 3, 1, 2) if channels_last else memory


def first_line(error: BaseException) -> str:
    """Return what a message quotes of another library's error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
