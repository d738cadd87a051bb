"""`nn.value_and_grad`: the loss and its gradients, whatever computes them."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import threadpoolctl

import xpcnn
from tests.support.nn import build, draw, mentions
from xpcnn import Key, Trainer, errors, models, nn, ops, optim
from xpcnn.backend.reference import reference_mode
from xpcnn.nn.value_and_grad import infer, shards_of
from xpcnn.train.amp import LossScale, LowPrecisionModel

labels = np.arange(90) % 4


def small() -> nn.Layer:
    return nn.Sequential(
        conv=nn.Conv2d(1, 3, 3, padding=1),
        act=nn.Tanh(),
        pool=nn.AvgPool2d(2),
        flatten=nn.Flatten(),
        fc=nn.Linear(27, 4),
    )


def wide(drop: float = 0.0) -> nn.Sequential:
    """A model whose batches of 90 are cut on NumPy."""
    return nn.Sequential(
        conv=nn.Conv2d(1, 8, 3, padding=1, seed=0),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        drop=nn.Dropout(drop),
        fc=nn.Linear(8 * 14 * 14, 4, seed=1),
    )


def images(dtype: str = "float32", seed: int = 0) -> np.ndarray[Any, Any]:
    return draw(90, 1, 28, 28, dtype=dtype, seed=seed)


def cross_entropy(scores: np.ndarray[Any, Any], t: np.ndarray[Any, Any]) -> float:
    """The mean of −log of the softmax at the labels, by its formula."""
    scores = scores.astype(np.float64)
    return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(t)), t]))


def weights_of(grads: nn.Gradients, model: nn.Layer) -> dict[str, np.ndarray[Any, Any]]:
    return {path: np.array(xpcnn.to_numpy(grads[path])) for path in model.parameters()}


def assert_same(a: dict[str, Any], b: dict[str, Any], atol: float = 0.0) -> None:
    assert list(a) == list(b)
    for path, gradient in a.items():
        np.testing.assert_allclose(gradient, b[path], rtol=0, atol=atol, err_msg=path)


# -- what it computes --------------------------------------------------------------------


def test_against_finite_differences(make: Any) -> None:
    model = build(make, small)
    x, t = draw(5, 1, 6, 6, seed=3), labels[:5]
    loss, grads = nn.value_and_grad(model, ops.softmax_cross_entropy)(make.array(x), make.array(t))
    make.check(loss, cross_entropy(make.to_numpy(model(make.array(x))), t), "float64")
    step = 1e-6
    for path, parameter in model.parameters().items():
        make.check_kind(grads[path], parameter.shape, "float64")
        found, old = make.to_numpy(grads[path]), np.array(make.to_numpy(parameter.data))
        for at in list(np.ndindex(old.shape))[:: max(1, old.size // 7)]:
            values = []
            for sign in (1, -1):
                moved = old.copy()
                moved[at] += sign * step
                parameter.data = make.array(moved)
                values.append(cross_entropy(make.to_numpy(model(make.array(x))), t))
            parameter.data = make.array(old)
            assert found[at] == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-8), (path, at)


def test_an_op_and_a_pair_are_the_same(make: Any) -> None:
    model = build(make, lambda: nn.Linear(3, 2))
    x, t = make.array(draw(4, 3)), make.array(draw(4, 2, seed=5))
    expected = ((make.to_numpy(model(x)) - make.to_numpy(t)) ** 2).mean()
    pair = ops.mean_squared_error, ops.mean_squared_error.backward
    for loss in (ops.mean_squared_error, pair, list(pair)):
        value, grads = nn.value_and_grad(model, loss)(x, t)
        make.check(value, expected, "float64")
        assert set(dict(grads.items())) == set(model.parameters().values())


# -- random masks ------------------------------------------------------------------------


def test_a_key_decides_on_the_masks() -> None:
    model, x = wide(0.5), images()
    compute = nn.value_and_grad(model, ops.softmax_cross_entropy)
    first = weights_of(compute(x, labels, key=Key(3))[1], model)
    assert_same(first, weights_of(compute(x, labels, key=Key(3))[1], model))
    assert_same(first, weights_of(compute(x, labels, key=3)[1], model))
    for another in (Key(4), None, None):  # without a key, afresh
        other = weights_of(compute(x, labels, key=another)[1], model)
        assert not np.array_equal(first["fc.weight"], other["fc.weight"])
        first = other


@pytest.mark.parametrize("count", [7, 90])
def test_a_loop_of_ones_own_is_the_trainers(count: int) -> None:
    """The same bits, in shards and in a batch that stays whole, with the key of each step."""
    own, trained = wide(0.3), wide(0.3)
    trainer = Trainer(trained, optim.Adam(trained), seed=5)
    compute, optimizer = nn.value_and_grad(own, ops.softmax_cross_entropy), optim.Adam(own)
    for i in range(3):
        x = images(seed=i)[:count]
        loss, grads = compute(x, labels[:count], key=Key(5).fold("step").fold(i))
        optimizer.step(grads)
        np.testing.assert_array_equal(trainer.step(x, labels[:count]), loss)
    for path, array in own.state_dict().items():
        np.testing.assert_array_equal(array, trained.state_dict()[path], err_msg=path)


@pytest.mark.parametrize("count", [7, 90])
def test_a_call_that_fails_puts_batch_statistics_back(make: Any, count: int) -> None:
    with make.use():
        model = nn.Sequential(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2), flatten=nn.Flatten())
    x = make.array(draw(count, 1, 5, 5, dtype="float32"))
    before = make.snapshot([buffer.data for buffer in model.buffers().values()])
    with pytest.raises(errors.ShapeError, match="mean_squared_error"):
        nn.value_and_grad(model, ops.mean_squared_error)(x, make.array(draw(count, 17, dtype="float32")))
    np.testing.assert_equal(make.snapshot([buffer.data for buffer in model.buffers().values()]), before)


# -- the engine behind it ----------------------------------------------------------------


def test_the_reference_answers_without_shards() -> None:
    model, x = wide(), images()
    seen: list[int] = []
    model.drop.forward = lambda x, **options: (seen.append(len(x)), nn.Dropout.forward(model.drop, x))[1]
    with reference_mode():
        infer(model, x)
    assert seen == [90]


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_the_reference_gives_the_same_to_rounding(p: float) -> None:
    """Random masks, too: they are functions of the rows that a shard begins with."""
    model, x = wide(p).to(dtype="float64"), images("float64")
    compute = nn.value_and_grad(model, ops.softmax_cross_entropy)
    loss, grads = compute(x, labels, key=Key(1))
    with reference_mode():
        plain, expected = compute(x, labels, key=Key(1))
    np.testing.assert_allclose(loss, plain, rtol=1e-13)
    assert_same(weights_of(grads, model), weights_of(expected, model), atol=1e-12)


def test_bits_do_not_depend_on_threads() -> None:
    model, x = wide(0.5), images()
    compute, found = nn.value_and_grad(model, ops.softmax_cross_entropy), []
    for threads in (1, 2, 3):
        xpcnn.set_num_threads(threads)
        found.append(weights_of(compute(x, labels, key=Key(0))[1], model))
    xpcnn.set_num_threads(None)
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


def test_blas_has_one_thread() -> None:
    """Or the bits of its products would depend on how many it has."""
    counts: list[int] = []

    def note(y: Any, t: Any) -> Any:
        found = threadpoolctl.threadpool_info()
        counts.extend(library["num_threads"] for library in found if library["user_api"] == "blas")
        return ops.mean_squared_error(y, t)

    with threadpoolctl.threadpool_limits(2, "blas"):
        nn.value_and_grad(nn.Linear(3, 2), (note, ops.mean_squared_error.backward))(
            draw(4, 3, dtype="float32"), draw(4, 2, dtype="float32")
        )
    assert set(counts) == {1}


def test_sizes_are_found_once_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making the function for each step, as the one-line loop does, runs no image more than once."""
    model, traced = wide(), []
    trace = nn.Sequential.trace
    monkeypatch.setattr(nn.Sequential, "trace", lambda self, *args: traced.append(1) or trace(self, *args))
    for _ in range(3):
        nn.value_and_grad(model, ops.softmax_cross_entropy)(images(), labels)
    assert len(traced) == 1
    nn.value_and_grad(wide(), ops.softmax_cross_entropy)(images(), labels)
    assert len(traced) == 2


