"""What ``xpcnn bench`` measures: shapes, and the candidates for each.

`pytest benchmarks` takes the same ones, and adds PyTorch's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcnn import models, nn, ops, optim
from xpcnn.backend import Backend, backend_of, to_numpy, use_backend
from xpcnn.cli.bench_measure import Candidate, Problem, conv_answer, some_of
from xpcnn.errors import AlgorithmError
from xpcnn.ops import ConvGeometry
from xpcnn.ops.conv.executor import plan_for
from xpcnn.train import Trainer

__all__ = ["CONVOLUTIONS", "FLOOR", "MODELS", "MODEL_PASSES", "PASSES", "convolution", "model"]

FLOOR = "gemm floor"
"""The candidate that is one matrix product and nothing else."""

PASSES = ("forward", "grad_input", "grad_weight")
MODEL_PASSES = ("train", "inference")

LOOP_SECONDS = 1.5
"""A loop that would take longer than this for one call is left out."""

TOLERANCE: Mapping[str, float] = {"float32": 1e-4, "float64": 1e-10}
MODEL_TOLERANCE: Mapping[str, float] = {"float32": 1e-2, "float64": 1e-8}
"""Errors, relative to the largest expected number, above which a result is wrong rather than rounded."""

CHECKED, STEPS, SGD_LR = 4, 4, 1e-3
"""Of a model's answers: the images, and the steps, with another optimiser than the one that is timed."""


# -- shapes ------------------------------------------------------------------------------


