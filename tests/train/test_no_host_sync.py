"""A training step waits for no device: it looks at no value that was computed in it. Each look is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Trainer, nn, optim
from xpcnn.data import Dataset

OPTIMIZERS: dict[str, Callable[[nn.Layer], optim.Optimizer]] = {
    "SGD": lambda model: optim.SGD(model, lr=1e-3),
    "SGD nesterov": lambda model: optim.SGD(
        model, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=0.1, groups={"*.bias": {"lr": 1e-4}}
    ),
    "AdaGrad": lambda model: optim.AdaGrad(model, weight_decay=0.1),
    "RMSprop": lambda model: optim.RMSprop(model, momentum=0.9, weight_decay=0.1),
    "Adam": lambda model: optim.Adam(model, weight_decay=0.1),
    "AdamW": optim.AdamW,
}


def trainer_of(model: nn.Layer, optimizer: str = "Adam", dtype: str | None = None) -> Trainer:
    """A trainer with every technique."""
    made = OPTIMIZERS[optimizer](model)
    return Trainer(
        model,
        made,
        schedule=optim.LinearWarmup(made, 2, then=optim.CosineAnnealingLR(made, 30)),
        clip_norm=1.0,
        average=optim.WeightAverage(model, 0.9),
        dtype=dtype,
    )


def every_layer() -> nn.Sequential:
    """A layer of each kind."""
    return nn.Sequential(
        {"": nn.Preprocess(0.5, 0.5)},
        conv=nn.Conv2d(1, 8, 5, stride=2, padding=2, seed=0),
        norm1=nn.GroupNorm(2, 8),
        gelu=nn.GELU(),
        beside=nn.Concat(
            left=nn.Conv2d(8, 4, 3, padding="same", dilation=2, groups=2, seed=1), right=nn.MaxPool2d(3, 1, 1)
        ),
        norm2=nn.LocalResponseNorm(3),
        leaky=nn.LeakyReLU(),
        residual=nn.Residual(nn.Sequential(nn.Conv2d(12, 12, 1, bias=False, seed=2), nn.SiLU())),
        up=nn.ConvTranspose2d(12, 3, 2, stride=2, seed=3),
        norm3=nn.BatchNorm2d(3),
        tanh=nn.Tanh(),
        average=nn.AvgPool2d(3, 2, 1),
        scaled=nn.ScaledAvgPool2d(3, 2),
        adaptive=nn.AdaptiveAvgPool2d(4),
        flatten=nn.Flatten(),
        drop=nn.Dropout(0.5),
        norm4=nn.LayerNorm(48),
        sigmoid=nn.Sigmoid(),
        same=nn.Identity(),
        hidden=nn.Linear(48, 48, seed=5),
        softmax=nn.Softmax(),
        relu=nn.ReLU(),
        fc=nn.Linear(48, 10, seed=4),
        norm5=nn.BatchNorm1d(10),
    )


def kinds_in(layer: nn.Layer) -> set[type]:
    return {type(layer)}.union(*(kinds_in(child) for child in layer.children().values()))


def test_a_look_is_counted(looks: list[str]) -> None:
    x = xpcnn.asarray([1.0, 2.0])
    for look in (xpcnn.to_numpy, lambda x: float(x[0]), lambda x: bool(x[0] > 0), lambda x: x.tolist()):
        looks.clear()
        look(x)
        assert len(looks) == 1


def test_every_layer_is_here() -> None:
    public = [getattr(nn, name) for name in nn.__all__]
    layers = {kind for kind in public if isinstance(kind, type) and issubclass(kind, nn.Layer)}
    assert kinds_in(nn.Ensemble(every_layer())) == layers - {nn.Layer, nn.Stateless}


@pytest.mark.parametrize(
    ("optimizer", "dtype"), [*((name, None) for name in OPTIMIZERS), ("Adam", "float16"), ("SGD", "bfloat16")]
)
def test_a_step_looks_at_nothing(looks: list[str], digits: Dataset, optimizer: str, dtype: Any) -> None:
    trainer = trainer_of(nn.Ensemble(every_layer(), every_layer()), optimizer, dtype)
    images, labels = digits[:8]
    for targets in (labels, np.eye(10, dtype=np.float32)[labels]):
        trainer.step(images, targets)  # whatever is made once
        looks.clear()
        trainer.step(images, targets)
        assert looks == []


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_fit_looks_once_in_ten_steps(looks: list[str], new_model: Any, digits: Dataset, dtype: Any) -> None:
    trainer = trainer_of(new_model(), dtype=dtype)
    trainer.step(*digits[:2])
    looks.clear()
    trainer.fit(digits[:50], None, 1, 2, evaluate_samples=10, progress=None)
    losses, evaluation = 3, 2  # after 10, 20 and 25 steps; how many are right, and the loss
    finite = 1  # whether all weights are
    assert looks == ["to_numpy"] * (losses + finite + evaluation)