class Unhashable(nn.Linear):
    """A layer of a user's that compares by value."""

    batch_independent = True
    __hash__ = None  # type: ignore[assignment]


def test_a_layer_that_cannot_be_hashed() -> None:
    model = Unhashable(3, 2)
    x, t = draw(50, 3, dtype="float32"), draw(50, 2, dtype="float32")
    _, grads = nn.value_and_grad(model, ops.mean_squared_error)(x, t)
    assert len(grads) == 2


# -- micro-batches -----------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [(45,), (10, 11, 60)])
def test_micro_batches_add_up_to_the_batch(make: Any, cuts: tuple[int, ...]) -> None:
    model = build(make, small)
    x, t = draw(90, 1, 6, 6), labels
    compute, total, losses = nn.value_and_grad(model, ops.softmax_cross_entropy), nn.Gradients(), 0.0
    for rows in np.split(np.arange(90), cuts):
        loss, grads = compute(make.array(x[rows]), make.array(t[rows]))
        before = make.snapshot([gradient for _, gradient in grads.items()])
        total.merge(grads, weight=len(rows) / 90)
        np.testing.assert_equal(make.snapshot([gradient for _, gradient in grads.items()]), before)
        losses += float(make.to_numpy(loss)) * len(rows) / 90
    whole, expected = compute(make.array(x), make.array(t))
    assert losses == pytest.approx(float(make.to_numpy(whole)), rel=1e-12)
    for path, parameter in model.parameters().items():
        make.check(total[path], make.to_numpy(expected[path]), "float64", rtol=1e-12)
        make.check_kind(total[path], parameter.shape, "float64")