def conv(shape: tuple[int, int, int, int], outputs: int, kernel: int, **options: Any) -> ConvGeometry:
    """Return a geometry of a square kernel."""
    weight = (outputs, shape[1] // options.get("groups", 1), kernel, kernel)
    return ConvGeometry.of(shape, weight, **options)


CONVOLUTIONS: Mapping[str, ConvGeometry] = {
    # One image: sizes that the loops finish at once.
    "tiny": conv((1, 1, 28, 28), 8, 3),
    "simple-1": conv((1, 1, 28, 28), 30, 5),
    # The articles' networks, a batch of MNIST.
    "simple": conv((100, 1, 28, 28), 30, 5),
    "deep": conv((100, 16, 28, 28), 16, 3, padding=1),
    # VGG and ResNet.
    "stem": conv((8, 3, 224, 224), 64, 7, stride=2, padding=3),
    "56x56": conv((32, 64, 56, 56), 64, 3, padding=1),
    "28x28": conv((32, 128, 28, 28), 128, 3, padding=1),
    "14x14": conv((32, 256, 14, 14), 256, 3, padding=1),
    "stride-2": conv((32, 128, 28, 28), 256, 3, stride=2, padding=1),
    "1x1": conv((32, 256, 56, 56), 64, 1),
    # What the others do not have.
    "large-kernel": conv((8, 32, 56, 56), 32, 11, padding=5),
    "depthwise": conv((32, 64, 56, 56), 64, 3, padding=1, groups=64),
    "dilated": conv((8, 64, 56, 56), 64, 3, padding=2, dilation=2),
}


class ModelCase(NamedTuple):
    """A published model with its arguments, and the images of a step (N, C, H, W)."""

    model: str
    options: Mapping[str, Any]
    shape: tuple[int, int, int, int]

    def build(self, dtype: str = "float32", *, dropout: bool = True) -> nn.Layer:
        """Return the model; without dropout where numbers are compared."""
        off = {} if dropout or "dropout" not in self.options else {"dropout": 0.0}
        return models.build(self.model, **{**self.options, **off}, dtype=dtype)

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels: random, the same in every run."""
        rng = np.random.default_rng(0)
        return rng.standard_normal(self.shape, np.float32), rng.integers(0, 10, self.shape[0])


MODELS: Mapping[str, ModelCase] = {
    "simple_convnet": ModelCase("simple_convnet", {}, (100, 1, 28, 28)),
    "deep_convnet": ModelCase("deep_convnet", {"dropout": 0.5}, (100, 1, 28, 28)),
    "resnet18-cifar": ModelCase("resnet18", {"classes": 10, "small_images": True}, (32, 3, 32, 32)),
}


# -- candidates -------------------------------------------------------------------------


def convolution(
    name: str,
    geometry: ConvGeometry,
    backend: Backend,
    dtype: str = "float32",
    algorithms: Iterable[str] | None = None,
    passes: Sequence[str] = PASSES,
) -> Problem:
    """Return a convolution as a problem for the algorithms named, or for all.

    The floor of a pass is its own matrix product on contiguous arrays that exist already.
    """
    arrays = conv_arrays(geometry, dtype)
    on_device = functools.cache(functools.partial(_on_device, backend, arrays, geometry))
    candidates = [
        Candidate(FLOOR, one, functools.partial(_floor, one, geometry, backend, dtype), None)
        for one in passes
    ]
    for algorithm in ops.algorithm_names() if algorithms is None else algorithms:
        for one in passes:
            prepare = functools.partial(_prepared, algorithm, one, geometry, backend, on_device)
            chosen = ""
            if algorithm == "auto":
                chosen = plan_for(one, geometry, backend.dtype(dtype), backend, "auto").algorithm.name
            evidence = functools.partial(compared_images, one, backend.to_numpy)
            candidates.append(Candidate(algorithm, one, prepare, evidence, chosen))
    answer = functools.cache(functools.partial(conv_answer, arrays, geometry))
    work = 2.0 * geometry.macs
    return Problem(name, described(geometry), candidates, lambda _: work, answer, TOLERANCE[dtype])


def model(
    name: str,
    case: ModelCase,
    dtype: str = "float32",
    algorithms: Iterable[str] = ("auto",),
    passes: Sequence[str] = MODEL_PASSES,
) -> Problem:
    """Return a model's training step and inference as a problem, on the current backend.

    The answers are of the same model in float64 on NumPy, with another convolution: the logits of a few
    images; and the losses of a few steps of SGD on them, without dropout.
    """
    candidates = [
        Candidate(
            algorithm,
            one,
            functools.partial(_prepared_model, one, case, dtype, algorithm),
            functools.partial(_model_evidence, one, case, dtype, algorithm),
        )
        for algorithm in algorithms
        for one in passes
    ]

    @functools.cache
    def answer(pass_name: str) -> np.ndarray:
        with use_backend("numpy"), ops.conv_algorithm("kn2row"):
            return model_result(pass_name, case, "float64")

    macs = nn.summary(case.build(), case.shape[1:]).macs * case.shape[0]
    description = f"batch {'x'.join(map(str, case.shape))}"
    work = {"train": 6.0 * macs, "inference": 2.0 * macs}  # backward multiplies twice as much as forward
    return Problem(name, description, candidates, work.__getitem__, answer, MODEL_TOLERANCE[dtype])


def described(geometry: ConvGeometry) -> str:
    """Return a geometry in words.

    Examples
    --------
    >>> described(CONVOLUTIONS["stem"])
    '8x3x224x224 to 64, kernel 7x7, stride 2, padding 3'
    """
    options = {"stride": (geometry.stride, 1), "padding": (geometry.padding, 0)}
    options |= {"dilation": (geometry.dilation, 1), "groups": ((geometry.groups,), 1)}
    words = [f"{'x'.join(map(str, geometry.input_shape))} to {geometry.k}"]
    words.append(f"kernel {'x'.join(map(str, geometry.kernel))}")
    words += [f"{name} {values[0]}" for name, (values, usual) in options.items() if values[0] != usual]
    return ", ".join(words)


def conv_arrays(geometry: ConvGeometry, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, weight and dy for a geometry: normal random numbers, the same in every run."""
    rng = np.random.default_rng(0)
    shapes = geometry.input_shape, geometry.weight_shape, geometry.output_shape
    x, weight, dy = (rng.standard_normal(shape, np.float32).astype(dtype) for shape in shapes)
    return x, weight / np.asarray(math.sqrt(math.prod(geometry.weight_shape[1:])), dtype), dy


def channels_last(backend: Backend, images: np.ndarray) -> Any:
    """Return host images (N, C, H, W) on the device as a layer leaves them: channels-last in memory."""
    return backend.xp.permute_dims(backend.channels_last(backend.asarray(images)), (0, 3, 1, 2))


def compared_images(pass_name: str, to_host: Callable[[Any], np.ndarray], result: Any) -> np.ndarray:
    """Return what `conv_answer` gives of a result: that of a few images, where it belongs to images."""
    found = to_host(result)
    return found if pass_name == "grad_weight" else found[some_of(len(found))]


def waited(backend: Backend, result: Any) -> Any:
    """Return a result when its device has finished it."""
    backend.synchronize()
    return result


def _on_device(backend: Backend, arrays: Any, geometry: ConvGeometry) -> tuple[Any, Any, Any]:
    x, weight, dy = arrays
    from_a_loader = geometry.c <= 3  # in NCHW memory; others come from a layer
    images = backend.asarray(x) if from_a_loader else channels_last(backend, x)
    return images, backend.asarray(weight), channels_last(backend, dy)


def _prepared(
    algorithm: str,
    pass_name: str,
    geometry: ConvGeometry,
    backend: Backend,
    on_device: Callable[[], tuple[Any, Any, Any]],
) -> Callable[[], Any]:
    if algorithm == "loop":
        check_steps(math.prod(geometry.output_shape), geometry.macs)
    x, weight, dy = on_device()
    top, _, left, _ = geometry.padding
    options: dict[str, Any] = {name: getattr(geometry, name) for name in ("stride", "dilation", "groups")}
    forward = functools.partial(ops.conv2d, x, weight, padding=(top, left), **options, algorithm=algorithm)
    if pass_name == "forward":
        return lambda: waited(backend, forward()[0])
    _, ctx = forward()
    place = PASSES.index(pass_name) - 1
    wanted = {"need_dx": place == 0, "need_dweight": place == 1}
    return lambda: waited(backend, ops.conv2d.backward(ctx, dy, **wanted)[place])


def check_steps(steps: int, macs: int) -> None:
    """Refuse a Python loop of so many steps and multiplications that would take too long."""
    seconds = 5e-6 * steps + 1e-9 * macs
    if seconds > LOOP_SECONDS:
        raise AlgorithmError(f"left out: a call would take about {seconds:.0f} s")


def _floor(pass_name: str, geometry: ConvGeometry, backend: Backend, dtype: str) -> Callable[[], Any]:
    """Return the matrix product of a pass, into memory that exists already."""
    xp, group = backend.xp, geometry.groups
    pixels = geometry.n * math.prod(geometry.output_size)
    patch, outputs = math.prod(geometry.weight_shape[1:]), geometry.k // group

    def ones(rows: int, columns: int) -> Any:
        shape = (rows, columns) if group == 1 else (group, rows, columns)
        return xp.ones(shape, dtype=backend.dtype(dtype), device=backend.device)

    if pass_name == "forward":
        a, b = ones(pixels, patch), ones(patch, outputs)
    elif pass_name == "grad_input":
        a, b = ones(pixels, outputs), xp.matrix_transpose(ones(patch, outputs))
    else:
        a, b = xp.matrix_transpose(ones(pixels, patch)), ones(pixels, outputs)
    result = xp.matmul(a, b)
    try:
        xp.matmul(a, b, out=result)
    except TypeError:  # a library that is the standard and nothing more
        return lambda: waited(backend, xp.matmul(a, b))
    return lambda: waited(backend, xp.matmul(a, b, out=result))


def _prepared_model(pass_name: str, case: ModelCase, dtype: str, algorithm: str) -> Callable[[], Any]:
    model = case.build(dtype)
    backend = backend_of(next(iter(model.parameters().values())).data)
    images, labels = case.batch()
    x, t = backend.asarray(images, dtype), backend.asarray(labels)
    trainer = Trainer(model, optim.Adam(model, lr=1e-3))

    def train() -> Any:
        with ops.conv_algorithm(algorithm):
            return waited(backend, trainer.step(x, t))

    def infer() -> Any:
        with backend.execution_context(), ops.conv_algorithm(algorithm):
            return waited(backend, model(x))

    return train if pass_name == "train" else infer


def _model_evidence(pass_name: str, case: ModelCase, dtype: str, algorithm: str, result: Any) -> np.ndarray:
    if pass_name == "inference":
        return to_numpy(result)[:CHECKED]
    with ops.conv_algorithm(algorithm):
        return model_result(pass_name, case, dtype)


def model_result(pass_name: str, case: ModelCase, dtype: str) -> np.ndarray:
    """Return the logits of a few images, or the losses of a few steps on them, without dropout."""
    model = case.build(dtype, dropout=False)
    backend = backend_of(next(iter(model.parameters().values())).data)
    images, labels = case.batch()
    x, t = backend.asarray(images[:CHECKED], dtype), backend.asarray(labels[:CHECKED])
    if pass_name == "inference":
        with backend.execution_context():
            return to_numpy(model(x))
    trainer = Trainer(model, optim.SGD(model, lr=SGD_LR))  # Adam would hide a gradient of the wrong length
    return descent([float(trainer.step(x, t)) for _ in range(STEPS)])


def descent(losses: Sequence[float]) -> np.ndarray:
    """Return how much the loss falls in each step, as the gradients make it, relative to the first loss."""
    return -np.diff(losses) / losses[0]
