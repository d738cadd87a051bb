"""What is no array of real numbers is refused where it enters, by its name and type."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.nn import draw
from tests.support.nn_cases import CASES
from xpcnn import Trainer, data, models, nn, optim
from xpcnn.errors import ArgumentError, DtypeError, XpcnnError
from xpcnn.train import evaluate, predict

X = np.random.default_rng(0).random((4, 4, 8, 8)).astype("f4")
WRONG: dict[str, tuple[Any, str]] = {
    "list": (X.tolist(), "list"),
    "None": (None, "None"),
    "number": (3, "int"),
    "complex": (X.astype("c8"), "complex64"),
    "objects": (X.astype(object), "object"),
    "strings": (X.astype("U3"), "str"),
}
LAYERS: dict[str, tuple[nn.Layer, tuple[int, ...]]] = {
    **{name: (case.layer(), case.shape) for name, case in CASES.items() if name != "sequential of nothing"},
    "Preprocess": (nn.Preprocess(), (2, 1, 3, 3)),
    "Images": (nn.Sequential(models.lenet5()[""]), (2, 1, 28, 28)),
}
every_wrong = pytest.mark.parametrize(("wrong", "kind"), WRONG.values(), ids=WRONG)


@every_wrong
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name: str, wrong: Any, kind: str) -> None:
    layer, _ = LAYERS[name]
    for call in (layer, layer.forward, lambda x: layer.forward(x, train=True)):
        with pytest.raises(XpcnnError, match=f"(?s)x.*{kind}"):
            call(wrong)


@every_wrong
@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_of_a_layer(name: str, wrong: Any, kind: str) -> None:
    layer, shape = LAYERS[name]
    _, ctx = layer.forward(draw(*shape, dtype="float32"), train=True)
    with pytest.raises(XpcnnError, match=f"(?s)dy.*{kind}"):
        layer.backward(ctx, wrong, nn.Gradients())


@every_wrong
def test_training_evaluating_and_predicting(wrong: Any, kind: str) -> None:
    model = models.tiny_convnet()
    trainer = Trainer(model, optim.SGD(model))
    images, labels = np.zeros((4, 1, 28, 28), "f4"), np.arange(4)
    before = model.state_dict()
    pairs = [(wrong, labels), (images, wrong)]
    for x, t in pairs:
        with pytest.raises(XpcnnError, match=kind):
            trainer.step(x, t)
        with pytest.raises(XpcnnError, match="Dataset: images" if x is wrong else "Dataset: targets"):
            data.Dataset(x, t)
        for whole in (lambda pair: trainer.fit(pair, progress=None), lambda pair: evaluate(model, pair)):
            with pytest.raises(XpcnnError, match=kind):
                whole((x, t))
    for whole in (lambda d: trainer.fit(d, progress=None), lambda d: evaluate(model, d)):
        with pytest.raises(XpcnnError):
            whole(wrong)
    with pytest.raises(XpcnnError, match=kind):
        predict(model, wrong)
    assert trainer.steps == 0
    for path, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[path])


@pytest.mark.parametrize("wrong", [None, "adam", [1.0], X], ids=["None", "text", "list", "array"])
def test_parts_of_a_trainer_that_are_none(wrong: Any) -> None:
    model, digits = models.tiny_convnet(), data.synthetic_digits(4)
    optimizer = optim.SGD(model)
    kind = type(wrong).__name__
    for build in (
        lambda: Trainer(wrong, optimizer),
        lambda: evaluate(wrong, digits),
        lambda: predict(wrong, X),
    ):
        with pytest.raises(ArgumentError, match=f"model must be a Layer, got {kind}"):
            build()
    with pytest.raises(ArgumentError, match=f"optimizer must be an optim.Optimizer, got {kind}"):
        Trainer(model, wrong)
    with pytest.raises(ArgumentError, match=f"Loader: dataset must be a Dataset, got {kind}"):
        data.Loader(wrong)
    trainer = Trainer(model, optimizer)
    with pytest.raises(ArgumentError, match="callbacks must be a list of Callbacks"):
        trainer.fit(digits, progress=None, callbacks=wrong)
    if wrong is None:
        return
    for argument in ("schedule", "average"):
        with pytest.raises(ArgumentError, match=f"Trainer: {argument} must be an optim.* given, got"):
            Trainer(model, optimizer, **{argument: wrong})
    with pytest.raises(ArgumentError, match=f"augment must be callable or None, got {kind}"):
        trainer.fit(digits, progress=None, augment=wrong)
    with pytest.raises(ArgumentError, match="progress must be 'auto', a Callback or None"):
        trainer.fit(digits, progress=wrong)


def test_complex_numbers_do_not_lose_their_imaginary_parts(make: Any) -> None:
    """Neither on the way to an array nor as weights or the state of an optimiser."""
    with make.use():
        layer = nn.Linear(2, 2, bias=False)
        optimizer, average = optim.Adam(layer), optim.WeightAverage(layer)
        grads, values = nn.Gradients(), np.full((2, 2), 1 + 1j, "c8")
        grads.add(layer.weight, xpcnn.asarray(values.real))
        optimizer.step(grads)
        weights = layer.state_dict()
        for given in (values, xpcnn.asarray(values)):
            with pytest.raises(DtypeError, match="complex64 cannot become float32"):
                xpcnn.asarray(given, dtype="float32")
            with pytest.raises(XpcnnError, match="complex"):
                layer.load_state_dict({"weight": given})
            state = optimizer.state_dict()
            state["state"]["weight"]["m"] = given
            with pytest.raises(XpcnnError, match="complex"):
                optimizer.load_state_dict(state)
            with pytest.raises(XpcnnError, match="complex"):
                average.load_state_dict({**average.state_dict(), "averages": {"weight": given}})
        assert xpcnn.asarray(values, dtype="complex128").dtype == make.xp.complex128
    np.testing.assert_array_equal(xpcnn.to_numpy(layer.weight.data), xpcnn.to_numpy(weights["weight"]))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_leaves_torchs_autograd_behind(name: str) -> None:
    torch = pytest.importorskip("torch")
    layer, shape = copy.deepcopy(LAYERS[name][0]).to(backend="torch"), LAYERS[name][1]
    x = torch.as_tensor(draw(*shape, dtype="float32")).requires_grad_() * 1
    y, ctx = layer.forward(x, train=True)
    grads = nn.Gradients()
    dx = layer.backward(ctx, torch.ones_like(y).requires_grad_() * 1, grads)
    states = [state.data for state in (*layer.parameters().values(), *layer.buffers().values())]
    for array in (y, dx, layer(x), *states, *(gradient for _, gradient in grads.items())):
        assert not array.requires_grad
