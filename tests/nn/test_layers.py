"""Every layer on every backend: against finite differences, against PyTorch, and with parts left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.nn import build, draw, drawn_state, mentions
from tests.support.nn_cases import CASES, Case
from xpcnn import Key, errors, nn
from xpcnn.testing import assert_close, gradcheck

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
KEY = xpcnn.Key(4)


def case_input(make: Any, case: Case, dtype: str = "float64") -> Any:
    return make.array(draw(*case.shape, dtype=dtype, seed=3))


@every_case
def test_gradients(make: Any, case: Case) -> None:
    layer, x = build(make, case.layer), case_input(make, case)
    result = gradcheck(layer, x, train=case.train)
    sizes = [np.prod(p.shape) for p in layer.parameters().values()]
    assert result.compared == np.prod(case.shape) + sum(sizes)
    gradcheck(layer, x, train=case.train, directional=True)


@every_case
def test_parts_left_out(make: Any, dtype: str, case: Case) -> None:
    layer, x = build(make, case.layer, dtype), case_input(make, case, dtype)
    y, ctx = layer.forward(x, train=case.train, key=KEY)
    dy = make.array(draw(*y.shape, dtype=dtype, seed=9))
    whole, alone = nn.Gradients(), nn.Gradients()
    dx = layer.backward(ctx, dy, whole)
    make.check_kind(dx, case.shape, dtype)
    assert layer.backward(ctx, dy, alone, need_dx=False) is None
    assert len(alone) == len(whole) == len(layer.parameters())
    for path, parameter in layer.parameters().items():
        make.check_kind(whole[path], parameter.shape, dtype)
        np.testing.assert_array_equal(make.to_numpy(alone[path]), make.to_numpy(whole[path]), err_msg=path)
        assert whole[parameter] is whole[path]
    np.testing.assert_array_equal(make.to_numpy(layer.backward(ctx, dy)), make.to_numpy(dx))


@every_case
def test_arguments_are_not_written_to(make: Any, case: Case) -> None:
    layer, x = build(make, case.layer), case_input(make, case)
    weights = [p.data for p in layer.parameters().values()]
    with make.unchanged(x, *weights):
        y, ctx = layer.forward(x, train=case.train, key=KEY)
    dy = make.array(draw(*y.shape))
    with make.unchanged(x, y, dy, *weights):
        layer.backward(ctx, dy, nn.Gradients())


TORCH_CASES = {name: case for name, case in CASES.items() if case.torch is not None}


@pytest.mark.parametrize("case", TORCH_CASES.values(), ids=TORCH_CASES.keys())
def test_torch_agrees(make: Any, case: Case) -> None:
    torch = pytest.importorskip("torch")
    assert case.torch is not None
    theirs = case.torch(torch.nn).double().train(case.train)
    ours = build(make, case.layer)
    state = drawn_state(ours)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert list(ours.parameters()) == [path for path, _ in theirs.named_parameters()]
    theirs.load_state_dict({path: torch.tensor(values) for path, values in state.items()})

    x = torch.tensor(draw(*case.shape, seed=3), requires_grad=True)
    expected = theirs(x)
    expected.backward(torch.tensor(draw(*expected.shape, seed=9)))
    y, ctx = ours.forward(case_input(make, case), train=case.train)
    grads = nn.Gradients()
    dx = ours.backward(ctx, make.array(draw(*y.shape, seed=9)), grads)
    make.check(y, expected.detach().numpy(), "float64")
    make.check(dx, x.grad.numpy(), "float64")
    for path, parameter in theirs.named_parameters():
        make.check(grads[path], parameter.grad.numpy(), "float64")
    for path, values in theirs.state_dict().items():  # with the running statistics of this batch
        assert_close(ours.state_dict()[path], values.numpy(), backend=make.backend)


@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_running_statistics_match_torch(make: Any, momentum: float) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm2d(3, momentum=momentum).double()
    with make.use():
        ours = nn.BatchNorm2d(3, momentum=momentum, dtype="float64")
    for seed, batch in enumerate((4, 1, 7)):
        values = 3 + 2 * draw(batch, 3, 4, 5, seed=seed)
        ours.forward(make.array(values), train=True)
        theirs(torch.tensor(values))
        ours(make.array(100 * values))  # evaluating changes none of them
    for path, values in theirs.state_dict().items():
        assert_close(ours.state_dict()[path], values.numpy(), backend=make.backend)
    x = draw(2, 3, 4, 5, seed=9)
    make.check(ours(make.array(x)), theirs.eval()(torch.tensor(x)).detach().numpy(), "float64")


def test_batch_norm_ranks(make: Any) -> None:
    with make.use():
        one, two = nn.BatchNorm1d(2, dtype="float64"), nn.BatchNorm2d(2, dtype="float64")
    with pytest.raises(errors.ShapeError, match=mentions("BatchNorm2d", "4 axes", "(3, 2)")):
        two(make.array(draw(3, 2)))
    with pytest.raises(errors.ShapeError, match=mentions("BatchNorm1d", "2 or 3 axes", "(1, 2, 3, 3)")):
        one(make.array(draw(1, 2, 3, 3)))


def test_dropout(make: Any) -> None:
    layer, x = nn.Dropout(0.25), make.array(np.ones((40, 50)), "float32")
    assert layer(x) is x
    y, ctx = layer.forward(x, train=True, key=KEY)
    values = make.to_numpy(y)
    assert set(np.unique(values)) == {0.0, np.float32(1 / 0.75)}
    assert abs(float((values == 0).mean()) - 0.25) < 0.04
    np.testing.assert_array_equal(make.to_numpy(layer.backward(ctx, x)), values)
    np.testing.assert_array_equal(make.to_numpy(layer.forward(x, train=True, key=KEY)[0]), values)
    for other in (xpcnn.Key(5), None):
        assert (make.to_numpy(layer.forward(x, train=True, key=other)[0]) != values).any()


def test_masks_are_a_function_of_the_path(make: Any) -> None:
    """Every dropout of a model draws a mask of its own; renaming a neighbour changes none."""
    x = make.array(np.ones((40, 50)))

    def run(model: nn.Layer) -> Any:
        return make.to_numpy(model.forward(x, train=True, key=KEY)[0])

    left, right = np.hsplit(run(nn.Concat(nn.Dropout(), nn.Dropout())), 2)
    either_drops = run(nn.Sequential(nn.Dropout(), nn.Dropout())) == 0
    either_keeps = run(nn.Residual(nn.Dropout(), nn.Dropout())) > 0
    for part in (either_drops, either_keeps, left + right > 0):
        assert abs(part.mean() - 0.75) < 0.05  # of one mask twice, 0.5
    model = nn.Sequential(a=nn.Identity(), drop=nn.Dropout())
    renamed = nn.Sequential(b=nn.Identity(), c=nn.Identity(), drop=model.drop)
    np.testing.assert_array_equal(run(renamed), run(model))
    assert (run(nn.Sequential(other=model.drop)) != run(model)).any()
    np.testing.assert_array_equal(run(nn.Residual(model)), run(model) + 1)  # the body is no segment


def test_layer_that_defines_nothing() -> None:
    class Empty(nn.Layer):
        pass

    with pytest.raises(TypeError, match="Empty does not define forward"):
        Empty()(draw(1))
    with pytest.raises(TypeError, match="Empty does not define backward"):
        Empty().backward(None, draw(1))


# -- half precision ----------------------------------------------------------------------------


UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The relative error of rounding once."""
ROUNDINGS = 16
"""That a value may have gone through, in the few layers of a case, at the scale of the largest."""


