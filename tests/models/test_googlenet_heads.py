"""GoogLeNet's auxiliary heads: what is run when, their gradients and loss, and training with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.model_cases import drawn_state, images, tiny
from xpcnn import Trainer, models, nn, ops, optim
from xpcnn.errors import BackendError
from xpcnn.models.googlenet import GoogLeNet, GoogLeNetLogits
from xpcnn.testing import assert_close

pytestmark = pytest.mark.slow

LABELS = np.arange(5) % 4


def with_heads(dtype: str = "float64", **options: Any) -> nn.Sequential:
    model = tiny("googlenet", aux=True, dtype=dtype, **options)
    model.load_state_dict(drawn_state(model))
    assert isinstance(model, GoogLeNet)
    return model


def step(model: nn.Layer, x: Any, need_dx: bool = True, key: int = 0) -> tuple[Any, nn.Gradients, Any]:
    """(loss, gradients, dx) of one training step."""
    y, ctx = model.forward(x, train=True, key=xpcnn.Key(key))
    loss, loss_ctx = models.googlenet_loss[0](y, LABELS)
    grads = nn.Gradients()
    dx = model.backward(ctx, models.googlenet_loss[1](loss_ctx), grads, need_dx=need_dx)
    return loss, grads, dx


def test_the_heads_change_nothing_else() -> None:
    plain, model = tiny("googlenet", seed=3), tiny("googlenet", seed=3, aux=True)
    extra = {path for path in model.parameters() if path.startswith("aux")}
    assert list(plain.parameters()) == [path for path in model.parameters() if path not in extra]
    for path, parameter in plain.parameters().items():
        np.testing.assert_array_equal(parameter.data, model.parameters()[path].data)
    report = plain.load_state_dict(model.state_dict(), strict=False)
    assert set(report.unexpected) > extra
    assert not report.missing


def test_inference_runs_no_head(make: Any) -> None:
    with make.use():
        model, plain = with_heads(), tiny("googlenet")
    plain.load_state_dict(model.state_dict(), strict=False)
    x = make.array(images(2, 2, 16, 16))
    expected = make.to_numpy(plain(x))
    make.check(model(x), expected, "float64", rtol=0)
    y, ctx = model.forward(x)
    make.check(y, expected, "float64", rtol=0)
    dx = model.backward(ctx, y, grads := nn.Gradients())
    assert tuple(dx.shape) == (2, 2, 16, 16)
    assert "fc.weight" in grads
    assert "aux1.fc1.weight" not in grads
    rows = nn.summary(model, (2, 16, 16)).rows
    assert [row.path for row in rows] == [row.path for row in nn.summary(plain, (2, 16, 16)).rows]


@pytest.mark.parametrize("small_images", [True, False])
def test_three_logits_and_their_gradients_are_pytorchs(small_images: bool) -> None:
    torch = pytest.importorskip("torch")
    from tests.support.torch_models import twin

    options: dict[str, Any] = {"small_images": small_images, "dropout": 0.0}
    model = with_heads(**options)
    for name in ("aux1", "aux2"):
        model[name]["dropout"] = nn.Dropout(0)
    module = twin("googlenet", classes=4, in_channels=2, narrow=True, aux=True, **options).double().train()
    module.load_state_dict({path: torch.from_numpy(a) for path, a in drawn_state(model).items()})
    x = images(5, 2, 35, 32)

    y, _ = model.forward(x, train=True)
    assert isinstance(y, GoogLeNetLogits)
    model.load_state_dict(drawn_state(model))
    loss, grads, dx = step(model, x)

    torch_x = torch.from_numpy(x).requires_grad_()
    outputs = module(torch_x)
    losses = [torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS)) for logits in outputs]
    torch_loss = losses[0] + 0.3 * losses[1] + 0.3 * losses[2]
    torch_loss.backward()
    for found, expected in zip((y.logits, y.aux1, y.aux2), outputs, strict=True):
        assert_close(found, expected.detach().numpy(), rtol=1e-8)
    assert_close(loss, np.asarray(torch_loss.item()), rtol=1e-8)
    assert_close(dx, torch_x.grad.numpy(), rtol=1e-6)
    scale = max(float(parameter.grad.abs().max()) for parameter in module.parameters())
    for path, parameter in module.named_parameters():
        assert_close(grads[path], parameter.grad.numpy(), rtol=1e-6, atol=1e-9 * scale)


@pytest.mark.slow
def test_gradients_stop_where_nobody_asks_for_them() -> None:
    x = images(5, 2, 16, 16)
    model = with_heads()
    _, whole, _ = step(model, x)
    for frozen_up_to in ("conv1", "inception4a", "inception4d", "fc"):
        model = with_heads()
        names = list(model.children())
        for name in names[: names.index(frozen_up_to) + 1]:
            if not name.startswith("aux"):
                for parameter in model[name].parameters().values():
                    parameter.trainable = False
        _, grads, dx = step(model, x, need_dx=False)
        assert dx is None
        trained = [path for path, parameter in model.parameters().items() if parameter.trainable]
        assert len(grads) == len(trained)
        for path in trained:  # the heads' own among them
            np.testing.assert_array_equal(grads[path], whole[path])


def test_loss(make: Any, dtype: str) -> None:
    logits = {name: images(5, 4, seed=i) for i, name in enumerate(GoogLeNetLogits._fields)}
    forward, backward = models.googlenet_loss
    one = {name: ops.softmax_cross_entropy(array, LABELS) for name, array in logits.items()}
    y = GoogLeNetLogits(**{name: make.array(array, dtype) for name, array in logits.items()})
    loss, ctx = forward(y, make.array(LABELS))
    make.check(loss, one["logits"][0] + 0.3 * one["aux1"][0] + 0.3 * one["aux2"][0], dtype)
    dy = backward(ctx)
    for name, weight in {"logits": 1.0, "aux1": 0.3, "aux2": 0.3}.items():
        expected = weight * ops.softmax_cross_entropy.backward(one[name][1])
        make.check(getattr(dy, name), expected, dtype)
    # In evaluation there is one array
    loss, ctx = forward(y.logits, make.array(LABELS))
    make.check(loss, one["logits"][0], dtype)
    make.check(backward(ctx), ops.softmax_cross_entropy.backward(one["logits"][1]), dtype)


def test_training_with_the_heads() -> None:
    model = tiny("googlenet", aux=True, dtype="float32")
    before = {path: parameter.data for path, parameter in model.parameters().items()}
    model.fc = nn.Linear(64, 6, seed=1)  # a new last layer
    before |= {path: parameter.data for path, parameter in model.parameters().items()}
    trainer = Trainer(model, optim.Adam(model, lr=0.01), loss=models.googlenet_loss)
    x = images(5, 2, 16, 16, dtype="float32")
    losses = [float(trainer.step(x, LABELS)) for _ in range(6)]
    assert losses[-1] < 0.7 * losses[0]
    assert trainer.evaluate((x, LABELS)).samples == 5
    assert all((parameter.data != before[path]).any() for path, parameter in model.parameters().items())


def test_the_usual_loss_says_what_it_was_given() -> None:
    model = with_heads("float32")
    trainer = Trainer(model, optim.SGD(model, lr=0.1))
    with pytest.raises(BackendError, match=r"softmax_cross_entropy: logits: .*GoogLeNetLogits"):
        trainer.step(images(5, 2, 16, 16, dtype="float32"), LABELS)
