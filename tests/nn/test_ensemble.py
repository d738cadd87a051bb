"""Ensembles: their answers beside loops in float64, gradients, files, and members that do not fit."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Trainer, data, errors, load_model, models, nn, ops, optim
from xpcnn.testing import gradcheck
from xpcnn.train import evaluate, predict

from .helpers import build, draw, mentions

KEY = xpcnn.Key(4)
VOTES = ("mean", "majority")


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


def test_the_softmax_of_the_mean_is_the_mean_of_the_softmaxes(make: Any, dtype: str) -> None:
    ensemble = build(make, three, dtype)
    x = make.array(draw(6, 4, dtype=dtype))
    y = ensemble(x)
    own = [make.to_numpy(one(x)) for one in ensemble.members]
    make.check(y, np.log(averages(own)), dtype, rtol=1e-6 if dtype == "float32" else 1e-14)
    make.check(ops.softmax(y)[0], averages(own), dtype, rtol=1e-6 if dtype == "float32" else 1e-14)
    np.testing.assert_array_equal(make.to_numpy(ensemble.forward(x)[0]), make.to_numpy(y))


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


@pytest.mark.parametrize("vote", VOTES)
def test_alone_it_says_what_its_member_says(make: Any, vote: str) -> None:
    model = build(make, member)
    x = make.array(draw(5, 4))
    y, own = make.to_numpy(nn.Ensemble(model, vote=vote)(x)), make.to_numpy(model(x))
    np.testing.assert_array_equal(y.argmax(axis=1), own.argmax(axis=1))
    if vote == "mean":
        np.testing.assert_allclose(y, np.log(averages([own])), rtol=1e-12)


def test_an_empty_batch(make: Any) -> None:
    for vote in VOTES:
        ensemble = build(make, lambda vote=vote: three(vote))
        make.check_kind(ensemble(make.array(np.zeros((0, 4)))), (0, 3), "float64")


# -- the majority ---------------------------------------------------------------------------


def votes_of(make: Any, *rows: list[float]) -> np.ndarray:
    """The probabilities of a majority vote on one image, each member's logits given."""
    ensemble = nn.Ensemble(*(Answers(make, [row]) for row in rows), vote="majority")
    return np.exp(make.to_numpy(ensemble(make.array(np.zeros((1, 1)))))[0])


def test_shares_of_the_votes(make: Any) -> None:
    shares = votes_of(make, [5, 0, 0, 0], [0, 0.1, 0, 0], [0, 0.1, 0, 0])  # the first is the surest by far
    expected = np.array([1 / 3, 2 / 3, 0, 0])
    rows = np.array([[[5, 0, 0, 0]], [[0, 0.1, 0, 0]], [[0, 0.1, 0, 0]]])
    np.testing.assert_allclose(shares, 0.9999 * expected + 0.0001 * averages(list(rows))[0], rtol=1e-12)
    np.testing.assert_allclose(shares, expected, atol=1e-4)
    assert shares.sum() == pytest.approx(1, rel=1e-12)
    assert averages(list(rows))[0].argmax() == 0  # which the mean would have answered


def test_of_equal_shares_the_one_that_is_likelier_on_average_wins(make: Any) -> None:
    assert votes_of(make, [1, 0, 0], [0, 0, 5]).argmax() == 2
    assert votes_of(make, [5, 0, 0], [0, 0, 1]).argmax() == 0
    assert votes_of(make, [1, 0, 0], [0, 0, 1]).argmax() == 0  # of the same in all, the lowest
    assert votes_of(make, [1, 1, 0]).argmax() == 0


def test_no_certainty_outdoes_a_vote(make: Any) -> None:
    sure, unsure = [200.0, 0, 0], [0.0, 1e-3, 0]
    assert votes_of(make, *[sure] * 50, *[unsure] * 51).argmax() == 1


def test_a_class_without_a_vote_has_a_finite_logarithm(make: Any) -> None:
    y = nn.Ensemble(Answers(make, [[0.0, -5000.0]]), vote="majority")(make.array(np.zeros((1, 1))))
    make.check(y, [[0.0, -5000 + np.log(1e-4)]], "float64")
    loss, _ = ops.softmax_cross_entropy(y, make.array([1]))
    assert float(make.to_numpy(loss)) == pytest.approx(5000 - np.log(1e-4))


def test_a_vote_cannot_be_trained(make: Any) -> None:
    ensemble = build(make, lambda: three("majority"))
    y, ctx = ensemble.forward(make.array(draw(2, 4)), train=True, key=KEY)
    with pytest.raises(errors.ArgumentError, match=mentions("Ensemble.backward", "majority", "vote='mean'")):
        ensemble.backward(ctx, y)


