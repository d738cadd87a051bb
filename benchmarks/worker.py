"""One process of an alternating measurement: it prepares work, and measures what a call takes.

`benchmarks.alternate.Worker` starts it. Requests come in on stdin as pickles, answers go out on stdout. Of
xpcnn it uses nothing but what every commit has: `benchmarks.compare_commits` runs it over other checkouts.
"""

from __future__ import annotations

import inspect
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["WORKS", "Work"]

STEPS = 4
"""Losses that are compared: that of the initial weights, and after one, two, three steps."""

TORCHS_BATCH = 200
"""Images at a time in PyTorch's inference: of 50, 100, 200, 500 and 1,000 what was fastest for it."""


class Work(NamedTuple):
    """What is timed: a training step or inference of a model, or a 3×3 convolution with both its gradients.

    `batch` is the size of the batches of `predict`; None for its own default. Results that are further apart
    than `tolerance` are different, relative to the largest number.
    """

    title: str
    kind: str
    shape: tuple[int, int, int, int]
    model: str = ""
    options: Mapping[str, Any] = {}
    batch: int | None = None
    tolerance: float = 1e-4


RESNET18 = {"classes": 10, "small_images": True}
WORKS: Mapping[str, Work] = {
    "simple": Work("simple_convnet, training step, batch 100", "train", (100, 1, 28, 28), "simple_convnet"),
    "deep": Work("deep_convnet, training step, batch 100", "train", (100, 1, 28, 28), "deep_convnet"),
    "inference": Work(
        "deep_convnet, inference, 1,000 images", "inference", (1000, 1, 28, 28), "deep_convnet"
    ),
    "resnet": Work(
        "resnet18 (CIFAR stem), training step, batch 32", "train", (32, 3, 32, 32), "resnet18", RESNET18
    ),
    # The losses of PyTorch's channels-last are 1.3e-4 off those in float64, ours and its NCHW 5e-5.
    "resnet20": Work(
        "resnet20, training step, batch 128", "train", (128, 3, 32, 32), "resnet20", tolerance=5e-4
    ),
    **{
        f"conv-{height}x{height}": Work(
            f"3×3 convolution, forward and backward, 32×{channels}×{height}×{height}",
            "conv",
            (32, channels, height, height),
        )
        for height, channels in ((56, 64), (28, 128), (14, 256), (32, 64))
    },
    **{
        f"linear-{n}": Work(
            f"deep_convnet, inference, {n} images", "inference", (n, 1, 28, 28), "deep_convnet", {}, n
        )
        for n in (50, 100, 200, 400)
    },
}


