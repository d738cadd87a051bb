"""A last batch of one sample that batch statistics refuse joins the batch before, whoever computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Trainer, nn, ops, optim
from xpcnn.data import Dataset, Loader
from xpcnn.errors import ArgumentError

RNG = np.random.default_rng(0)
DATA = Dataset(RNG.integers(0, 256, (9, 1, 6, 6), dtype=np.uint8), RNG.integers(0, 3, 9), 3)


class Whole(nn.Layer):
    """A network of one's own, whose layers nobody but itself calls."""

    def __init__(self) -> None:
        self.steps = [nn.Conv2d(1, 3, 3, seed=0), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten()]

    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
        contexts = []
        for layer in self.steps:
            x, ctx = layer.forward(x, train=train, key=key)
            contexts.append(ctx)
        return x, contexts

    def backward(self, ctx: Any, dy: Any, grads: Any = None, *, need_dx: bool = True) -> Any:
        for layer, layer_ctx in zip(reversed(self.steps), reversed(ctx), strict=True):
            dy = layer.backward(layer_ctx, dy, grads)
        return dy


class OwnNorm(nn.Layer):
    """A layer of one's own that calls the op."""

    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
        return ops.batch_norm(x, train=True)

    def backward(self, ctx: Any, dy: Any, grads: Any = None, *, need_dx: bool = True) -> Any:
        return ops.batch_norm.backward(ctx, dy)[0]


def with_own_norm() -> nn.Layer:
    conv, pool = nn.Conv2d(1, 3, 3, seed=0), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(conv, pool, OwnNorm(), nn.Flatten())


@pytest.mark.parametrize("build", [Whole, with_own_norm])
def test_layers_of_ones_own_count(build: Any) -> None:
    model, twin = build(), build()
    trainer, other = (Trainer(each, optim.SGD(each, lr=0.1)) for each in (model, twin))
    history = trainer.fit(DATA, epochs=1, batch_size=4, progress=None)
    batches = list(Loader(DATA, 4).epoch(0))
    last = tuple(np.concatenate(parts) for parts in zip(*batches[1:], strict=True))
    expected = [float(other.step(*batch)) for batch in (batches[0], last)]
    assert history.losses == expected
    for name, array in model.state_dict().items():  # the running statistics too: a refused pass leaves none
        np.testing.assert_array_equal(xpcnn.to_numpy(array), xpcnn.to_numpy(twin.state_dict()[name]))


@pytest.mark.parametrize("argument", ["drop_last", "evaluate_train"])
def test_what_is_neither_true_nor_false_is_refused(argument: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    trainer = Trainer(model, optim.SGD(model))
    with pytest.raises(ArgumentError, match=f"{argument} must be True or False, got 'no'"):
        trainer.fit(DATA, epochs=1, progress=None, **{argument: "no"})  # type: ignore[arg-type]
    trainer.fit(DATA, epochs=1, batch_size=3, progress=None, **{argument: np.bool_(True)})  # type: ignore[arg-type]
