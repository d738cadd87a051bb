"""What ``xpcnn bench`` and `pytest benchmarks` measure: shapes, candidates, and independent answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from xpcnn import models, nn, ops, optim
from xpcnn.backend import Backend, get_backend, to_numpy, use_backend
from xpcnn.errors import AlgorithmError, XpcnnError
from xpcnn.ops import ConvGeometry
from xpcnn.ops.conv.executor import plan_for
from xpcnn.train import Trainer

FLOOR = "gemm floor"
"""The candidate that is the matrix product of a pass and nothing else."""

PASSES, MODEL_PASSES = ("forward", "grad_input", "grad_weight"), ("train", "inference")
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
MODEL_TOLERANCE = {"float32": 1e-2, "float64": 1e-8}
"""Errors, relative to the largest expected number, above which a result is wrong rather than rounded."""

CHECKED, STEPS, SGD_LR = 4, 4, 1e-3
"""Of a model's answers: the images, and the steps, with another optimiser than the one that is timed."""

LOOP_SECONDS = 1.5  # a loop that would take longer for one call is left out


class WrongResultError(XpcnnError):
    """A result that is further from the answer than rounding explains."""


class Candidate(NamedTuple):
    """One way to compute one pass.

    `prepare` returns the call that is timed, which waits for its device; it raises an `XpcnnError` with the
    reason where the candidate cannot do the problem. `evidence` returns what is compared with the answer,
    given a result of that call; None for what computes no result. `variant` is what `auto` chose, or a memory
    layout.
    """

    algorithm: str
    pass_name: str
    prepare: Callable[[], Callable[[], Any]]
    evidence: Callable[[Any], np.ndarray] | None
    variant: str = ""


class Problem(NamedTuple):
    """What the candidates are to compute: operations and the answer by pass, and the largest error."""

    name: str
    description: str
    candidates: list[Candidate]
    operations: Mapping[str, float]
    answer: Callable[[str], np.ndarray]
    tolerance: float

    def verified(self, candidate: Candidate) -> tuple[Callable[[], Any], float | None]:
        """Prepare a candidate, and return its call and the error of its result, or raise an `XpcnnError`."""
        try:
            call = candidate.prepare()
            result = call()
            if candidate.evidence is None:
                return call, None
            found = candidate.evidence(result)
        except MemoryError as error:
            raise XpcnnError(f"ran out of memory: {error}") from error
        return call, require_close(found, self.answer(candidate.pass_name), self.tolerance)


def require_close(result: np.ndarray, answer: np.ndarray, tolerance: float) -> float:
    """Return the largest difference, relative to the largest expected number, unless it is too large."""
    error = math.inf
    if result.shape == answer.shape and np.isfinite(result).all():
        error = float(np.abs(result - answer).max(initial=0) / (np.abs(answer).max(initial=0) or 1))
    if not error <= tolerance:
        raise WrongResultError(f"WRONG: off by {error:.1e} of the largest number, {tolerance:.0e} is allowed")
    return error


# -- convolutions ------------------------------------------------------------------------