def batch_of(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels: random, the same in every process."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(work.shape, np.float32), rng.integers(0, 10, work.shape[0])


def conv_arrays(work: Work) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, weight and dy."""
    rng, channels = np.random.default_rng(0), work.shape[1]
    x, dy = (rng.standard_normal(work.shape, np.float32) for _ in range(2))
    weight = rng.standard_normal((channels, channels, 3, 3), np.float32)
    return x, weight / np.float32(3 * channels**0.5), dy


# -- whose calls ---------------------------------------------------------------------------


def built(work: Work, dropout: bool) -> Any:
    """Return xpcnn's model; without dropout where results are compared: libraries' masks differ."""
    from xpcnn import models

    off = "dropout" in inspect.signature(getattr(models, work.model)).parameters and not dropout
    return models.build(work.model, **{**work.options, **({"dropout": 0.0} if off else {})})


def described(work: Work, dropout: bool) -> tuple[Any, list[np.ndarray]] | None:
    """Return what another library builds the same model from: its layers and its initial weights."""
    from benchmarks.torch_reference import spec_of
    from xpcnn.backend import to_numpy

    if work.kind == "conv":
        return None
    model = built(work, dropout)
    return spec_of(model), [to_numpy(value) for value in model.state_dict().values()]


def of_xpcnn(work: Work, dropout: bool, _: Any) -> Callable[[], Any]:
    """Return xpcnn's call; a convolution gets its images as a layer leaves them, channels-last."""
    from xpcnn import Trainer, ops, optim
    from xpcnn.backend import get_backend
    from xpcnn.train import predict

    backend = get_backend()
    if work.kind == "conv":
        x, weight, dy = (backend.asarray(array) for array in conv_arrays(work))
        x, dy = (backend.xp.permute_dims(backend.channels_last(one), (0, 3, 1, 2)) for one in (x, dy))
        backward = getattr(ops.conv2d, "backward", None) or vars(ops)["conv2d_backward"]  # of older commits
        context = getattr(backend, "execution_context", None) or vars(type(backend))["model_run"].__get__(
            backend
        )

        def convolve() -> tuple[Any, Any, Any]:
            with context():
                y, ctx = ops.conv2d(x, weight, padding=1)
                dx, dweight, _ = backward(ctx, dy)
            return y, dx, dweight

        return convolve
    model, (images, labels) = built(work, dropout), batch_of(work)
    if work.kind == "inference":
        batch = {} if work.batch is None else {"batch_size": work.batch}
        return lambda: predict(model, images, **batch)
    trainer = Trainer(model, optim.Adam(model, lr=1e-3))
    return lambda: trainer.step(images, labels)


def of_torch(layout: str, work: Work, _: bool, made: Any) -> Callable[[], Any]:
    """Return PyTorch's call."""
    import torch

    from benchmarks.torch_reference import TorchReference

    reference = TorchReference(threads=int(os.environ["OMP_NUM_THREADS"]))
    if work.kind == "conv":
        x, weight, dy = (reference.tensor(array, layout) for array in conv_arrays(work))
        inputs = x.requires_grad_(), weight.requires_grad_()

        def convolve() -> tuple[Any, Any, Any]:
            y = torch.nn.functional.conv2d(*inputs, padding=1)
            return y.detach(), *torch.autograd.grad(y, inputs, dy)

        return convolve
    (spec, state), (images, labels) = made, batch_of(work)
    if work.kind == "train":
        return reference.network(spec, state, images, labels, layout)["train"]
    # A network belongs to its images: one for each batch, of the same weights.
    slices = [slice(start, start + TORCHS_BATCH) for start in range(0, len(images), TORCHS_BATCH)]
    parts = [
        reference.network(spec, state, images[rows], labels[rows], layout)["inference"] for rows in slices
    ]
    return lambda: torch.softmax(torch.cat([part() for part in parts]), 1)


def of_articles(work: Work, dropout: bool, made: Any) -> Callable[[], Any]:
    """Return a training step of deep_convnet as from-scratch articles write it, in float64."""
    from benchmarks.naive import DeepConvNet
    from xpcnn.backend import get_backend

    get_backend()  # which sets up the allocator: freed memory is kept, as for xpcnn's own step
    names = [f"{layer}.{part}" for layer in DeepConvNet.LAYERS for part in ("weight", "bias")]
    net = DeepConvNet(dict(zip(names, made[1], strict=True)), 0.5 if dropout else 0.0)
    images, labels = batch_of(work)
    wide = images.astype(np.float64)
    return lambda: net.step(wide, labels)


CONTENDERS: Mapping[str, Callable[..., Callable[[], Any]]] = {
    "xpcnn": of_xpcnn,
    "NCHW": lambda *arguments: of_torch("NCHW", *arguments),
    "channels-last": lambda *arguments: of_torch("channels-last", *arguments),
    "straightforward": of_articles,
}


# -- the process ---------------------------------------------------------------------------


class Server:
    """What can be asked for."""

    call: Callable[[], Any]

    def origin(self) -> str:
        """Return where xpcnn was imported from."""
        import xpcnn

        return os.path.realpath(xpcnn.__file__)

    def describe(self, work: Work, dropout: bool) -> Any:
        return described(work, dropout)

    def results(self, contender: str, work: Work, made: Any) -> list[np.ndarray]:
        """Return what is compared: losses without dropout, or the arrays of one call."""
        call = CONTENDERS[contender](work, False, made)
        if work.kind == "train":
            return [np.array([float(call()) for _ in range(STEPS)])]
        found = call()
        return [np.asarray(part) for part in (found if isinstance(found, tuple) else (found,))]

    def prepare(self, contender: str, work: Work, made: Any) -> None:
        self.call = CONTENDERS[contender](work, True, made)

    def seconds(self, repeats: int) -> float:
        """Return what each of so many calls takes on average."""
        begun = time.perf_counter()
        for _ in range(repeats):
            self.call()
        return (time.perf_counter() - begun) / repeats

    def step_memory(self, name: str) -> tuple[int, int]:
        """Return the peak of a training step of one of `MODELS`, and its contexts, in bytes."""
        from benchmarks.peak_memory import step_memory
        from xpcnn.cli.bench_cases import MODELS

        return step_memory(MODELS[name])

    def evaluation_memory(self, model: str, images: int) -> int:
        """Return the bytes that evaluating so many images adds."""
        from benchmarks.peak_memory import evaluation_memory

        return evaluation_memory(model, images)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    server = Server()
    while True:
        try:
            name, *arguments = pickle.load(requests)
        except EOFError:
            return
        answer, failure = None, None
        try:
            answer = getattr(server, name)(*arguments)
        except Exception:
            failure = traceback.format_exc()
        pickle.dump((answer, failure), answers)
        answers.flush()


if __name__ == "__main__":
    main()