def test_a_weight_of_one_keeps_the_bits_and_the_array() -> None:
    parameter, one, total = nn.Parameter([1.0]), nn.Gradients(), nn.Gradients()
    one.add(parameter, np.array([0.1]))
    total.merge(one)
    assert total[parameter] is one[parameter]


# -- half precision ----------------------------------------------------------------------


def scale_of(scale: float | None) -> LossScale | None:
    if scale is None:
        return None
    found = LossScale()
    found.load_state_dict({"scale": scale, "good_steps": 0})
    return found


@pytest.mark.parametrize("scale", [None, 2.0**4])
def test_half_precision_is_a_layer(scale: float | None) -> None:
    """Float32 goes in and comes out, and the gradients are of the model's own parameters."""
    model = wide()
    low = LowPrecisionModel(model, "float16", scale_of(scale))
    assert list(low.parameters()) == list(model.parameters())
    x = images()
    loss, grads = nn.value_and_grad(low, ops.softmax_cross_entropy)(x, labels)
    exact, expected = nn.value_and_grad(model, ops.softmax_cross_entropy)(x, labels)
    assert loss.dtype == np.float32
    assert loss == pytest.approx(exact, rel=2e-3)
    assert loss != exact
    for path, parameter in model.parameters().items():
        assert grads[path] is grads[parameter]
        assert grads[path].dtype == np.float32
        np.testing.assert_allclose(grads[path], expected[path], rtol=0, atol=5e-3)
    assert (low.finite is None) == (scale is None)
    assert scale is None or bool(low.finite)


