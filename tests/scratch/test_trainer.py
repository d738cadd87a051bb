"""The book's trainer; that it misses no sample and no epoch is in test_scratch_mended.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.scratch import draw
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.scratch import np as scratch_np
from xpcnn.scratch import optimizer
from xpcnn.scratch.simple_convnet import SimpleConvNet
from xpcnn.scratch.trainer import Trainer

CONV = {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1}
LABELS = np.arange(20) % 10


def problem(make: Any) -> tuple[Any, Any, Any]:
    """A small network, and 20 images with labels, on the backend of `make`."""
    with make.use():
        scratch_np.random.seed(1)
        network = SimpleConvNet((1, 8, 8), CONV, hidden_size=20, weight_init_std=0.3)
    return network, make.array(draw(20, 1, 8, 8)), make.array(LABELS)


def test_it_learns(make: Any) -> None:
    network, x, t = problem(make)
    with make.unchanged(x, t):
        trainer = Trainer(network, x, t, x, t, 25, 5, "Adam", {"lr": 0.02}, verbose=False)
        trainer.train()
    assert len(trainer.train_loss_list) == 100
    assert all(type(value) is float for value in trainer.train_loss_list + trainer.train_acc_list)
    assert trainer.train_loss_list[-1] < 0.1 * trainer.train_loss_list[0]
    assert trainer.train_acc_list[-1] == trainer.test_acc_list[-1] == 1.0
    assert (trainer.current_iter, trainer.current_epoch) == (100, 25)
    assert (trainer.iter_per_epoch, trainer.max_iter, trainer.train_size) == (4, 100, 20)


@pytest.mark.parametrize("form", ["labels", "column", "one-hot"])
def test_labels_in_three_forms_train_alike(form: str) -> None:
    t = {"labels": LABELS, "column": LABELS[:, None], "one-hot": np.eye(10)[LABELS]}
    results = []
    for labels in (LABELS, t[form]):
        np.random.seed(1)
        network = SimpleConvNet((1, 8, 8), CONV, hidden_size=5)
        x = draw(20, 1, 8, 8)
        trainer = Trainer(network, x, labels, x, labels, 2, 6, verbose=False)
        trainer.train()
        results.append((trainer.train_loss_list, trainer.test_acc_list))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-12)
    assert results[0][1] == results[1][1]


def test_a_seed_repeats_a_run(make: Any) -> None:
    losses = []
    for _ in range(2):
        network, x, t = problem(make)
        trainer = Trainer(network, x, t, x, t, 2, 6, "Momentum", {"lr": 0.1, "momentum": 0.8}, verbose=False)
        trainer.train()
        losses.append(trainer.train_loss_list)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam", "adam", "sgd"])
def test_optimizers_go_by_name(name: str) -> None:
    x = np.zeros(3)
    trainer = Trainer(object(), x, x, x, x, optimizer=name, optimizer_param={"lr": 0.5}, verbose=False)
    kinds = {kind.lower(): getattr(optimizer, kind) for kind in optimizer.__all__ if kind != "np"}
    assert type(trainer.optimizer) is kinds[name.lower()]
    assert trainer.optimizer.lr == 0.5


class Watched:
    """A network that notes how much it is measured on."""

    def __init__(self) -> None:
        self.params = {"W1": np.zeros(1)}
        self.measured: list[int] = []

    def gradient(self, x: Any, t: Any) -> dict[str, Any]:
        return {"W1": np.ones(1)}

    def loss(self, x: Any, t: Any) -> Any:
        return self.params["W1"].sum()

    def accuracy(self, x: Any, t: Any) -> float:
        self.measured.append(len(x))
        assert t.shape == (len(x),)
        return 0.5


def test_accuracies_on_the_first_samples_alone() -> None:
    """Labels (N, 1) come as (N,), which the networks of the book's readers expect."""
    network, x, few = Watched(), np.arange(10.0), np.arange(3.0)
    Trainer(network, x, x[:, None], few, few, 2, 5, evaluate_sample_num_per_epoch=4, verbose=False).train()
    assert network.measured == [4, 3, 4, 3]


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.arange(4.0)
    Trainer(Watched(), x, x, x, x, epochs=1, mini_batch_size=2).train()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "train loss:-0.01",
        "train loss:-0.02",
        "=== epoch:1, train acc:0.5, test acc:0.5 ===",
        "=============== Final Test Accuracy ===============",
        "test acc:0.5",
    ]
    Trainer(Watched(), x, x, x, x, epochs=1, mini_batch_size=2, verbose=False).train()
    assert capsys.readouterr().out == ""


def test_steps_may_be_taken_one_by_one() -> None:
    x = np.arange(5.0)
    trainer = Trainer(Watched(), x, x, x, x, epochs=1, mini_batch_size=2, verbose=False)
    for steps in range(1, 7):
        trainer.train_step()
        assert len(trainer.train_loss_list) == steps
        assert len(trainer.train_acc_list) == steps // 3


def test_a_gradient_that_is_taken_before_the_update_and_a_loss_after_it() -> None:
    """The loss in the list is that of the updated network on the same batch, as in the book."""
    x = np.arange(4.0)
    trainer = Trainer(Watched(), x, x, x, x, optimizer_param={"lr": 2.0}, verbose=False)
    trainer.train_step()
    assert trainer.train_loss_list == [-2.0]


def test_what_does_not_fit_is_refused() -> None:
    x, t = np.zeros((4, 2)), np.zeros(4)
    with pytest.raises(ArgumentError, match="unknown optimizer 'Adma'; known: sgd, momentum"):
        Trainer(object(), x, t, x, t, optimizer="Adma")
    with pytest.raises(ArgumentError, match="mini_batch_size must be at least 1, got 0"):
        Trainer(object(), x, t, x, t, mini_batch_size=0)
    with pytest.raises(ShapeError, match=r"x_test has 4 samples .* but t_test has shape \(3,\)"):
        Trainer(object(), x, t, x, t[:3])
    with pytest.raises(ArgumentError, match="x_train has no samples"):
        Trainer(object(), x[:0], t[:0], x, t)


def test_data_stays_on_its_backend_whatever_the_setting(make: Any) -> None:
    network, x, t = problem(make)
    with xpcnn.use_backend("numpy"):
        Trainer(network, x, t, x, t, 1, 6, verbose=False).train()
    assert xpcnn.backend_of(network.params["W1"]).name == make.backend
