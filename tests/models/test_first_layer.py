"""No gradient is computed for images: where training could ask for one, no convolution is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.model_cases import FAMILIES, images, tiny, tiny_shape
from xpcnn import Trainer, models, nn, optim
from xpcnn.ops.conv import executor

Array = np.ndarray[Any, Any]
Asked = Callable[..., list[str]]


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    """The weights of the convolutions whose dx was computed, each time it was."""
    seen: list[Array] = []
    run = executor.run

    def noted(plan: Any, a: Any, b: Any, *epilogue: Any) -> Any:
        if plan.pass_name == "grad_input":
            seen.append(xpcnn.to_numpy(b).copy())
        return run(plan, a, b, *epilogue)

    monkeypatch.setattr(executor, "run", noted)
    return seen


@pytest.fixture
def asked(weights: list[Array]) -> Asked:
    """Trains a model for one step, and tells the paths of the convolutions whose dx was computed.

    A convolution is known by the values of its weight, as training in half precision computes with copies.
    """

    def step(
        model: nn.Layer, size: tuple[int, ...] = (2, 16, 16), dtype: str | None = None, **options: Any
    ) -> list[str]:
        before = {
            path: xpcnn.to_numpy(parameter.data).astype(dtype or "float32")
            for path, parameter in model.parameters().items()
        }
        weights.clear()
        trainer = Trainer(model, optim.SGD(model, lr=1e-3), dtype=dtype, **options)
        trainer.step(images(4, *size, dtype="float32"), np.arange(4) % 4)
        return [path for path, own in before.items() if any(np.array_equal(own, seen) for seen in weights)]

    return step


def convolutions(model: nn.Layer) -> list[str]:
    """The paths of all convolutions' weights, in the order in which images reach them in a plain row."""
    return [path for path, parameter in model.parameters().items() if len(parameter.shape) == 4]


def single(name: str, **options: Any) -> nn.Sequential:
    return tiny(name, dtype="float32", **options)


@pytest.mark.parametrize("dtype", [None, "float16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(asked: Asked, name: str, dtype: str | None) -> None:
    model = single(name)
    first, *others = convolutions(model)
    assert asked(model, tiny_shape(name), dtype=dtype) == others, first


def test_with_auxiliary_heads(asked: Asked) -> None:
    model = single("googlenet", aux=True)
    _, *others = convolutions(model)
    assert asked(model, loss=models.googlenet_loss) == others
    assert asked(model, loss=models.googlenet_loss, dtype="float16") == others


def test_branches_that_all_see_the_images(asked: Asked) -> None:
    """Three convolutions see nothing but images: two branches' first, and a shortcut."""
    deep = nn.Sequential(nn.Conv2d(2, 3, 1, seed=1), nn.ReLU(), nn.Conv2d(3, 4, 1, seed=2))
    model = nn.Sequential(
        images=nn.Identity(),
        branches=nn.Concat(nn.Residual(deep, nn.Conv2d(2, 4, 1, seed=3)), nn.Conv2d(2, 1, 1, seed=4)),
        last=nn.Conv2d(5, 4, 1, seed=5),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )
    assert asked(model) == ["branches.0.2.weight", "last.weight"]


@pytest.mark.parametrize("name", ["simple", "deep"])
def test_the_books_networks(weights: list[Array], name: str) -> None:
    from xpcnn.scratch.deep_convnet import DeepConvNet
    from xpcnn.scratch.simple_convnet import SimpleConvNet

    network: Any = SimpleConvNet() if name == "simple" else DeepConvNet()
    network.gradient(images(2, 1, 28, 28), np.array([3, 1]))
    # Backwards, and not the first, whose weight is of one channel.
    assert [weight.shape[1] for weight in weights] == ([] if name == "simple" else [64, 32, 32, 16, 16])
