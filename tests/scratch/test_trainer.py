"""The book's trainer: each epoch shows every sample once and is measured at its end."""

import numpy as np
import pytest

import xpcnn
from tests.support.scratch import LABEL_FORMS, TINY, draw
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.scratch import np as scratch_np
from xpcnn.scratch import optimizer
from xpcnn.scratch.simple_convnet import SimpleConvNet
from xpcnn.scratch.trainer import Trainer

LABELS, X = np.arange(20) % 10, np.arange(4.0)


def problem(make):
    """A small network, and 20 images with labels, on the backend of `make`."""
    with make.use():
        scratch_np.random.seed(1)
        network = SimpleConvNet((1, 8, 8), TINY, hidden_size=20, weight_init_std=0.3)
    return network, make.array(draw(20, 1, 8, 8)), make.array(LABELS)


def test_it_learns(make):
    network, x, t = problem(make)
    with make.unchanged(x, t):
        trainer = Trainer(network, x, t, x, t, 15, 5, "Adam", {"lr": 0.03}, verbose=False)
        trainer.train()
    assert len(trainer.train_loss_list) == 60
    assert all(type(value) is float for value in trainer.train_loss_list + trainer.train_acc_list)
    assert trainer.train_loss_list[-1] < 0.2 * trainer.train_loss_list[0]
    assert trainer.train_acc_list[-1] == trainer.test_acc_list[-1] == 1.0
    assert (trainer.current_iter, trainer.current_epoch) == (60, 15)
    assert (trainer.iter_per_epoch, trainer.max_iter, trainer.train_size) == (4, 60, 20)


def test_labels_in_all_forms_train_alike():
    results, x = [], draw(20, 1, 8, 8)
    for form in LABEL_FORMS.values():
        np.random.seed(1)
        network, t = SimpleConvNet((1, 8, 8), TINY, hidden_size=5), form(LABELS, 10)
        trainer = Trainer(network, x, t, x, t, 2, 6, verbose=False)
        trainer.train()
        results.append([*trainer.train_loss_list, *trainer.test_acc_list])
    np.testing.assert_allclose(results, [results[0]] * len(results), rtol=1e-6)


def test_a_seed_repeats_a_run_whatever_the_backend_of_new_arrays(make):
    losses = []
    for name in (make.backend, "numpy"):
        network, x, t = problem(make)
        options = {"lr": 0.1, "momentum": 0.8}
        with xpcnn.use_backend(name):
            trainer = Trainer(network, x, t, x, t, 2, 6, "Momentum", options, verbose=False)
            trainer.train()
        losses.append(trainer.train_loss_list)
        assert xpcnn.backend_of(network.params["W1"]).name == make.backend
    assert losses[0] == losses[1]


def test_optimizers_go_by_name():
    for name in ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"):
        for spelled in (name, name.lower()):
            trainer = Trainer(object(), X, X, X, X, optimizer=spelled, optimizer_param={"lr": 0.5})
            assert type(trainer.optimizer) is getattr(optimizer, name)
            assert trainer.optimizer.lr == 0.5


class Recorder:
    """A network that learns nothing and notes what it was shown, and when and on how much it is measured."""

    def __init__(self):
        self.params = {"W1": np.zeros(1)}
        self.batches = []
        self.measured = []

    def gradient(self, x, t):
        self.batches.append([int(value) for value in t])
        return {"W1": np.ones(1)}

    def loss(self, x, t):
        return self.params["W1"].sum()

    def accuracy(self, x, t):
        assert t.shape == (len(x),)
        self.measured.append((len(self.batches), len(x)))
        return 0.5


@pytest.mark.parametrize(("samples", "batch"), [(10, 5), (10, 3), (7, 100), (6, 1)])
def test_an_epoch_shows_every_sample_once_and_is_measured_at_its_end(samples, batch):
    """Mended: the book draws with replacement, so that a third of the samples are missed in an epoch.

    And it tests ``iteration % 3.33 == 0``: of such epochs it measures the first alone.
    """
    network, numbers = Recorder(), np.arange(samples)
    trainer = Trainer(network, numbers, numbers, numbers, numbers, 3, batch, verbose=False)
    trainer.train()
    per_epoch, orders = -(-samples // batch), set()
    for epoch in range(3):
        shown = network.batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert [len(part) for part in shown[:-1]] == [min(batch, samples)] * (per_epoch - 1)
        orders.add(order := tuple(number for part in shown for number in part))
        assert sorted(order) == list(range(samples))
    assert len(orders) > 1
    assert network.measured == [(per_epoch * epoch, samples) for epoch in (1, 1, 2, 2, 3, 3)]
    assert len(trainer.train_acc_list) == len(trainer.test_acc_list) == trainer.current_epoch == 3


def test_accuracies_on_the_first_samples_alone():
    """Labels (N, 1) come as (N,), which the networks of the book's readers expect."""
    network, x, few = Recorder(), np.arange(10.0), np.arange(3.0)
    Trainer(network, x, x[:, None], few, few, 2, 5, evaluate_sample_num_per_epoch=4, verbose=False).train()
    assert network.measured == [(2, 4), (2, 3), (4, 4), (4, 3)]


def test_what_is_printed(capsys):
    """The losses are those of the updated network on the same batch, as in the book."""
    Trainer(Recorder(), X, X, X, X, epochs=1, mini_batch_size=2).train()
    assert capsys.readouterr().out.splitlines() == [
        "train loss:-0.01",
        "train loss:-0.02",
        "=== epoch:1, train acc:0.5, test acc:0.5 ===",
        "=============== Final Test Accuracy ===============",
        "test acc:0.5",
    ]
    trainer = Trainer(Recorder(), X, X, X, X, epochs=1, mini_batch_size=2, verbose=False)
    for steps in range(1, 7):  # which may be made one by one
        trainer.train_step()
        assert len(trainer.train_loss_list) == steps
        assert len(trainer.train_acc_list) == steps // 2
    assert capsys.readouterr().out == ""


def test_what_does_not_fit_is_refused():
    for message, arguments, options in (
        ("unknown optimizer 'Adma'; known: sgd, momentum", (X, X, X, X), {"optimizer": "Adma"}),
        ("mini_batch_size must be an integer of at least 1, got 0", (X, X, X, X), {"mini_batch_size": 0}),
        (r"Trainer, test set: samples of shape \(4,\) with labels of shape \(3,\)", (X, X, X, X[:3]), {}),
        (r"Trainer, train set: samples of shape \(0,\)", (X[:0], X[:0], X, X), {}),
    ):
        with pytest.raises((ArgumentError, ShapeError), match=message):
            Trainer(object(), *arguments, **options)