# -- gradients ------------------------------------------------------------------------------


def test_gradients(make: Any) -> None:
    ensemble = build(make, three)
    x = make.array(draw(5, 4))
    result = gradcheck(ensemble, x, train=True, key=KEY)
    assert result.compared == 5 * 4 + 3 * (4 * 5 + 5 + 5 * 3 + 3)
    gradcheck(ensemble, x, directional=True)


def test_gradients_of_convolutional_members(make: Any) -> None:
    def factory() -> nn.Layer:
        one = nn.Sequential(conv=nn.Conv2d(1, 2, 2), act=nn.Sigmoid(), flat=nn.Flatten(), fc=nn.Linear(8, 3))
        other = nn.Sequential(flat=nn.Flatten(), bn=nn.BatchNorm1d(9), fc=nn.Linear(9, 3))
        return nn.Ensemble(one, other)

    gradcheck(build(make, factory), make.array(draw(4, 1, 3, 3)), train=True)


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
        firsts = np.array([rows.argmax(axis=1) for rows in own])
        shares = np.array([[np.mean(firsts[:, n] == k) for k in range(10)] for n in range(30)])
        np.testing.assert_allclose(answer, shares, atol=2e-4)
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
    ensemble = nn.Ensemble(tiny(0), tiny(1), vote="majority")
    one, both = (xpcnn.summary(model, (1, 28, 28)) for model in (tiny(0), ensemble))
    assert [row.path for row in both.rows] == [f"{i}.{row.path}" for i in range(2) for row in one.rows]
    assert (both.parameters, both.macs) == (2 * one.parameters, 2 * one.macs)
    inside = xpcnn.summary(nn.Sequential(all=nn.Ensemble(tiny(0)), out=nn.Softmax()), (1, 28, 28))
    assert [row.path for row in inside.rows] == [f"all.0.{row.path}" for row in one.rows] + ["out"]
    x = draw(2, 1, 28, 28, dtype="float32")
    for again in (copy.deepcopy(ensemble), pickle.loads(pickle.dumps(ensemble))):
        assert again.vote == "majority"
        np.testing.assert_array_equal(again(x), ensemble(x))
    assert repr(ensemble).startswith("Ensemble(\n  (0): Sequential(\n")


# -- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["safetensors", "npz"])
@pytest.mark.parametrize("vote", VOTES)
def test_a_file_tells_the_whole_ensemble(tmp_path: Path, vote: str, ending: str) -> None:
    inner = nn.Ensemble(
        models.simple_convnet(filters=2, hidden=4, seed=3), models.deep_convnet(hidden=4, seed=4)
    )
    ensemble = nn.Ensemble(models.simple_convnet((1, 28, 28), 3, hidden=5), inner, vote=vote)
    ensemble.save(tmp_path / f"both.{ending}")
    again = load_model(tmp_path / f"both.{ending}")
    assert isinstance(again, nn.Ensemble)
    assert (again.vote, again.members[1].vote) == (vote, "mean")
    assert again.recipe == ensemble.recipe
    assert again.members[0].recipe == ensemble.members[0].recipe
    assert repr(again) == repr(ensemble)
    x = draw(3, 1, 28, 28, dtype="float32")
    np.testing.assert_array_equal(again(x), ensemble(x))
    assert nn.Ensemble(*again.members, vote=vote).recipe == ensemble.recipe


def test_its_recipe() -> None:
    ensemble = nn.Ensemble(tiny(0), tiny(1, input_shape=(1, 28, 28)))
    assert ensemble.recipe is not None
    json.dumps(ensemble.recipe)
    assert (ensemble.recipe.mean, ensemble.recipe.std, ensemble.recipe.input_shape) == (0.5, 1.0, None)
    trained = tiny(2)
    assert trained.recipe is not None
    trained.recipe = trained.recipe._replace(input_shape=(1, 28, 28))
    ensemble["1"] = trained
    assert ensemble.recipe.input_shape == (1, 28, 28)
    assert ensemble.recipe.arguments["members"][1]["arguments"]["seed"] == 2


