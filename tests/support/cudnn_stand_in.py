"""A pretended cuDNN frontend that records how it is used, and a pretended CuPy over NumPy's memory.

A graph of the pretended frontend can be run: it reads and writes the memory that it was given addresses of,
by the sizes and strides it was described with, and computes by the loops of `oracles`. So a wrong description
gives wrong numbers. The methods take what those of the real frontend take, and no more.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from tests.support import oracles

NUMPY = {"HALF": "float16", "FLOAT": "float32", "DOUBLE": "float64"}
ROLES = {"conv_fprop": ("image", "weight"), "conv_dgrad": ("loss", "filter"), "conv_wgrad": ("image", "loss")}


class Memory(np.ndarray[Any, Any]):
    """A NumPy array that shows its address as CuPy's arrays do."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


def memory(values: Any) -> Memory:
    """Values in memory that starts at a multiple of 16 bytes, in the order of their strides."""
    values = np.asarray(values)
    order = sorted(range(values.ndim), key=lambda axis: -values.strides[axis])
    fresh = _aligned(tuple(values.shape[axis] for axis in order), values.dtype)
    fresh[...] = values.transpose(order)
    return fresh.transpose(np.argsort(order))


def _aligned(shape: tuple[int, ...], dtype: Any) -> Memory:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 16, dtype=np.uint8)
    start = -raw.ctypes.data % 16
    return raw[start : start + size].view(dtype).reshape(shape).view(Memory)


def pretended_cupy() -> Any:
    """CuPy, as far as it is needed; `sizes` lists the byte arrays that were asked for."""
    sizes: list[int] = []

    def empty(shape: Any, dtype: Any) -> Memory:
        if isinstance(shape, int):
            sizes.append(shape)
            shape = (shape,)
        return _aligned(tuple(shape), dtype)

    return SimpleNamespace(
        empty=empty,
        ascontiguousarray=lambda a: a if a.flags.c_contiguous else memory(np.ascontiguousarray(a)),
        uint8=np.uint8,
        sizes=sizes,
        cuda=SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=4711)),
    )


class Offer(NamedTuple):
    """One execution plan the pretended heuristics propose."""

    workspace: int = 0
    notes: tuple[str, ...] = ()
    fails: bool = False


class Tensor:
    """A tensor of a graph: its setters can be chained."""

    def __init__(self, dim: Any = None, stride: Any = None, data_type: Any = None, uid: int = -1) -> None:
        self.dim, self.stride, self.data_type, self.uid, self.output = dim, stride, data_type, uid, False

    def __getattr__(self, name: str) -> Any:
        assert name.startswith("set_")
        assert hasattr(self, name[4:])
        return lambda value: (setattr(self, name[4:], value), self)[1]

    def view(self, address: int) -> np.ndarray[Any, Any]:
        """The memory at an address, as this tensor describes it."""
        dtype = np.dtype(NUMPY[self.data_type])
        size = (1 + sum((n - 1) * s for n, s in zip(self.dim, self.stride, strict=True))) * dtype.itemsize
        flat = np.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype)
        steps = tuple(s * dtype.itemsize for s in self.stride)
        return np.lib.stride_tricks.as_strided(flat, tuple(self.dim), steps)


def named(*names: str) -> SimpleNamespace:
    return SimpleNamespace(**{name: name for name in names})


