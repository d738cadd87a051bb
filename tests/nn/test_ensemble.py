"""Ensembles: their answers beside loops in float64, as models, and members that do not fit."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.nn import build, draw, mentions
from xpcnn import Trainer, data, errors, load_model, models, nn, ops, optim
from xpcnn.train import evaluate, predict

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


# -- as a model -----------------------------------------------------------------------------


def tiny(seed: int, **options: Any) -> nn.Layer:
    return models.tiny_convnet(filters=2, seed=seed, **options)


def test_paths_state_and_moves(make: Any) -> None:
    ensemble = nn.Ensemble(tiny(0), tiny(1)).to(backend=make.backend, dtype="float64")
    assert list(ensemble.state_dict()) == [
        f"{i}.{path}" for i in range(2) for path in ("conv1.weight", "fc.weight", "fc.bias")
    ]
    assert ensemble.backend.name == make.backend
    make.check_kind(ensemble["1"].fc.bias.data, (10,), "float64")
    other = nn.Ensemble(tiny(8), tiny(9))
    other.load_state_dict(ensemble.state_dict())
    for path, values in other.state_dict().items():
        np.testing.assert_allclose(values, make.to_numpy(ensemble.state_dict()[path]), rtol=1e-6)
    with pytest.raises(errors.StateDictError, match=r"missing: 2\.conv1\.weight"):
        nn.Ensemble(tiny(0), tiny(1), tiny(2)).load_state_dict(ensemble.state_dict())


@pytest.mark.parametrize("vote", VOTES)
def test_evaluate_predict_and_the_trainer(make: Any, vote: str) -> None:
    digits = data.synthetic_digits(30)
    ensemble = nn.Ensemble(tiny(0), tiny(1), tiny(2), vote=vote).to(backend=make.backend)
    own = [predict(one, digits.images) for one in ensemble.members]
    answer = predict(ensemble, digits.images, batch_size=7)
    if vote == "mean":
        np.testing.assert_allclose(answer, np.mean(own, axis=0), rtol=1e-5)
    else:
        means = np.prod(own, axis=0, dtype="float64") ** (1 / 3)
        np.testing.assert_allclose(answer, means / means.sum(axis=1, keepdims=True), rtol=1e-4)
    result = evaluate(ensemble, digits)
    assert result.correct == int((answer.argmax(axis=1) == digits.labels).sum())
    assert result.loss == pytest.approx(-np.log(answer[range(30), digits.labels]).mean(), rel=1e-4)
    assert Trainer(ensemble, optim.SGD(ensemble, lr=0.1)).evaluate(digits) == result


def test_members_are_tuned_together() -> None:
    digits = data.synthetic_digits(100)
    ensemble = nn.Ensemble(tiny(0), tiny(1))
    trainer = Trainer(ensemble, optim.Adam(ensemble, lr=0.02))
    before = [copy.deepcopy(one.fc.weight.data) for one in ensemble.members]
    trainer.fit(digits, epochs=8, batch_size=20, progress=None)
    assert np.mean(trainer.history.losses[-5:]) < 0.6 * trainer.history.losses[0]
    assert all((one.fc.weight.data != old).any() for one, old in zip(ensemble.members, before, strict=True))


def test_summary_and_copies() -> None:
    ensemble = nn.Ensemble(tiny(0), tiny(1), vote="geometric")
    one, both = (xpcnn.summary(model, (1, 28, 28)) for model in (tiny(0), ensemble))
    assert [row.path for row in both.rows] == [f"{i}.{row.path}" for i in range(2) for row in one.rows]
    assert (both.parameters, both.macs) == (2 * one.parameters, 2 * one.macs)
    inside = xpcnn.summary(nn.Sequential(all=nn.Ensemble(tiny(0)), out=nn.Softmax()), (1, 28, 28))
    assert [row.path for row in inside.rows] == [f"all.0.{row.path}" for row in one.rows] + ["out"]
    x = draw(2, 1, 28, 28, dtype="float32")
    for again in (copy.deepcopy(ensemble), pickle.loads(pickle.dumps(ensemble))):
        assert again.vote == "geometric"
        np.testing.assert_array_equal(again(x), ensemble(x))
    assert repr(ensemble).startswith("Ensemble(\n  (0): Sequential(\n")


# -- files ----------------------------------------------------------------------------------


def seen(member: Any, shape: Any = (1, 28, 28), preparation: str | None = None) -> Any:
    """A model that was trained on such images."""
    member.spec = member.spec._replace(input_shape=shape, preparation=preparation)
    return member


@pytest.mark.parametrize("ending", ["safetensors", "npz"])
@pytest.mark.parametrize("vote", VOTES)
def test_a_file_tells_the_whole_ensemble(tmp_path: Path, vote: str, ending: str) -> None:
    first = seen(models.simple_convnet((1, 28, 28), 3, hidden=5))
    inner = nn.Ensemble(models.simple_convnet(filters=2, seed=3), models.deep_convnet(hidden=4, seed=4))
    ensemble = nn.Ensemble(first, inner, vote=vote)
    ensemble.save(tmp_path / f"both.{ending}")
    again = load_model(tmp_path / f"both.{ending}")
    assert isinstance(again, nn.Ensemble)
    assert (again.vote, again.members[1].vote) == (vote, "mean")  # type: ignore[attr-defined]
    assert again.members[0].spec is not None
    assert again.members[0].spec.input_shape == (1, 28, 28)
    assert repr(again) == repr(ensemble)
    x = draw(3, 1, 28, 28, dtype="float32")
    np.testing.assert_array_equal(again(x), ensemble(x))
    again.save(tmp_path / f"again.{ending}")
    assert (tmp_path / f"again.{ending}").read_bytes() == (tmp_path / f"both.{ending}").read_bytes()


def test_a_member_of_another_name_is_read_back(tmp_path: Path) -> None:
    ensemble = three("geometric")
    ensemble["best"] = member(4)
    ensemble.save(tmp_path / "m.npz")
    again = load_model(tmp_path / "m.npz")
    assert list(again.children()) == ["0", "1", "2", "best"]
    x = draw(2, 4).astype(np.float32)
    np.testing.assert_array_equal(again(x), ensemble(x))


def test_which_images_it_takes(tmp_path: Path) -> None:
    """What each member takes is kept, and what a trainer notes of all."""
    ensemble = nn.Ensemble(seen(tiny(2), preparation="crop"), seen(tiny(1), preparation="pad"))
    ensemble.save(tmp_path / "w.npz")
    again: Any = load_model(tmp_path / "w.npz")
    assert [member.spec.preparation for member in again.members] == ["crop", "pad"]
    ensemble.spec = nn.ModelSpec(input_shape=(1, 28, 28), preparation="squash")
    ensemble.save(tmp_path / "w.npz")
    assert load_model(tmp_path / "w.npz").spec == ensemble.spec


# -- members that do not fit ----------------------------------------------------------------


def test_votes_stay() -> None:
    with pytest.raises(AttributeError):
        nn.Ensemble(tiny(0)).vote = "mean"  # type: ignore[misc]


def test_each_member_prepares_bytes_as_it_was_trained_to(tmp_path: Path) -> None:
    """One has mean 0.5, one 0; one of one's own has no preprocessing, and takes them as x / 255."""
    own = nn.Sequential(flat=nn.Flatten(), fc=nn.Linear(784, 10, seed=2))
    members = tiny(0), models.simple_convnet(seed=1), own
    images = data.synthetic_digits(5).images
    separate = [predict(member, images).astype(np.float64) for member in members]
    ensemble = nn.Ensemble(*members)
    np.testing.assert_allclose(predict(ensemble, images), sum(separate) / 3, rtol=1e-5)
    y, ctx = ensemble.forward(images)
    np.testing.assert_allclose(y, ensemble(images), rtol=1e-6)
    assert ensemble.backward(ctx, np.ones_like(y), nn.Gradients()) is None  # bytes have no gradient
    nn.Ensemble(*members[:2]).save(tmp_path / "both.safetensors")
    again = load_model(tmp_path / "both.safetensors")
    np.testing.assert_array_equal(again(images), nn.Ensemble(*members[:2])(images))


@pytest.mark.parametrize("vote", VOTES)
def test_answers_of_other_shapes(make: Any, vote: str) -> None:
    x = make.array(np.zeros((2, 1)))
    three_classes, two_classes = Answers(make, np.zeros((2, 3))), Answers(make, np.zeros((2, 2)))
    with pytest.raises(errors.ShapeError, match=mentions("members 0 and 1", "(2, 3)", "(2, 2)", "classes")):
        nn.Ensemble(three_classes, two_classes, vote=vote)(x)
    with pytest.raises(errors.ShapeError, match=mentions("member 1", "(2, 3, 1)", "(N, classes)")):
        nn.Ensemble(three_classes, Answers(make, np.zeros((2, 3, 1))), vote=vote).forward(x)


def test_answers_that_are_no_array() -> None:
    class Two(nn.Layer):
        def forward(self, x: Any, *, train: bool = False, key: Any = None) -> Any:
            return (x, x), None

    with pytest.raises(errors.ShapeError, match="member 0 gave tuple, not one array of logits"):
        nn.Ensemble(Two())(draw(2, 3))
