"""Training in half precision: float32 weights, half-precision arithmetic, and float16's loss scale."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.model_cases import narrow
from tests.support.optim import CASES, ONE_OF_EACH
from tests.support.train import PassOn, small_model
from xpcnn import Key, Trainer, io, models, nn, ops, optim
from xpcnn.cli import main
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, BackendError, CheckpointError, DivergenceError, DtypeError
from xpcnn.train import amp, evaluate, restore_checkpoint, save_checkpoint

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Relative error of rounding once."""


@pytest.fixture
def f16(make: Any) -> Any:
    """A backend that has float16, chosen for new arrays."""
    if make.name == "array_api_strict" or make.readonly:
        pytest.skip("no float16, or the same as numpy")
    with make.use():
        yield make


@pytest.fixture(params=["torch", "cupy"])
def both_halves(request: Any) -> Iterator[None]:
    """A backend that has bfloat16 too, chosen for new arrays."""
    if reason := xpcnn.available_backends()[request.param]:
        pytest.skip(reason)
    with xpcnn.use_backend(request.param):
        yield


def scale_of(trainer: Trainer) -> tuple[float, int]:
    state = trainer.loss_scale.state_dict()
    return state["scale"], state["good_steps"]


def set_scale(trainer: Trainer, scale: float, good_steps: int = 0) -> None:
    trainer.loss_scale.load_state_dict({"scale": scale, "good_steps": good_steps})


def bits(thing: Any) -> Any:
    """Every array in a trainer's model, optimiser and average, or in a dict, as bytes."""
    if isinstance(thing, Trainer):
        average = thing.average.state_dict()["averages"] if thing.average else {}
        return list(map(bits, [thing.model.state_dict(), thing.optimizer.state_dict()["state"], average]))
    if isinstance(thing, dict):
        return {name: bits(value) for name, value in thing.items()}
    return xpcnn.to_numpy(thing).tobytes()


class Line:
    """y = weight · x, with a loss that is y and a gradient of `slope` for it: the weight's is slope · x."""

    def __init__(self, slope: float = 1.0, dtype: str = "float16", **options: Any) -> None:
        linear = nn.Linear(1, 1, bias=False, weight_init=0.0)
        model = nn.Sequential(flatten=nn.Flatten(), linear=linear)
        ones = xpcnn.asarray([[1.0]], dtype="float32")
        loss = (lambda y, t: (y[0, 0], None)), (lambda ctx: ones * slope)
        self.trainer = Trainer(model, optim.SGD(model, lr=1.0), loss=loss, dtype=dtype, **options)
        self.weight = linear.weight

    def step(self) -> float:
        """Take a step and return how far the weight moved, as a multiple of the learning rate."""
        before = float(self.weight.data[0, 0])
        self.trainer.step(np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.int64))
        return before - float(self.weight.data[0, 0])


@pytest.mark.parametrize("exponent", [-3, -26, -38])
def test_gradients_that_would_vanish(f16: Any, exponent: int) -> None:
    """2⁻²⁶ is 0 in float16; 2⁻³⁸ · 2¹⁶ is still there, as the last but one of its powers of two."""
    assert Line(2.0**exponent).step() == 2.0**exponent


def test_bfloat16_needs_no_scale(both_halves: None) -> None:
    for slope in (2.0**-100, 1.0, 2.0**100):
        one = Line(slope, "bfloat16")
        assert one.trainer.loss_scale is None
        assert one.step() == slope
    assert Line(1 + 2.0**-10, "bfloat16").step() == 1  # which is rounded to 8 bits


def test_clipping_sees_unscaled_gradients_and_schedules_count_each_step(f16: Any) -> None:
    assert Line(0.25, clip_norm=0.125).step() == pytest.approx(0.125, rel=1e-4)
    assert Line(0.25, clip_norm=0.5).step() == 0.25
    model = Line()
    model.trainer.schedule = optim.StepLR(model.trainer.optimizer, 1, gamma=0.5)
    assert [model.step() for _ in range(3)] == [0, 0.5, 0.25]  # the first step overflows