def test_members_without_a_recipe(tmp_path: Path) -> None:
    plain = nn.Ensemble(nn.Sequential(flat=nn.Flatten(), fc=nn.Linear(784, 10)), models.simple_convnet())
    assert plain.recipe is None
    plain.save(tmp_path / "w.npz")
    with pytest.raises(errors.CheckpointError, match="does not say which model"):
        load_model(tmp_path / "w.npz")
    again = nn.Ensemble(nn.Sequential(flat=nn.Flatten(), fc=nn.Linear(784, 10)), models.simple_convnet())
    again.load(tmp_path / "w.npz")
    x = draw(2, 1, 28, 28, dtype="float32")
    np.testing.assert_array_equal(again(x), plain(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": []}, "it has no members"),
        ({"members": [3]}, "member 0 is no model's description: expected a mapping, got 3"),
        ({"members": [{"name": "tiny_convnet"}]}, "member 0 is no model's description"),
        ({"members": "name"}, "member 0 is no model's description"),
        ({"members": 3}, "not iterable"),
        ({"vote": "loudest"}, "'mean' or 'majority', got 'loudest'"),
        ({"depth": 3}, "unexpected keyword argument 'depth'"),
        ({"name": "resnet9000"}, "unknown model 'resnet9000'"),
        ({"arguments": {"depth": 9}}, "depth"),
        ({"arguments": None}, "expected a mapping, got None"),
    ],
)
def test_descriptions_that_cannot_be_followed(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    ensemble = nn.Ensemble(tiny(0), tiny(1))
    assert ensemble.recipe is not None
    arguments = dict(ensemble.recipe.arguments)
    if set(change) <= {"name", "arguments"}:
        arguments["members"] = [arguments["members"][0], {**arguments["members"][1], **change}]
    else:
        arguments |= change
    ensemble.recipe = ensemble.recipe._replace(arguments=arguments)
    ensemble.save(tmp_path / "w.npz")
    with pytest.raises(errors.CheckpointError, match=mentions("w.npz", message)):
        load_model(tmp_path / "w.npz")


def test_by_name() -> None:
    recipe = tiny(5).recipe
    assert recipe is not None
    ensemble = models.build("ensemble", members=[recipe._asdict()], vote="majority")
    assert isinstance(ensemble, nn.Ensemble)
    np.testing.assert_array_equal(ensemble.members[0].fc.weight.data, tiny(5).fc.weight.data)
    assert "ensemble" not in models.model_names()  # it cannot be trained by its name alone


# -- members that do not fit ----------------------------------------------------------------


def test_no_members_and_unknown_votes() -> None:
    with pytest.raises(errors.ArgumentError, match="Ensemble: it has no members"):
        nn.Ensemble()
    with pytest.raises(errors.ArgumentError, match=mentions("'mean' or 'majority'", "'best'")):
        nn.Ensemble(tiny(0), vote="best")
    with pytest.raises(errors.ArgumentError, match=mentions("Ensemble: child '1'", "Layer", "runs/a")):
        nn.Ensemble(tiny(0), "runs/a")  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        nn.Ensemble(tiny(0)).vote = "mean"  # type: ignore[misc]


def test_members_must_prepare_images_alike() -> None:
    with pytest.raises(
        errors.ArgumentError,
        match=mentions("members 0 and 1", "((0.5,), (1.0,)) and ((0.0,), (1.0,))", "preprocessing"),
    ):
        nn.Ensemble(tiny(0), models.simple_convnet())
    ensemble = nn.Ensemble(tiny(0), tiny(1))
    with pytest.raises(errors.ArgumentError, match="members 0 and 1 prepare"):
        ensemble["1"] = models.simple_convnet()
    assert isinstance(ensemble["1"].fc, nn.Linear)
    alone = nn.Ensemble(tiny(0))
    alone[0] = models.simple_convnet()
    assert alone.recipe is not None
    assert alone.recipe.mean == 0.0


def test_members_are_numbered() -> None:
    ensemble = nn.Ensemble(tiny(0))
    ensemble["1"] = tiny(1)
    assert list(ensemble.children()) == ["0", "1"]
    for name in ("3", "extra"):
        with pytest.raises(errors.ArgumentError, match=mentions("numbered", "'2'", repr(name))):
            ensemble[name] = tiny(2)


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

    with pytest.raises(errors.ArgumentError, match="member 0 gave tuple, not one array of logits"):
        nn.Ensemble(Two())(draw(2, 3))


def test_errors_tell_the_member() -> None:
    with pytest.raises(errors.ShapeError) as caught:
        nn.Ensemble(tiny(0), tiny(1, input_shape=(1, 20, 20)))(draw(1, 1, 28, 28, dtype="float32"))
    assert caught.value.__notes__ == ["in Sequential.fc (Linear)", "in Ensemble.1 (Sequential)"]
    mixed = nn.Ensemble(tiny(0), tiny(1).to(dtype="float64"))
    with pytest.raises(errors.DtypeError, match="float64") as caught_too:
        mixed(draw(1, 1, 28, 28, dtype="float32"))
    assert caught_too.value.__notes__[-1] == "in Ensemble.1 (Sequential)"
