"""A step that is not finite: nothing of it reaches the weights, and the message says where it came from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.train import PassOn
from xpcnn import Trainer, models, nn, ops, optim
from xpcnn.data import Dataset
from xpcnn.errors import DivergenceError
from xpcnn.train import RunDirectory

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((20, 1, 6, 6)).astype(np.float32)
LABELS = RNG.integers(0, 3, 20)


def small() -> nn.Sequential:
    return nn.Sequential(
        conv=nn.Conv2d(1, 3, 3, seed=0),
        bn=nn.BatchNorm2d(3),
        relu=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(48, 3, seed=0),
    )


def equipped(model: nn.Layer, **options: Any) -> Trainer:
    optimizer = optim.Adam(model, lr=0.01)
    techniques = {"schedule": optim.ExponentialLR(optimizer, 0.9), "average": optim.WeightAverage(model, 0.9)}
    return Trainer(model, optimizer, **techniques, **options)


def everything(trainer: Trainer) -> list[Any]:
    """What a step may change, on the host."""
    slots = trainer.optimizer.state_dict()["state"]
    arrays = [
        *trainer.model.state_dict().values(),
        *trainer.eval_model.state_dict().values(),
        *(array for entry in slots.values() for array in entry.values()),
    ]
    return [xpcnn.to_numpy(array) for array in arrays]


def with_bad(kind: str) -> np.ndarray[Any, Any]:
    images = IMAGES.copy()
    images[[13, 17], 0, 2, 3] = {"NaN": math.nan, "infinity": math.inf, "minus infinity": -math.inf}[kind]
    return images


def check_refused(trainer: Trainer, images: Any, targets: Any, message: str) -> int:
    """A step raises; on a device, where looking would wait, it counts instead and its loss is NaN."""
    if trainer.model.backend.is_host:
        with pytest.raises(DivergenceError, match=message):
            trainer.step(images, targets)
        return 0
    assert math.isnan(float(trainer.step(images, targets)))
    return 1


@pytest.fixture(params=["torch", "cupy"])
def waiting(request: Any, monkeypatch: Any) -> Iterator[None]:
    """Values cost a wait: on a CUDA device, and on a CPU's torch backend that is made to behave like one."""
    if reason := xpcnn.available_backends()[request.param]:
        pytest.skip(reason)
    with xpcnn.use_backend(request.param) as backend:
        monkeypatch.setattr(backend, "is_host", False)
        yield


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["NaN", "infinity", "minus infinity"])
def test_images_that_are_not_finite_are_named(make: Any, kind: str, dtype: str | None) -> None:
    if dtype is not None and not make.has(dtype):
        pytest.skip(f"no {dtype}")
    with make.use():
        trainer = equipped(small(), dtype=dtype)
    trainer.step(IMAGES[:10], LABELS[:10])
    before = everything(trainer)
    message = r"the loss became .*: 2 of the batch's samples hold NaN or infinity \(positions from 0: 3, 7\) "
    message += r"at step 2 \(epoch 1\) with learning rate 0\.009; repair or remove them"
    if kind != "NaN" or dtype is not None:
        message = "3, 7"
    steps = check_refused(trainer, with_bad(kind)[10:], LABELS[10:], message)
    np.testing.assert_equal(everything(trainer), before)
    assert trainer.steps == 1 + steps
    trainer.step(IMAGES[:10], LABELS[:10])  # and it can go on


def test_statistics_of_a_layer_that_is_new_are_put_back_too() -> None:
    trainer = Trainer(model := small(), optim.SGD(model))
    model["bn"] = nn.BatchNorm2d(3, affine=False)
    with pytest.raises(DivergenceError):
        trainer.fit((with_bad("NaN"), LABELS), batch_size=len(LABELS), progress=None)
    np.testing.assert_array_equal(model.buffers()["bn.running_mean"].data, np.zeros(3))


class Blind(PassOn):
    """Loses what it is given, as max-pooling or a mask may."""

    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> Any:
        return xpcnn.backend_of(x).xp.ones_like(x), None


def test_a_batch_that_hides_a_nan_stops_too(make: Any) -> None:
    with make.use():
        trainer = equipped(nn.Sequential(Blind(), small()))
    before = everything(trainer)
    check_refused(trainer, with_bad("NaN"), LABELS, "2 of the batch's samples hold NaN or infinity")
    for new, old in zip(everything(trainer), before, strict=False):
        np.testing.assert_array_equal(new, old)


