"""Ensembles as models: evaluated, trained, saved, and members that do not fit."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.nn.test_ensemble import VOTES, Answers
from tests.support.nn import draw, mentions
from xpcnn import Trainer, data, errors, load_model, models, nn, optim
from xpcnn.train import evaluate, predict

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
