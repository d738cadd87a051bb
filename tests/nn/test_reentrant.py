"""Nothing is kept on a layer: it can be used twice, evaluated in between, copied, and run by threads."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.nn import assert_same_bits, build, draw, run_pass
from tests.support.nn_cases import SMALL_NET_SHAPE, small_net
from xpcnn import nn
from xpcnn.testing import gradcheck

KEY = xpcnn.Key(4)


def test_one_layer_twice(make: Any) -> None:
    with make.use():
        layer = nn.Linear(3, 3, dtype="float64", seed=0)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    assert list(model.parameters()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert list(model.state_dict()) == list(model.parameters())
    x = make.array(draw(2, 3))
    gradcheck(model, x)
    y, ctx = model.forward(x)
    grads = nn.Gradients()
    model.backward(ctx, y, grads)
    assert len(grads) == 2
    assert grads["0.weight"] is grads["2.weight"] is grads[layer.weight]


def test_shared_parameter(make: Any) -> None:
    """Tied weights: one parameter in two layers, of which each adds its part of the gradient."""
    with make.use():
        encode, decode = nn.Linear(3, 3, dtype="float64", seed=0), nn.Linear(3, 3, dtype="float64")
    decode.weight = encode.weight
    model = nn.Sequential(encode=encode, tanh=nn.Tanh(), decode=decode)
    x = make.array(draw(2, 3))
    assert gradcheck(model, x).compared == 6 + 9 + 3 + 3
    model.load_state_dict(model.state_dict())
    assert model.decode.weight is model.encode.weight
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.to(dtype="float32")):
        assert other.decode.weight is other.encode.weight
        assert other.decode.weight.data is other.encode.weight.data


def test_evaluating_between_forward_and_backward(make: Any) -> None:
    x, other = make.array(draw(*SMALL_NET_SHAPE)), make.array(draw(3, 1, 4, 4, seed=1))
    model = build(make, small_net)
    expected = run_pass(make, model, x, train=True, key=KEY)
    y, ctx = model.forward(x, train=True, key=KEY)
    model(other)
    model.forward(other, train=True, key=xpcnn.Key(5))
    grads = nn.Gradients()
    dx = model.backward(ctx, make.array(draw(*y.shape, seed=9)), grads)
    np.testing.assert_array_equal(make.to_numpy(dx), expected.dx)
    for path, gradient in expected.gradients.items():
        np.testing.assert_array_equal(make.to_numpy(grads[path]), gradient, err_msg=path)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.slow
def test_eight_threads(make: Any, train: bool) -> None:
    """Forward and backward on one model, each thread with its own store: the bits of one after the other."""
    threads, rounds = 8, 3
    model = build(make, small_net, "float32")
    inputs = [make.array(draw(4, 1, 4, 4, dtype="float32", seed=i)) for i in range(threads)]
    keys = [KEY.fold(i) for i in range(threads)]
    expected = [run_pass(make, model, x, train=train, key=k) for x, k in zip(inputs, keys, strict=True)]
    start = Barrier(threads)

    def work(i: int) -> list[Any]:
        start.wait()
        return [run_pass(make, model, inputs[i], train=train, key=keys[i]) for _ in range(rounds)]

    with ThreadPoolExecutor(threads) as pool:
        for i, passes in enumerate(pool.map(work, range(threads))):
            for got in passes:
                assert_same_bits(got, expected[i])


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_copies(make: Any, copied: Any) -> None:
    model, x = build(make, small_net), make.array(draw(*SMALL_NET_SHAPE))
    model.fc.weight.trainable = False
    run_pass(make, model, x, train=True, key=KEY)
    twin = copied(model)
    assert repr(twin) == repr(model)
    assert_same_bits(run_pass(make, twin, x, key=KEY), run_pass(make, model, x, key=KEY))
    assert not twin.fc.weight.trainable
    before = make.snapshot(list(model.state_dict().values()))
    twin.load_state_dict({path: np.zeros(state.shape) for path, state in twin.state_dict().items()})
    twin.forward(x, train=True)
    np.testing.assert_equal(make.snapshot(list(model.state_dict().values())), before)


def test_setting_does_not_move_a_model(make: Any) -> None:
    """Creation asks the setting, computation the arrays."""
    model, x = build(make, small_net), make.array(draw(*SMALL_NET_SHAPE))
    expected = run_pass(make, model, x, train=True, key=KEY)
    with xpcnn.use_backend("torch" if make.backend == "numpy" and _has_torch() else "numpy"):
        model.load_state_dict(build(make, small_net).state_dict())
        assert_same_bits(run_pass(make, model, x, train=True, key=KEY), expected)
        assert model.backend.name == make.backend


def _has_torch() -> bool:
    return xpcnn.available_backends()["torch"] is None