def test_targets_that_are_not_finite_are_named(make: Any) -> None:
    with make.use():
        trainer = equipped(small(), loss=ops.mean_squared_error)
    rows = np.eye(3)[LABELS]
    trainer.step(IMAGES, rows)
    before = everything(trainer)
    rows[4, 1] = math.nan
    check_refused(trainer, IMAGES, rows, r"1 of the batch's samples hold .*: 4\)")
    rows[:] = math.inf  # a long list is cut
    check_refused(trainer, IMAGES, rows, r"20 of .* \(positions from 0: 0, 1, 2, 3, 4, …\)")
    np.testing.assert_equal(everything(trainer), before)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_the_update_does_not_happen(make: Any, what: str) -> None:
    bad = False

    def forward(y: Any, t: Any) -> Any:
        value, ctx = ops.softmax_cross_entropy(y, t)
        return (value * math.nan if bad and what == "loss" else value), ctx

    def backward(ctx: Any) -> Any:
        dy = ops.softmax_cross_entropy.backward(ctx)
        return dy * math.inf if bad and what == "gradient" else dy

    with make.use():
        trainer = equipped(small(), loss=(forward, backward))
    trainer.step(IMAGES, LABELS)
    before, bad = everything(trainer), True
    became = "the loss became nan" if what == "loss" else "the gradient of fc.weight became infinite or NaN"
    check_refused(trainer, IMAGES, LABELS, rf"{became} at step 2 .* rate 0\.009; lower the learning rate")
    np.testing.assert_equal(everything(trainer), before)


@pytest.mark.parametrize("bad", ["image", "gradient"])
@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_a_device_takes_the_step_back(waiting: None, dtype: str | None, bad: str) -> None:
    """Nothing is raised, as looking would wait; the loss is NaN, and all state stays."""
    factor = 1.0

    def backward(ctx: Any) -> Any:
        return ops.softmax_cross_entropy.backward(ctx) * factor

    trainer = equipped(small(), dtype=dtype, loss=(ops.softmax_cross_entropy, backward))
    trainer.step(IMAGES, LABELS)
    before = everything(trainer)
    factor = 1.0 if bad == "image" else math.inf
    loss = float(trainer.step(with_bad("infinity") if bad == "image" else IMAGES, LABELS))
    assert math.isnan(loss) is (bad == "image" or dtype != "float16")  # what overflows is no divergence there
    np.testing.assert_equal(everything(trainer), before)
    factor = 1.0
    assert math.isfinite(float(trainer.step(IMAGES, LABELS)))
    assert any((a != b).any() for a, b in zip(everything(trainer), before, strict=True))


@pytest.mark.parametrize(("dtype", "bad"), [(None, "image"), ("float16", "image"), (None, "loss")])
def test_on_a_device_the_message_comes_with_the_next_read(waiting: None, dtype: Any, bad: str) -> None:
    def loss(y: Any, t: Any) -> Any:
        value, ctx = ops.softmax_cross_entropy(y, t)
        return value * (math.nan if bad == "loss" and trainer.steps == 20 else 1), ctx

    trainer = equipped(small(), dtype=dtype, loss=(loss, ops.softmax_cross_entropy.backward))
    images = np.concatenate([IMAGES] * 30)
    if bad == "image":
        images[407] = math.nan
    data = Dataset(images, np.concatenate([LABELS] * 30))
    told = ": 1 of the batch's samples .*" if bad == "image" else ""
    with pytest.raises(DivergenceError, match=rf"became .*{told} at step \d+ \(epoch 1\)") as found:
        trainer.fit(data, batch_size=20, progress=None)
    step = int(str(found.value).split("at step ")[1].split()[0])
    losses = trainer.history.losses
    assert [i + 1 for i, loss in enumerate(losses) if not math.isfinite(loss)] == [step]
    assert all(np.isfinite(array).all() for array in everything(trainer))


@pytest.mark.parametrize("at", [1, 10, 11, 23])
def test_the_step_is_counted_from_1_and_its_learning_rate_told(digits: Dataset, at: int) -> None:
    def loss(y: Any, t: Any) -> Any:
        value, ctx = ops.softmax_cross_entropy(y, t)
        return value * (math.nan if trainer.steps == at - 1 else 1), ctx

    model = models.tiny_convnet()
    optimizer = optim.SGD(model, lr=0.5)
    schedule = optim.StepLR(optimizer, 4, gamma=0.5)
    trainer = Trainer(model, optimizer, loss=(loss, ops.softmax_cross_entropy.backward), schedule=schedule)
    message = rf"became nan at step {at} \(epoch 1\) with learning rate {0.5 * 0.5 ** ((at - 1) // 4):g};"
    with pytest.raises(DivergenceError, match=message):
        trainer.fit(digits, None, 1, 10, progress=None)
    assert len(trainer.history.losses) == trainer.steps == at - 1


def test_a_last_update_after_which_nothing_can_be_computed(tmp_path: Path, digits: Dataset) -> None:
    """Its weights are finite, and so large that every output is NaN."""
    model = models.tiny_convnet(classes=10)
    run, trainer = RunDirectory(tmp_path, {}), Trainer(model, optim.SGD(model, lr=0.01))
    trainer.fit(digits[:40], digits[:40], 1, 40, progress=None, callbacks=[run])
    good = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    trainer.optimizer.lr = 1e30
    with pytest.raises(
        DivergenceError, match=r"loss on the training set became (nan|inf) at step 2 .* 1e\+30"
    ):
        trainer.fit(digits[:40], digits[:40], 1, 40, progress=None, callbacks=[run])
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == good
