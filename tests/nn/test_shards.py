"""Models run shard by shard give what they give on whole batches."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import errors, models, nn, ops
from xpcnn.backend import Key
from xpcnn.nn.value_and_grad import infer, shards_of


def convnet() -> nn.Layer:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, seed=0),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Concat(nn.Conv2d(16, 8, 1, seed=1), nn.Conv2d(16, 8, 3, padding=1, seed=2)),
        nn.Flatten(),
        nn.Linear(16 * 14 * 14, 10, seed=3),
    ).to(dtype="float64")


def normalised(block: nn.Layer) -> nn.Layer:
    return nn.Sequential(nn.Conv2d(1, 4, 3), block, nn.Flatten(), nn.Linear(4 * 26 * 26, 10))


images = np.random.default_rng(0).standard_normal((90, 1, 28, 28))
labels = np.arange(90) % 10


def test_forward_and_gradients_are_those_of_the_whole_batch() -> None:
    model = convnet()
    shards = shards_of(model, images, train=True)
    assert shards is not None
    assert len(shards) > 1
    assert [i for rows in shards for i in range(90)[rows]] == list(range(90))
    seen = []

    def loss(y: Any, t: Any) -> Any:
        seen.append(y)
        return ops.softmax_cross_entropy(y, t)

    _, grads = nn.value_and_grad(model, (loss, ops.softmax_cross_entropy.backward))(images, labels)
    whole, whole_ctx = model.forward(images, train=True)
    np.testing.assert_allclose(seen[0], whole, rtol=0, atol=1e-12)
    np.testing.assert_allclose(infer(model, images), whole, rtol=0, atol=1e-12)
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
    x = images.astype(np.float32)[: 19 if name == "a few images" else 90]
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
        shards = shards_of(model, make.array(images.astype(np.float32)), train=True)
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
    images, contexts, used = np.ones((100, 1, 28, 28), dtype=np.float32), 0, []

    def loss(y: Any, t: Any) -> Any:
        nonlocal contexts
        contexts, _ = tracemalloc.get_traced_memory()
        return ops.mean_squared_error(y, y)

    compute = nn.value_and_grad(model, (loss, ops.mean_squared_error.backward))
    for _ in range(2):
        tracemalloc.start()
        compute(images, images)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        used.append(peak / contexts)
    xpcnn.set_num_threads(None)
    assert used[-1] < 1.4