class Frontend:
    """The module ``cudnn``: which plans its heuristics offer is set by the test."""

    class cudnnGraphNotSupportedError(Exception):  # the real one's name
        pass

    data_type = named("FLOAT", "DOUBLE", "HALF", "BFLOAT16")
    heur_mode = named("A", "FALLBACK")
    numerical_note = named(
        *("TENSOR_CORE", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION", "NONDETERMINISTIC")
    )

    def __init__(self, offers: Sequence[Offer] = (Offer(),)) -> None:
        self.offers = offers
        self.graphs: list[Graph] = []
        self.calls: list[tuple[Any, ...]] = []

    def backend_version(self) -> int:
        return 91002

    def create_handle(self) -> str:
        self.calls.append(("create_handle",))
        return "handle"

    def set_stream(self, handle: str, stream: int) -> None:
        self.calls.append(("set_stream", handle, stream))

    def pygraph(
        self, *, io_data_type: str, intermediate_data_type: str, compute_data_type: str, handle: str
    ) -> Graph:
        graph = Graph(self, compute_data_type)
        self.graphs.append(graph)
        return graph


class Graph:
    """One convolution, described and then run."""

    def __init__(self, frontend: Frontend, compute: str) -> None:
        self.frontend, self.compute = frontend, compute
        self.tensors: list[Tensor] = []
        self.barred: set[str] = set()
        self.limit: int | None = None
        self.steps: list[str] = []
        self.built: int | None = None

    def tensor(self, *, dim: list[int], stride: list[int], data_type: str, name: str, uid: int) -> Tensor:
        self.tensors.append(Tensor(dim, stride, data_type, uid))
        return self.tensors[-1]

    def _convolution(self, operation: str, *inputs: Tensor, **sizes: list[int]) -> Tensor:
        assert set(sizes) == {"pre_padding", "post_padding", "stride", "dilation"}
        self.operation, self.sizes = operation, sizes
        self.inputs = dict(zip(ROLES[operation], inputs, strict=True))
        self.output = Tensor()
        self.tensors.append(self.output)
        return self.output

    conv_fprop, conv_dgrad, conv_wgrad = map(functools.partial(functools.partialmethod, _convolution), ROLES)

    def validate(self) -> None:
        assert self.output.output
        for tensor in self.tensors:
            assert len(tensor.dim) == len(tensor.stride) == 4
        assert sorted(tensor.uid for tensor in self.tensors) == [1, 2, 3]

    def build_operation_graph(self) -> None:
        self.steps.append("graph")

    def create_execution_plans(self, modes: list[str]) -> None:
        assert modes == ["A", "FALLBACK"]
        self.steps.append("plans")

    def deselect_numeric_notes(self, notes: list[str]) -> None:
        assert self.steps == ["graph", "plans"]  # cuDNN marks plans, so that there must be some
        self.barred = set(notes)

    def deselect_workspace_greater_than(self, limit: int) -> None:
        self.limit = limit

    def get_execution_plan_count(self) -> int:
        return len(self.frontend.offers)

    def build_plan_at_index(self, index: int) -> None:
        offer = self.frontend.offers[index]
        if self.barred.intersection(offer.notes):
            raise Frontend.cudnnGraphNotSupportedError("Deselecting execution plan")
        if offer.fails:
            raise RuntimeError("the engine\ndeclined")
        self.built = index

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        assert index == self.built
        return self.frontend.offers[index].workspace

    def execute_plan_at_index(
        self, pack: dict[int, int], workspace: int | None, index: int, handle: str
    ) -> None:
        assert index == self.built
        assert all(address % 16 == 0 for address in pack.values())
        self.frontend.calls.append(("execute", pack, workspace, index, handle))
        arrays = {role: tensor.view(pack[tensor.uid]) for role, tensor in self.inputs.items()}
        written = self.output.view(pack[self.output.uid])
        written[...] = self._result(arrays, tuple(self.output.dim))

    def _result(self, arrays: dict[str, Any], shape: tuple[int, ...]) -> Any:
        """By the frontend's own rules: groups are what the channels of image and filter say."""
        (top, left), (bottom, right) = self.sizes["pre_padding"], self.sizes["post_padding"]
        options: dict[str, Any] = {
            "stride": tuple(self.sizes["stride"]),
            "pads": (top, bottom, left, right),
            "dilation": tuple(self.sizes["dilation"]),
        }
        if self.operation == "conv_fprop":
            image, filters = arrays["image"], arrays["weight"]
            return oracles.conv2d(image, filters, groups=image.shape[1] // filters.shape[1], **options)
        image = arrays["image"] if "image" in arrays else np.zeros(shape)
        filters = arrays["filter"] if "filter" in arrays else np.zeros(shape)
        options["groups"] = image.shape[1] // filters.shape[1]
        dx, dweight, _ = oracles.conv2d_gradients(image, filters, arrays["loss"], **options)
        return dx if self.operation == "conv_dgrad" else dweight