@pytest.mark.parametrize(("start", "end"), [(2.0**-13, 2.0**-14), (2.0**63, 2.0**64)])
def test_the_scale_has_limits(make: Any, start: float, end: float, monkeypatch: Any) -> None:
    monkeypatch.setattr(amp, "GROWTH_INTERVAL", 1)
    with make.use():
        scale = amp.LossScale()
        finite = xpcnn.asarray(start > 1)
        scale.load_state_dict({"scale": start, "good_steps": 0})
    for _ in range(3):
        scale.update(finite)
    assert scale.state_dict() == {"scale": end, "good_steps": 0}
    make.check_kind(scale.scale, (), "float32")


def test_the_scale_against_pytorch(make: Any, monkeypatch: Any) -> None:
    """What its GradScaler does to the same row of flags."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(amp, "GROWTH_INTERVAL", 4)
    with make.use():
        ours = amp.LossScale()
    scale, growth = torch.tensor(2.0**16), torch.tensor(0, dtype=torch.int32)
    for finite in np.random.default_rng(0).random(60) < 0.8:
        ours.update(make.array(bool(finite)))
        torch._amp_update_scale_(scale, growth, torch.tensor(float(not finite)), 2.0, 0.5, 4)
        assert ours.state_dict() == {"scale": float(scale), "good_steps": int(growth)}


@pytest.mark.parametrize(("case", "done"), [("SGD", 2), *((case, 2) for case in ONE_OF_EACH), ("Adam", 0)])
def test_a_step_that_overflows_changes_no_bit(
    f16: Any, new_model: Any, digits: Dataset, case: str, done: int
) -> None:
    model = new_model()
    kind, options = CASES[case]
    average = optim.WeightAverage(model, 0.9)
    trainer = Trainer(model, kind(model, **options), average=average, clip_norm=1.0, dtype="float16")
    for number in range(done):
        trainer.step(*digits[8 * number : 8 * number + 8])
    before = bits(trainer)
    set_scale(trainer, 2.0**40)
    assert math.isfinite(float(trainer.step(*digits[20:28])))
    after = bits(trainer)
    assert scale_of(trainer) == (2.0**39, 0)
    for path, slots in after[1].items():  # a first update makes the arrays; they are 0 then
        assert slots == {slot: before[1][path].get(slot, bytes(len(raw))) for slot, raw in slots.items()}
    assert (after[0], after[2]) == (before[0], before[2])
    set_scale(trainer, 2.0**10)
    trainer.step(*digits[20:28])
    applied = bits(trainer)
    assert applied[0] != after[0]
    assert applied[2] != after[2]
    assert applied[1] != after[1] or case == "SGD"


def test_a_loss_that_is_no_number_is_taken_back(f16: Any, new_model: Any, digits: Dataset) -> None:
    """Batch statistics of an infinite image are no numbers, and must not enter the running ones."""
    trainer = Trainer(model := new_model(), optim.SGD(model), dtype="float16")
    before = bits(trainer)
    images = digits.images[:8].astype(np.float32)
    images[3] = 1e30  # infinite in float16
    assert not math.isfinite(float(trainer.step(images, digits.labels[:8])))
    assert bits(trainer) == before
    assert scale_of(trainer) == (2.0**15, 0)
    one = Line(2.0**-4)  # an infinite loss, whose gradient is a number
    forward, backward = one.trainer.loss
    one.trainer.loss = (lambda y, t: (forward(y, t)[0] * 0 + math.inf, None)), backward
    assert one.step() == 0
    one.trainer.loss = forward, backward
    assert one.step() == 2.0**-4


class Probe(PassOn):
    """Notes the dtypes that pass."""

    def __init__(self) -> None:
        super().__init__(lambda array, train: self.seen.append(str(array.dtype).rpartition(".")[2]))
        self.seen: list[str] = []


@pytest.mark.parametrize("dtype", UNIT)
def test_what_is_computed_in_half_precision(
    both_halves: None, new_model: Any, digits: Dataset, dtype: str
) -> None:
    model, losses = new_model(), Probe()
    for name in ("conv1", "bn1", "fc"):
        model[name] = nn.Sequential(layer=model[name], probe=Probe())

    def loss(y: Any, t: Any) -> Any:
        return ops.softmax_cross_entropy(losses.forward(y)[0], t)

    trainer = Trainer(model, optim.Adam(model), loss=(loss, ops.softmax_cross_entropy.backward), dtype=dtype)
    before = bits({path: parameter.data for path, parameter in model.parameters().items()})
    losses.forward(trainer.step(*digits[:8]))
    for name in ("conv1", "bn1", "fc"):
        assert model[name].probe.seen == [dtype, dtype]
    assert losses.seen == ["float32", "float32"]
    for path, parameter in model.parameters().items():
        assert str(parameter.dtype).endswith("float32")
        assert bits(parameter.data) != before[path]
    # Statistics of activations in half precision, themselves in float32.
    variance = model.buffers()["bn1.layer.running_var"].data
    xp = xpcnn.backend_of(variance).xp
    assert bool((variance != xp.astype(xp.astype(variance, getattr(xp, dtype)), variance.dtype)).any())
    assert int(model.buffers()["bn1.layer.num_batches_tracked"].data) == 1
    assert trainer.evaluate(digits) == evaluate(model, digits)  # in float32


@pytest.mark.parametrize("dtype", UNIT)
def test_against_pytorch(digits: Dataset, dtype: str) -> None:
    """The same written with autograd: rounded copies of float32 weights, and a scaled loss."""
    torch = pytest.importorskip("torch")
    half, functional = getattr(torch, dtype), torch.nn.functional
    with xpcnn.use_backend("torch"):
        model = nn.Sequential(
            conv=nn.Conv2d(1, 6, 5, stride=2, seed=0),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc=nn.Linear(216, 10, seed=1),
        )
        trainer = Trainer(model, optim.SGD(model, lr=0.05, momentum=0.9), dtype=dtype)
    masters = {path: p.data.clone() for path, p in model.parameters().items()}
    velocities = {path: torch.zeros_like(w) for path, w in masters.items()}
    scale = 2.0**10 if dtype == "float16" else 1.0
    if dtype == "float16":
        set_scale(trainer, scale)
    for number in range(4):
        images, labels = digits[16 * number : 16 * number + 16]
        loss = trainer.step(images, labels)
        w = {path: master.to(half).requires_grad_() for path, master in masters.items()}
        x = torch.from_numpy(images / np.float32(255)).to(half)
        y = functional.relu(functional.conv2d(x, w["conv.weight"], w["conv.bias"], stride=2))
        y = functional.linear(functional.max_pool2d(y, 2).flatten(1), w["fc.weight"], w["fc.bias"])
        expected = functional.cross_entropy(y.float(), torch.from_numpy(labels.astype(np.int64)))
        (expected * scale).backward()
        for path, master in masters.items():
            velocities[path] = 0.9 * velocities[path] + w[path].grad.float() / scale
            masters[path] = master - 0.05 * velocities[path]
        assert float(loss) == pytest.approx(float(expected.detach()), rel=4 * UNIT[dtype])
    for path, master in masters.items():
        error = float((model.parameters()[path].data - master).abs().max())
        size = float(velocities[path].abs().max())
        assert error < min(8 * UNIT[dtype] * 0.05 * 4 * size, 0.1), path


def googlenet() -> nn.Layer:
    with narrow(8):
        return models.googlenet(10, in_channels=1, small_images=True, aux=True, dropout=0.0)


def of_bytes() -> nn.Layer:
    inner = nn.Sequential(nn.Preprocess(0.5, 0.5), nn.ReLU())
    both = nn.Residual(inner, nn.Sequential(nn.Preprocess()))
    return nn.Sequential(both, nn.Flatten(), nn.Linear(784, 10, seed=0))


@pytest.mark.parametrize(
    ("build", "loss", "rel", "lr"),
    [
        (lambda: nn.Ensemble(small_model(0), small_model(1)), ops.softmax_cross_entropy, 1e-2, 0.01),
        (of_bytes, ops.softmax_cross_entropy, 1e-2, 0.01),
        # Larger steps make more of roundings: at 0.01, the third loss depends on the convolution's algorithm.
        pytest.param(googlenet, models.googlenet_loss, 5e-2, 0.001, marks=pytest.mark.slow),
    ],
    ids=["an ensemble", "bytes that an inner container prepares", "several outputs"],
)
def test_losses_are_about_those_of_float32(
    f16: Any, digits: Dataset, build: Any, loss: Any, rel: float, lr: float
) -> None:
    """Containers without parameters are shared with the copy; what they return is rounded all the same."""
    losses = []
    for dtype in (None, "float16"):
        trainer = Trainer(model := build(), optim.SGD(model, lr=lr), loss=loss, dtype=dtype)
        if dtype is not None:
            set_scale(trainer, 2.0**8)
        losses.append([float(trainer.step(*digits[:4])) for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=rel)
    assert losses[1][-1] != losses[1][0]


def test_a_layer_that_is_used_twice(f16: Any) -> None:
    shared = nn.Linear(2, 2, bias=False, weight_init=0.0)
    model = nn.Sequential(one=shared, two=nn.Identity(), three=shared)
    shared.weight.data = xpcnn.asarray([[1.0, 0.0], [0.0, 1.0]], dtype="float32")
    loss = (lambda y, t: (ops.mean_squared_error(y, y * 0)[0], y)), (lambda y: y * 0 + 1)
    trainer = Trainer(model, optim.SGD(model, lr=1.0), loss=loss, dtype="float16")
    set_scale(trainer, 2.0**8)
    trainer.step(np.array([[1.0, 2.0]], np.float32), np.zeros(1, np.int64))
    # dy xᵀ of either use: [1, 1]ᵀ [1, 2], twice.
    np.testing.assert_array_equal(xpcnn.to_numpy(shared.weight.data), [[-1.0, -4.0], [-2.0, -3.0]])


def test_frozen_parameters_and_layers_replaced_later(f16: Any, new_model: Any, digits: Dataset) -> None:
    model = new_model()
    trainer = Trainer(model, optim.Adam(model), dtype="float16")
    set_scale(trainer, 2.0**8)
    trainer.step(*digits[:8])
    model.freeze("conv1.*")
    inputs = xpcnn.asarray(digits.images[:8] / 255, "float32"), xpcnn.asarray(digits.labels[:8], "int64")
    compute = nn.value_and_grad(trainer._low, trainer.loss)
    _, grads = compute(*inputs, key=Key(0))
    free = {"bn1.weight", "bn1.bias", "fc.weight", "fc.bias"}
    assert {path for path in model.parameters() if path in grads} == free
    before = bits(model.state_dict())
    trainer.step(*digits[:8])
    after = bits(model.state_dict())
    moved = {path for path in after if after[path] != before[path]}
    assert moved == free | {"bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"}
    model.unfreeze()
    trainer.step(*digits[:8])
    assert bits(model.state_dict())["conv1.weight"] != after["conv1.weight"]
    model["relu1"] = Probe()
    trainer.step(*digits[:8])
    assert model.relu1.seen == ["float16", "float16"]
    model["drop"].p = 1.0  # an attribute that changes later: no gradient passes
    _, grads = compute(*inputs, key=Key(0))
    assert not xpcnn.to_numpy(grads["conv1.weight"]).any()


def test_a_model_that_moves(digits: Dataset, new_model: Any, both_halves: None) -> None:
    with xpcnn.use_backend("numpy"):
        trainer = Trainer(model := new_model(), optim.Adam(model), dtype="float16")
        trainer.step(*digits[:8])
    model.to(backend=xpcnn.get_backend().name)
    trainer.step(*digits[:8])
    assert model.backend is xpcnn.backend_of(trainer.loss_scale.scale) is xpcnn.get_backend()
    assert scale_of(trainer) == (2.0**16, 2)


def test_refusals(new_model: Any) -> None:
    model = new_model()
    optimizer = optim.SGD(model)
    with pytest.raises(ArgumentError, match=r"dtype must be 'float16', 'bfloat16' or None, got 'float32'"):
        Trainer(model, optimizer, dtype="float32")
    with pytest.raises(BackendError, match=r"dtype='bfloat16': backend numpy has no dtype 'bfloat16'; use"):
        Trainer(model, optimizer, dtype="bfloat16")
    model.to(dtype="float64")
    message = r"dtype='float16' trains float32 parameters, but conv1.weight is float64; call model.to\(dtype"
    with pytest.raises(DtypeError, match=message):
        Trainer(model, optimizer, dtype="float16")


def test_a_batch_that_overflows_is_passed_over(f16: Any, new_model: Any, digits: Dataset) -> None:
    images = digits.images.astype(np.float32) / 255
    images[[7, 100]] = 1e30  # infinite in float16
    trainer = Trainer(model := new_model(), optim.Adam(model), dtype="float16")
    set_scale(trainer, 2.0**12)
    history = trainer.fit((images, digits.labels), None, 1, 10, evaluate_samples=1, progress=None)
    finite = [loss for loss in history.losses if math.isfinite(loss)]
    assert (len(history.losses), len(finite)) == (23, 21)
    assert history.epochs[0].loss == pytest.approx(sum(finite) / 21)
    assert scale_of(trainer)[0] == 2.0**10
    json.dumps(history.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (5, r"losses or gradients overflow float16 even with .* at step (30|40) \(epoch 1\) .* 0\.5; lower"),
        (50, r"no loss of this epoch was finite at step 5 \(epoch 1\) with learning rate 0\.5; lower"),
    ],
    ids=["many in a row", "a whole short epoch"],
)
def test_losses_that_stay_infinite_are_a_divergence(
    f16: Any, new_model: Any, digits: Dataset, batch: int, message: str
) -> None:
    trainer = Trainer(model := new_model(), optim.SGD(model, lr=0.5), dtype="float16")
    model.conv1.bias.data = model.conv1.bias.data + 1e30
    with pytest.raises(DivergenceError, match=message):
        trainer.fit(digits, None, 2, batch, progress=None)
    assert len(trainer.history.losses) == trainer.steps


def test_gradients_beyond_float16_are_a_divergence(f16: Any) -> None:
    """The loss itself is fine; 10³⁰ is too much at any scale."""
    one = Line(1e30)
    data = np.ones((50, 1, 1, 1), np.float32), np.zeros(50, np.int64)
    message = r"gradients overflow float16 even with the loss times 6\.1\d*e-05 at step (30|40) \(epoch 1\)"
    with pytest.raises(DivergenceError, match=message):
        one.trainer.fit(data, None, 1, 1, progress=None)
    assert float(one.weight.data[0, 0]) == 0


@pytest.mark.parametrize(
    ("saved", "own", "precision", "message"),
    [
        (None, "float16", None, "trained with dtype=None, but this trainer has dtype='float16'"),
        ("float16", None, None, "trained with dtype='float16', but this trainer has dtype=None"),
        ("float16", "float16", "{}", "damaged checkpoint"),
        ("float16", "float16", '{"dtype": "float16"}', "damaged checkpoint"),
        ("float16", "float16", '{"dtype": "float16", "scale": 2.0, "good_steps": -1}', "damaged checkpoint"),
        ("float16", "float16", '{"dtype": "float16", "scale": 1e-9, "good_steps": 1}', "damaged checkpoint"),
    ],
)
def test_a_checkpoint_of_another_dtype_or_scale(
    new_model: Any, same_bits: Any, tmp_path: Path, saved: Any, own: Any, precision: Any, message: str
) -> None:
    def new(dtype: str | None) -> Trainer:
        return Trainer(model := new_model(), optim.Adam(model), dtype=dtype)

    save_checkpoint(tmp_path / "c.npz", new(saved))
    if precision is not None:
        arrays, metadata = io.load_arrays(tmp_path / "c.npz")
        io.save_arrays(tmp_path / "c.npz", arrays, {**metadata, "precision": precision})
    trainer = new(own)
    with pytest.raises(CheckpointError, match=message):
        restore_checkpoint(tmp_path / "c.npz", trainer)
    assert same_bits(trainer, new(own))


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: Any) -> None:
    run = str(tmp_path / "run")
    few = ("--train-samples", "60", "--test-samples", "20", "--batch-size", "20", "--model", "tiny_convnet")
    try:
        assert (
            main(["train", *few, "--epochs", "1", "--dtype", "float16", "--backend", "numpy", "--out", run])
            == 0
        )
        assert "numpy (cpu), float16" in capsys.readouterr().out
        assert main(["train", "--resume", run, "--epochs", "2"]) == 0
    finally:
        xpcnn.set_backend("numpy")
    metadata = io.load_arrays(tmp_path / "run" / "checkpoint.safetensors")[1]
    assert json.loads(metadata["precision"]) == {"dtype": "float16", "scale": 2.0**16, "good_steps": 6}