@pytest.mark.parametrize("scale", [None, 2.0**4])
def test_dx_of_half_precision(scale: float | None) -> None:
    layer = nn.Linear(3, 2, seed=0)
    low = LowPrecisionModel(layer, "float16", scale_of(scale))
    _, ctx = low.forward(draw(4, 3, dtype="float32"))
    dy = draw(4, 2, dtype="float32")
    dx = low.backward(ctx, dy)
    assert dx.dtype == np.float32
    np.testing.assert_allclose(dx, dy @ layer.weight.data, rtol=0, atol=1e-2)
    assert low.backward(ctx, dy, nn.Gradients(), need_dx=False) is None


# -- refusals ----------------------------------------------------------------------------


def test_refusals() -> None:
    with pytest.raises(errors.ArgumentError, match=mentions("value_and_grad", "model", "Layer", "str")):
        nn.value_and_grad("model", ops.softmax_cross_entropy)  # type: ignore[arg-type]
    for loss in (None, "mse", len, ops.softmax_cross_entropy.backward, (len,), int):
        with pytest.raises(errors.ArgumentError, match=mentions("value_and_grad: loss", "ops.mean_squared")):
            nn.value_and_grad(nn.Linear(3, 2), loss)
    x, t = draw(4, 3, dtype="float32"), draw(4, 2, dtype="float32")
    with pytest.raises(errors.BackendError, match="list"):
        nn.value_and_grad(nn.Linear(3, 2), ops.mean_squared_error)(x.tolist(), t)
    with pytest.raises(errors.ArgumentError, match="integer"):
        nn.value_and_grad(nn.Linear(3, 2), ops.mean_squared_error)(x, t, key="seed")  # type: ignore[arg-type]
    for forward, named in (((lambda y, t: (y, None)), "shape"), ((lambda y, t: y), "pair")):
        with pytest.raises(errors.XpcnnError, match=named):
            nn.value_and_grad(nn.Linear(3, 2), (forward, lambda ctx: ctx))(x, t)


# -- shards ------------------------------------------------------------------------------


def normalised(block: nn.Layer) -> nn.Layer:
    return nn.Sequential(nn.Conv2d(1, 4, 3), block, nn.Flatten(), nn.Linear(4 * 26 * 26, 10))


def test_forward_and_gradients_are_those_of_the_whole_batch() -> None:
    model, pixels = wide().to(dtype="float64"), images("float64")
    shards = shards_of(model, pixels, train=True)
    assert shards is not None
    assert len(shards) > 1
    assert [i for rows in shards for i in range(90)[rows]] == list(range(90))
    seen = []

    def loss(y: Any, t: Any) -> Any:
        seen.append(y)
        return ops.softmax_cross_entropy(y, t)

    _, grads = nn.value_and_grad(model, (loss, ops.softmax_cross_entropy.backward))(pixels, labels)
    whole, whole_ctx = model.forward(pixels, train=True)
    np.testing.assert_allclose(seen[0], whole, rtol=0, atol=1e-12)
    np.testing.assert_allclose(infer(model, pixels), whole, rtol=0, atol=1e-12)
    expected = nn.Gradients()
    _, loss_ctx = ops.softmax_cross_entropy(whole, labels)
    model.backward(whole_ctx, ops.softmax_cross_entropy.backward(loss_ctx), expected, need_dx=False)
    for path, parameter in model.parameters().items():
        np.testing.assert_allclose(grads[path], expected[parameter], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("count", "side", "shards", "largest"),
    [
        (1000, 28, 8, 125),  # enough for eight cores
        (200, 28, 4, 50),
        (100, 28, 2, 50),
        (1000, 100, 64, 16),  # 640 KB an image: as many as four caches hold
        (100, 200, 10, 10),  # of larger images, as few as pay
        (19, 28, None, 19),
    ],
)
def test_shards_of_inference(count: int, side: int, shards: int | None, largest: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1))
    rows = shards_of(model, np.broadcast_to(np.float32(0), (count, 1, side, side)), train=False)
    if shards is None:
        assert rows is None
        return
    assert rows is not None
    assert len(rows) == shards
    assert max(part.stop - part.start for part in rows) == largest


