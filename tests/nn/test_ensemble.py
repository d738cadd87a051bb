"""Ensembles: their answers beside loops in float64, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.nn import build, draw, mentions
from xpcnn import errors, nn, ops
from xpcnn.testing import gradcheck

KEY = xpcnn.Key(4)
VOTES = ("mean", "geometric")


class Answers(nn.Layer):
    """Gives the logits that it is made with, whatever it is asked."""

    def __init__(self, make: Any, rows: Any, dtype: str = "float64") -> None:
        self.rows = make.array(rows, dtype)

    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> Any:
        return self.rows, None


def member(seed: int = 0) -> nn.Layer:
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        fc1=nn.Linear(4, 5, seed=rng), act=nn.Tanh(), drop=nn.Dropout(0.3), fc2=nn.Linear(5, 3, seed=rng)
    )


def three(vote: str = "mean") -> nn.Ensemble:
    return nn.Ensemble(member(0), member(1), member(2), vote=vote)


def probabilities(rows: Any) -> list[float]:
    """The softmax of one row of logits, in extended precision."""
    powers = np.exp(np.asarray(rows, np.longdouble) - max(rows))
    return [power / powers.sum() for power in powers]


def averages(members: list[np.ndarray]) -> np.ndarray:
    """By loop: the averaged probabilities of logits (members, N, classes)."""
    rows = [[probabilities(row) for row in member] for member in members]
    images, classes = len(rows[0]), len(rows[0][0])
    return np.array(
        [[sum(one[n][k] for one in rows) / len(rows) for k in range(classes)] for n in range(images)],
        np.float64,
    )


# -- the mean -------------------------------------------------------------------------------


def test_probabilities_that_round_to_0_keep_their_logarithms(make: Any) -> None:
    logits = ([[0.0, -2000.0, 1e8], [3e4, 0.0, 0.0]], [[0.0, -3000.0, 1e8], [-3e4, 0.0, 0.0]])
    ensemble = nn.Ensemble(*(Answers(make, rows) for rows in logits))
    # Class 1 of the first image gets exp(-1e8)·(exp(-2000) + exp(-3000)) / 2.
    expected = [[-1e8, -1e8 - 2000 - np.log(2), 0.0], np.log([0.5, 0.25, 0.25])]
    make.check(ensemble(make.array(np.zeros((2, 1)))), expected, "float64", scale=1.0, rtol=1e-7)


def test_half_precision_is_summed_in_float32(make: Any) -> None:
    if make.backend == "array_api_strict":
        pytest.skip("it has no float16")
    logits = [draw(4, 3, seed=seed).astype(np.float16) for seed in range(7)]
    y = nn.Ensemble(*(Answers(make, rows, "float16") for rows in logits))(make.array(np.zeros((4, 1))))
    assert y.dtype == make.dtype("float16")
    np.testing.assert_allclose(make.to_numpy(y), np.log(averages(logits)), rtol=1e-3)


# -- the geometric mean ----------------------------------------------------------------------


def geometric_means(members: list[np.ndarray]) -> np.ndarray:
    """By loop: the roots of the products of the probabilities, made to sum to 1."""
    result = []
    for rows in zip(*members, strict=True):
        product = np.prod([probabilities(row) for row in rows], axis=0) ** (1 / np.longdouble(len(rows)))
        result.append(product / product.sum())
    return np.array(result, np.float64)


@pytest.mark.parametrize("vote", VOTES)
def test_the_softmax_of_y_is_the_mean_of_the_softmaxes(make: Any, dtype: str, vote: str) -> None:
    ensemble = build(make, lambda: three(vote), dtype)
    x = make.array(draw(6, 4, dtype=dtype))
    y = ensemble(x)
    own = [make.to_numpy(one(x)) for one in ensemble.members]
    expected = averages(own) if vote == "mean" else geometric_means(own)
    make.check(y, np.log(expected), dtype, rtol=1e-6 if dtype == "float32" else 1e-14)
    make.check(ops.softmax(y)[0], expected, dtype, rtol=1e-6 if dtype == "float32" else 1e-14)
    np.testing.assert_array_equal(make.to_numpy(ensemble.forward(x)[0]), make.to_numpy(y))


def test_a_sure_no_outweighs_a_sure_yes(make: Any) -> None:
    logits = ([[9.0, 5.0, 0.0]], [[-9.0, 0.0, 0.0]])
    x = make.array(np.zeros((1, 1)))
    answers = {
        vote: make.to_numpy(nn.Ensemble(*(Answers(make, rows) for rows in logits), vote=vote)(x)).argmax()
        for vote in VOTES
    }
    assert answers == {"mean": 0, "geometric": 1}


# -- gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("vote", VOTES)
def test_gradients(make: Any, vote: str) -> None:
    ensemble = build(make, lambda: three(vote))
    x = make.array(draw(5, 4))
    result = gradcheck(ensemble, x, train=True, key=KEY)
    assert result.compared == 5 * 4 + 3 * (4 * 5 + 5 + 5 * 3 + 3)
    gradcheck(ensemble, x, directional=True)


def test_parts_left_out(make: Any) -> None:
    ensemble = build(make, three)
    y, ctx = ensemble.forward(make.array(draw(5, 4)), train=True, key=KEY)
    dy = make.array(draw(5, 3, seed=1))
    whole, alone = nn.Gradients(), nn.Gradients()
    with make.unchanged(y, dy):
        dx = ensemble.backward(ctx, dy, whole)
        assert ensemble.backward(ctx, dy, alone, need_dx=False) is None
    make.check_kind(dx, (5, 4), "float64")
    for path in ensemble.parameters():
        np.testing.assert_array_equal(make.to_numpy(alone[path]), make.to_numpy(whole[path]))
    np.testing.assert_array_equal(make.to_numpy(ensemble.backward(ctx, dy)), make.to_numpy(dx))
    with pytest.raises(errors.ShapeError, match=mentions("Ensemble.backward", "(5, 4)", "(5, 3)")):
        ensemble.backward(ctx, make.array(draw(5, 4)))


def test_each_member_drops_others(make: Any) -> None:
    """The members of a seed are asked with keys of their own."""
    with make.use():
        same = [nn.Sequential(drop=nn.Dropout(0.5)).to(dtype="float64") for _ in range(2)]
    x = make.array(np.ones((50, 4)))
    first, second = (one.forward(x, train=True, key=KEY.fold(str(i)))[0] for i, one in enumerate(same))
    assert (make.to_numpy(first) != make.to_numpy(second)).any()
    y, _ = nn.Ensemble(*same).forward(x, train=True, key=KEY)
    make.check(y, np.log(averages([make.to_numpy(first), make.to_numpy(second)])), "float64")


def test_an_impossible_class_stays_impossible(make: Any, dtype: str) -> None:
    """All members give the first class a logit of -inf, one the last."""
    logits = np.array(
        [[[-np.inf, 1.0, 0.5], [-np.inf, 0.0, 2.0]], [[-np.inf, 0.3, -np.inf], [-np.inf, 1.0, 1.0]]]
    )
    powers = np.exp(logits)
    members = powers / powers.sum(axis=2, keepdims=True)

    class Fixed(nn.Layer):
        def __init__(self, y: Any) -> None:
            self.weight = nn.Parameter(y, dtype)

        def forward(self, x: Any, *, train: bool = False, key: Any = None) -> Any:
            return self.weight.data, None

        def backward(self, ctx: Any, dy: Any, grads: Any = None, *, need_dx: bool = True) -> Any:
            self.accumulate(grads, weight=dy)

    with make.use():
        both = nn.Ensemble(*map(Fixed, logits))
    y, ctx = both.forward(make.array(np.zeros((2, 1)), dtype))
    with np.errstate(divide="ignore"):
        make.check(y, np.log(members.mean(axis=0)), dtype)
    grads, dy = nn.Gradients(), np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    both.backward(ctx, make.array(dy, dtype), grads, need_dx=False)
    for member, p in zip(both.members, members, strict=True):
        part = dy * p / np.where(dy, members.sum(axis=0), 1)  # d log(mean p) / d log p of the wanted class
        make.check(grads[member.weight], part - p * part.sum(axis=1, keepdims=True), dtype)
