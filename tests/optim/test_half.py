"""Parameters of half precision: state and update in float32, parameters rounded once for each step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.optim import CASES, make_parameters, step
from xpcnn import Trainer, data, models, nn, optim

Values = np.ndarray[Any, Any]
HALVES = ("float16", "bfloat16")
MANTISSA = {"float16": 10, "bfloat16": 7}
KINDS = (optim.SGD, optim.AdaGrad, optim.RMSprop, optim.Adam, optim.AdamW)


def rounded(values: Any, dtype: str) -> Values:
    """The nearest numbers of this dtype, ties to even, in float64."""
    if dtype == "float16":
        return np.asarray(values, np.float64).astype(np.float16).astype(np.float64)
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) & np.uint64(0xFFFF0000)
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def walk(kind: type, p: Values, gradients: list[Values], dtype: str, **options: Any) -> Iterator[Values]:
    """The formulas of the docstrings in float64; only what a parameter is after a step is rounded."""
    lr, decay = options["lr"], options.get("weight_decay", 0.01 if kind is optim.AdamW else 0.0)
    momentum, nesterov = options.get("momentum", 0.0), options.get("nesterov", False)
    eps = options.get("eps", 1e-10 if kind is optim.AdaGrad else 1e-8)
    first, second, velocity = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, start=1):
        if kind is optim.AdamW:
            p = p - lr * decay * p
        else:
            g = g + decay * p
        if kind is optim.SGD:
            velocity = momentum * velocity + g
            p = p - lr * (g + momentum * velocity if nesterov else velocity)
        elif kind is optim.AdaGrad:
            second = second + g * g
            p = p - lr * g / (np.sqrt(second) + eps)
        elif kind is optim.RMSprop:
            alpha = options.get("alpha", 0.99)
            second = alpha * second + (1 - alpha) * g * g
            velocity = momentum * velocity + g / (np.sqrt(second) + eps)
            p = p - lr * velocity
        else:
            beta1, beta2 = options.get("betas", (0.9, 0.999))
            first = beta1 * first + (1 - beta1) * g
            second = beta2 * second + (1 - beta2) * g * g
            root = np.sqrt(second / (1 - beta2**t))
            p = p - lr * first / (1 - beta1**t) / (root + eps)
        p = rounded(p, dtype)
        yield p


def drawn(seed: int, dtype: str) -> dict[str, Values]:
    """Gradients of many sizes, the smallest of which have squares below float16's least number."""
    values = {}
    for number, (path, shape) in enumerate(
        {"conv.weight": (2, 3, 2, 2), "conv.bias": (2,), "fc.weight": (4, 5)}.items()
    ):
        rng = np.random.default_rng([seed, number])
        normal = rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 1, shape)
        normal.flat[0] = 0
        values[path] = rounded(normal, dtype)
    return values


def needs(make: Any, dtype: str) -> None:
    if not make.has(dtype):
        pytest.skip(f"no {dtype}")


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_is_the_formula_rounded_once(make: Any, dtype: str, case: Any) -> None:
    needs(make, dtype)
    kind, options = case
    parameters = make_parameters(make, dtype)
    steps = [drawn(seed, dtype) for seed in range(8)]
    start = {path: make.to_numpy(p.data).astype(np.float64) for path, p in parameters.items()}
    expected = {
        path: walk(kind, start[path], [values[path] for values in steps], dtype, **options) for path in start
    }
    optimizer = kind(parameters, **options)
    differing = total = 0
    for values in steps:
        step(make, optimizer, parameters, values)
        for path, parameter in parameters.items():
            right = next(expected[path])
            make.check_kind(parameter.data, right.shape, dtype)
            found = make.to_numpy(parameter.data).astype(np.float64)
            # float32 may land on the other side of the middle of two neighbours, and stays there.
            spacing = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(right), 1e-4))) - MANTISSA[dtype])
            assert (np.abs(found - right) <= spacing).all()
            differing, total = differing + np.count_nonzero(found != right), total + right.size
    assert differing <= total // 50


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_state_is_float32_and_older_half_state_is_loaded(make: Any, dtype: str, case: Any) -> None:
    needs(make, dtype)
    kind, options = case
    parameters = make_parameters(make, dtype)
    optimizer = kind(parameters, **options)
    step(make, optimizer, parameters, drawn(0, dtype))
    saved = optimizer.state_dict()
    for slots in saved["state"].values():
        for array in slots.values():
            assert array.dtype == make.dtype("float32")
    older = {
        path: {slot: make.xp.astype(array, make.dtype(dtype)) for slot, array in slots.items()}
        for path, slots in saved["state"].items()
    }
    resumed = kind(parameters, **options)
    resumed.load_state_dict({**saved, "state": older})
    for path, slots in resumed.state_dict()["state"].items():
        for slot, array in slots.items():
            assert array.dtype == make.dtype("float32")
            np.testing.assert_array_equal(make.to_numpy(array), make.to_numpy(older[path][slot]))
    step(make, resumed, parameters, drawn(1, dtype))
    for parameter in parameters.values():
        make.check_kind(parameter.data, parameter.shape, dtype)
        assert np.isfinite(make.to_numpy(parameter.data)).all()


def test_small_steps_add_up_in_the_velocity(make: Any) -> None:
    """In float16 a velocity stops growing where a gradient is below half of its spacing."""
    needs(make, "float16")
    with make.use():
        parameter = nn.Parameter(make.array([0.0], "float16"))
    optimizer = optim.SGD({"p": parameter}, lr=0.0, momentum=0.999)
    for _ in range(3000):
        step(make, optimizer, {"p": parameter}, {"p": np.array([1.0])})
    expected = (1 - 0.999**3000) / (1 - 0.999)
    make.check(optimizer.state_dict()["state"]["p"]["velocity"], [expected], "float32", rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_halves_trains(make: Any, kind: Any) -> None:
    needs(make, "float16")
    digits = data.synthetic_digits(100, seed=0)
    losses = {}
    for dtype in ("float16", "float32"):
        with make.use():
            model = models.simple_convnet(filters=4, dtype=dtype, seed=0)
        trainer = Trainer(model, kind(model, lr=0.01 if kind is optim.SGD else 1e-3))
        losses[dtype] = [float(trainer.step(digits.images, digits.labels)) for _ in range(5)]
        for parameter in model.parameters().values():
            make.check_kind(parameter.data, parameter.shape, dtype)
    assert losses["float32"][-1] < losses["float32"][0]
    np.testing.assert_allclose(losses["float16"], losses["float32"], rtol=0.01)