class CentredBlocks(nn.ReLU):
    """Says nothing of its own about samples, and mixes them."""

    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> Any:
        return super().forward(x - x.mean(axis=0))


class Kept(nn.Conv2d):
    """Adds to a layer without changing what it computes."""


WHOLE = {
    "batch-norm": lambda: normalised(nn.BatchNorm2d(4)),
    "a layer of the user's": lambda: normalised(CentredBlocks()),
    "a few images": lambda: normalised(nn.ReLU()),
}


@pytest.mark.parametrize("name", WHOLE)
def test_batches_that_stay_whole(name: str) -> None:
    model = WHOLE[name]()
    x = images()[: 19 if name == "a few images" else 90]
    assert shards_of(model, x, train=True) is None


def test_what_counts_as_per_sample() -> None:
    norm = nn.Sequential(nn.BatchNorm2d(1))
    assert not nn.is_batch_independent(norm, train=True)
    assert nn.is_batch_independent(norm, train=False)
    assert nn.is_batch_independent(Kept(1, 1, 1), train=True)
    assert not nn.is_batch_independent(CentredBlocks(), train=False)
    assert nn.is_batch_independent(nn.Residual(nn.Conv2d(1, 1, 1)), train=True)
    assert not nn.is_batch_independent(nn.Residual(CentredBlocks()), train=True)


def test_masks_differ_from_shard_to_shard() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Dropout(0.5))
    x, kept = np.ones((80, 1, 28, 28), dtype=np.float32), []

    def loss(y: Any, t: Any) -> Any:
        kept.append(y == 0)
        return ops.mean_squared_error(y, y)

    nn.value_and_grad(model, (loss, ops.mean_squared_error.backward))(x, x, key=Key(1))
    shards = shards_of(model, x, train=True)
    assert shards is not None
    first, second = (kept[0][rows] for rows in shards[:2])
    assert not np.array_equal(first, second)


def test_other_backends_are_not_cut(make: Any) -> None:
    with make.use():
        model = nn.Sequential(nn.Conv2d(1, 4, 3, seed=0), nn.ReLU())
        shards = shards_of(model, make.array(images()), train=True)
        assert (shards is not None) == (make.backend == "numpy")


def test_contexts_are_let_go_on_the_way() -> None:
    layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = xpcnn.asarray(np.ones((5, 3)), "float32")
    y, ctx = layers.forward(x, train=True)
    wanted, found = nn.Gradients(), nn.Gradients()
    layers.backward(ctx, y, wanted)
    layers.backward(ctx, y, nn.Gradients())  # a tuple stays as it is
    emptied = list(ctx)
    layers.backward(emptied, y, found)
    assert emptied == []
    for path, value in wanted.items():
        assert np.array_equal(value, found[path])
    with pytest.raises(errors.ArgumentError, match="Sequential: ctx has 0 parts for 3 layers"):
        layers.backward(emptied, y)


def test_a_batch_needs_little_more_than_its_contexts() -> None:
    xpcnn.set_num_threads(2)
    model = models.deep_convnet(dropout=0.0)
    batch, contexts, used = np.ones((100, 1, 28, 28), dtype=np.float32), 0, []

    def loss(y: Any, t: Any) -> Any:
        nonlocal contexts
        contexts, _ = tracemalloc.get_traced_memory()
        return ops.mean_squared_error(y, y)

    compute = nn.value_and_grad(model, (loss, ops.mean_squared_error.backward))
    for _ in range(2):
        tracemalloc.start()
        compute(batch, batch)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        used.append(peak / contexts)
    xpcnn.set_num_threads(None)
    assert used[-1] < 1.4