def conv_geometry(shape: tuple[int, ...], outputs: int, kernel: int, **options: Any) -> ConvGeometry:
    """Return a geometry of a square kernel."""
    weight = (outputs, shape[1] // options.get("groups", 1), kernel, kernel)
    return ConvGeometry.of(shape, weight, **options)


CONVOLUTIONS = {
    # One image: sizes that the loops finish at once.
    "tiny": conv_geometry((1, 1, 28, 28), 8, 3),
    "simple-1": conv_geometry((1, 1, 28, 28), 30, 5),
    # The articles' networks, a batch of MNIST.
    "simple": conv_geometry((100, 1, 28, 28), 30, 5),
    "deep": conv_geometry((100, 16, 28, 28), 16, 3, padding=1),
    # VGG and ResNet.
    "stem": conv_geometry((8, 3, 224, 224), 64, 7, stride=2, padding=3),
    "56x56": conv_geometry((32, 64, 56, 56), 64, 3, padding=1),
    "28x28": conv_geometry((32, 128, 28, 28), 128, 3, padding=1),
    "14x14": conv_geometry((32, 256, 14, 14), 256, 3, padding=1),
    "stride-2": conv_geometry((32, 128, 28, 28), 256, 3, stride=2, padding=1),
    "1x1": conv_geometry((32, 256, 56, 56), 64, 1),
    # What the others do not have.
    "large-kernel": conv_geometry((8, 32, 56, 56), 32, 11, padding=5),
    "depthwise": conv_geometry((32, 64, 56, 56), 64, 3, padding=1, groups=64),
    "dilated": conv_geometry((8, 64, 56, 56), 64, 3, padding=2, dilation=2),
}


def conv_problem(name: str, geometry: ConvGeometry, backend: Backend, dtype: str = "float32") -> Problem:
    """Return a convolution as a problem for every algorithm, and for the floor."""
    arrays = conv_arrays(geometry, dtype)

    @cache
    def on_device() -> tuple[Any, Any, Any]:
        x, weight, dy = arrays
        # Of three channels they are a loader's, in NCHW memory; others come from a layer.
        images = backend.asarray(x) if geometry.c <= 3 else channels_last(backend, x)
        return images, backend.asarray(weight), channels_last(backend, dy)

    def prepare(algorithm: str, pass_name: str) -> Callable[[], Any]:
        if algorithm == "loop":
            check_steps(math.prod(geometry.output_shape), geometry.macs)
        x, weight, dy = on_device()
        top, _, left, _ = geometry.padding
        options: Any = {one: getattr(geometry, one) for one in ("stride", "dilation", "groups")}
        forward = partial(ops.conv2d, x, weight, padding=(top, left), algorithm=algorithm, **options)
        if pass_name == "forward":
            return lambda: waited(backend, forward()[0])
        _, ctx = forward()
        place = PASSES.index(pass_name) - 1
        need = {"need_dx": place == 0, "need_dweight": place == 1}
        return lambda: waited(backend, ops.conv2d.backward(ctx, dy, **need)[place])

    floor = partial(_floor, geometry, backend, dtype)
    candidates = [Candidate(FLOOR, one, partial(floor, one), None) for one in PASSES]
    for algorithm, one in product(ops.algorithm_names(), PASSES):
        plan = plan_for(one, geometry, backend.dtype(dtype), backend, "auto")
        chosen = plan.algorithm.name if algorithm == "auto" else ""
        evidence = partial(compared_images, one, backend.to_numpy)
        candidates.append(Candidate(algorithm, one, partial(prepare, algorithm, one), evidence, chosen))
    answer = cache(partial(conv_answer, arrays, geometry))
    work = dict.fromkeys(PASSES, 2.0 * geometry.macs)
    return Problem(name, described(geometry), candidates, work, answer, TOLERANCE[dtype])


def described(geometry: ConvGeometry) -> str:
    """Return a geometry in words."""
    names = ("kernel", "stride", "padding", "dilation", "groups")
    options = ", ".join(f"{name} {getattr(geometry, name)}" for name in names)
    return f"{'x'.join(map(str, geometry.input_shape))} to {geometry.k}, {options}"


def conv_arrays(geometry: ConvGeometry, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, weight and dy for a geometry: normal random numbers, the same in every run."""
    rng = np.random.default_rng(0)
    shapes = geometry.input_shape, geometry.weight_shape, geometry.output_shape
    x, weight, dy = (rng.standard_normal(shape, np.float32).astype(dtype) for shape in shapes)
    return x, weight / np.asarray(math.sqrt(math.prod(geometry.weight_shape[1:])), dtype), dy


def channels_last(backend: Backend, images: np.ndarray) -> Any:
    """Return host images (N, C, H, W) on the device as a layer leaves them: channels-last in memory."""
    return backend.xp.permute_dims(backend.channels_last(backend.asarray(images)), (0, 3, 1, 2))


def some_of(images: int) -> list[int]:
    """Return the first, the middle and the last of so many images: those that are compared."""
    return sorted({0, images // 2, images - 1})


def compared_images(pass_name: str, to_host: Callable[[Any], np.ndarray], result: Any) -> np.ndarray:
    """Return what `conv_answer` gives of a result: that of a few images, where it belongs to images."""
    found = to_host(result)
    return found if pass_name == "grad_weight" else found[some_of(len(found))]


def waited(backend: Backend, result: Any) -> Any:
    """Return a result when its device has finished it."""
    backend.synchronize()
    return result


def check_steps(steps: int, macs: int) -> None:
    """Refuse a Python loop of so many steps and multiplications that would take too long."""
    seconds = 5e-6 * steps + 1e-9 * macs
    if seconds > LOOP_SECONDS:
        raise AlgorithmError(f"left out: a call would take about {seconds:.0f} s")


def conv_answer(
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray], geometry: ConvGeometry, pass_name: str
) -> np.ndarray:
    """Return the result of a pass over (x, weight, dy), of `some_of` the images where it belongs to them.

    It is summed tap by tap over shifted slices in float64, without the ops.
    """
    x, weight, dy = (np.asarray(array, np.float64) for array in arrays)
    if pass_name != "grad_weight":
        x, dy = x[some_of(geometry.n)], dy[some_of(geometry.n)]
    n, groups, (oh, ow) = len(x), geometry.groups, geometry.output_size
    (sh, sw), (dh, dw), (top, bottom, left, right) = geometry.stride, geometry.dilation, geometry.padding
    around = [(0, 0)] * 3 + [(top, bottom), (left, right)]
    padded = np.pad(x.reshape(n, groups, -1, *x.shape[2:]), around)
    dy = dy.reshape(n, groups, -1, oh * ow)
    weight = weight.reshape(groups, -1, *weight.shape[1:])
    y, dpadded, dweight = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(weight)
    for r, s in np.ndindex(geometry.kernel):
        window = ..., slice(r * dh, r * dh + sh * oh, sh), slice(s * dw, s * dw + sw * ow, sw)
        tap, inputs = weight[..., r, s], padded[window].reshape(n, groups, -1, oh * ow)
        if pass_name == "forward":
            y += tap @ inputs
        elif pass_name == "grad_input":
            dpadded[window] += (tap.mT @ dy).reshape(n, groups, -1, oh, ow)
        else:
            dweight[..., r, s] = (dy @ inputs.mT).sum(axis=0)
    dx = dpadded[..., top : top + geometry.h, left : left + geometry.w].reshape(x.shape)
    y = y.reshape(n, -1, oh, ow)
    return {"forward": y, "grad_input": dx, "grad_weight": dweight.reshape(geometry.weight_shape)}[pass_name]


def _floor(geometry: ConvGeometry, backend: Backend, dtype: str, pass_name: str) -> Callable[[], Any]:
    """Return the matrix product of a pass, on contiguous arrays and into memory that exist already."""
    pixels = geometry.n * math.prod(geometry.output_size)
    patch, outputs = math.prod(geometry.weight_shape[1:]), geometry.k // geometry.groups
    sizes = {"forward": (pixels, patch, outputs), "grad_input": (pixels, outputs, patch)}
    rows, inner, columns = sizes.get(pass_name, (outputs, pixels, patch))
    a = backend.asarray(np.ones((geometry.groups, rows, inner), dtype))
    b = backend.asarray(np.ones((geometry.groups, inner, columns), dtype))
    # A library that is the standard and nothing more has no `out`.
    into = {} if backend.name == "array_api_strict" else {"out": backend.xp.matmul(a, b)}
    return lambda: waited(backend, backend.xp.matmul(a, b, **into))


# -- models ------------------------------------------------------------------------------


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


MODELS = {
    "simple_convnet": ModelCase("simple_convnet", {}, (100, 1, 28, 28)),
    "deep_convnet": ModelCase("deep_convnet", {"dropout": 0.5}, (100, 1, 28, 28)),
    "resnet18-cifar": ModelCase("resnet18", {"classes": 10, "small_images": True}, (32, 3, 32, 32)),
}


def model_problem(name: str, case: ModelCase, backend: Backend, dtype: str = "float32") -> Problem:
    """Return a model's training step and inference as a problem, on the current backend.

    The answers are of the same model in float64 on NumPy, with another convolution: the logits of a few
    images; and the losses of a few steps of SGD on them, without dropout.
    """

    def prepare(algorithm: str, pass_name: str) -> Callable[[], Any]:
        model = case.build(dtype)
        images, labels = case.batch()
        x, t = backend.asarray(images, dtype), backend.asarray(labels)
        trainer = Trainer(model, optim.Adam(model, lr=1e-3))

        def call() -> Any:
            with backend.execution_context(), ops.conv_algorithm(algorithm):
                return waited(backend, trainer.step(x, t) if pass_name == "train" else model(x))

        return call

    def evidence(algorithm: str, pass_name: str, result: Any) -> np.ndarray:
        with ops.conv_algorithm(algorithm):
            return model_result(pass_name, case, dtype, None if pass_name == "train" else result)

    @cache
    def answer(pass_name: str) -> np.ndarray:
        with use_backend("numpy"), ops.conv_algorithm("kn2row"):
            return model_result(pass_name, case, "float64")

    pairs = product(ops.algorithm_names(), MODEL_PASSES)
    candidates = [Candidate(*one, partial(prepare, *one), partial(evidence, *one)) for one in pairs]
    macs = nn.summary(case.build(), case.shape[1:]).macs * case.shape[0]
    work = {"train": 6.0 * macs, "inference": 2.0 * macs}  # backward multiplies twice as much as forward
    title = f"batch {'x'.join(map(str, case.shape))}"
    return Problem(name, title, candidates, work, answer, MODEL_TOLERANCE[dtype])


def model_result(pass_name: str, case: ModelCase, dtype: str, result: Any = None) -> np.ndarray:
    """Return the logits of a few images, or the losses of a few steps on them, without dropout."""
    model, backend = case.build(dtype, dropout=False), get_backend()
    images, labels = case.batch()
    x, t = backend.asarray(images[:CHECKED], dtype), backend.asarray(labels[:CHECKED])
    if pass_name == "inference":
        with backend.execution_context():
            return to_numpy(model(x) if result is None else result)[:CHECKED]
    trainer = Trainer(model, optim.SGD(model, lr=SGD_LR))  # Adam would hide a gradient of the wrong length
    return descent([float(trainer.step(x, t)) for _ in range(STEPS)])


def descent(losses: Sequence[float]) -> np.ndarray:
    """Return how much the loss falls in each step, as the gradients make it, relative to the first loss."""
    return -np.diff(losses) / losses[0]