def layer_on(make: Any, case: Case, dtype: str) -> nn.Layer:
    with make.use():
        layer = case.layer().to(dtype=dtype)
    layer.load_state_dict(drawn_state(layer))
    return layer


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_half_precision(make: Any, case: Case, dtype: str) -> None:
    if not make.has(dtype):
        pytest.skip(f"{make.backend} has no {dtype}")
    half = layer_on(make, case, dtype)
    x = make.array(draw(*case.shape), dtype)
    y, ctx = half.forward(x, train=case.train, key=Key(0))
    dy = make.array(draw(*y.shape, seed=9), dtype)
    grads = nn.Gradients()
    dx = half.backward(ctx, dy, grads)
    parameters = half.parameters()
    got = {"y": y, "dx": dx, **{path: grads[parameter] for path, parameter in parameters.items()}}
    for name, array in got.items():
        make.check_kind(array, array.shape, dtype)
        assert np.isfinite(make.to_numpy(array)).all(), name
    if any(isinstance(layer, nn.Dropout) for layer in every_layer_in(half)) and case.train:
        return  # its mask is each backend's own
    exact = case.layer().to(dtype="float64")
    exact.load_state_dict({path: make.to_numpy(array) for path, array in half.state_dict().items()})
    wide = [np.asarray(make.to_numpy(array), np.float64) for array in (x, dy)]
    grads = nn.Gradients()
    exact_y, ctx = exact.forward(wide[0], train=case.train)
    exact_dx = exact.backward(ctx, wide[1], grads)
    wanted = {"y": exact_y, "dx": exact_dx}
    wanted |= {path: grads[parameter] for path, parameter in exact.parameters().items()}
    for name, array in got.items():
        make.check(array, wanted[name], dtype, rtol=ROUNDINGS * UNIT[dtype])


def every_layer_in(layer: nn.Layer) -> list[nn.Layer]:
    return [layer, *(inner for child in layer.children().values() for inner in every_layer_in(child))]


# -- LeNet-5's subsampling ---------------------------------------------------------------------


def test_half_precision_sums_wide(make: Any) -> None:
    """The gradients of the parameters are the exact sums, rounded once."""
    if not make.has("float16"):
        pytest.skip(f"{make.backend} has no float16")
    with make.use():
        layer = nn.ScaledAvgPool2d(2, 1, dtype="float16")
    rng = np.random.default_rng(0)
    x, dy = ((0.5 + rng.random((300, 2, 2, 2))).astype("float16") for _ in range(2))
    y, ctx = layer.forward(make.array(x))
    grads = nn.Gradients()
    dx = layer.backward(ctx, make.array(dy), grads)
    make.check_kind(y, x.shape, "float16")
    make.check_kind(dx, x.shape, "float16")
    wide, dy = x.astype("float64"), dy.astype("float64")
    for path, exact in (("weight", (wide * dy).sum(axis=(0, 2, 3))), ("bias", dy.sum(axis=(0, 2, 3)))):
        make.check_kind(grads[path], (2,), "float16")
        np.testing.assert_allclose(make.to_numpy(grads[path]), exact, rtol=1.02 * 2.0**-11)


def test_errors(make: Any) -> None:
    layer = build(make, lambda: nn.ScaledAvgPool2d(3, 2))
    with pytest.raises(errors.ShapeError, match=mentions("ScaledAvgPool2d", "C=2", "(1, 2, 4, 4)", "3")):
        layer(make.array(draw(1, 2, 4, 4)))
    with pytest.raises(errors.DtypeError, match=mentions("ScaledAvgPool2d", "float32", "float64")):
        layer(make.array(draw(1, 3, 4, 4), "float32"))
    with pytest.raises(errors.ShapeError, match=mentions("kernel", "2x2", "1x4")):
        layer(make.array(draw(1, 3, 1, 4)))
    _, ctx = layer.forward(make.array(draw(1, 3, 4, 4)))
    with pytest.raises(errors.ShapeError, match=mentions("ScaledAvgPool2d", "(1, 3, 1, 1)", "(1, 3, 2, 2)")):
        layer.backward(ctx, make.array(draw(1, 3, 1, 1)), nn.Gradients())
