"""Logits, gradients and running statistics against the same networks in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.model_cases import (
    FAMILIES,
    OF_ONE_SIZE,
    drawn_state,
    images,
    parametrize,
    tiny,
    tiny_shape,
)
from tests.support.torch_models import torch, twin
from xpcnn import models, nn, ops
from xpcnn.testing import assert_close

# One of each family at each stem; the deeper ones differ in how often a block is repeated.
CASES: dict[str, tuple[str, tuple[int, int], dict[str, Any]]] = {
    name: (name, tiny_shape(name)[1:], {}) for name in FAMILIES
} | {
    "simple_convnet, stride": ("simple_convnet", (9, 8), {"stride": 2, "padding": 1}),
    "tiny_convnet, bias": ("tiny_convnet", (9, 8), {"bias": True}),
    "deep_convnet with batch-norm": ("deep_convnet", (28, 28), {"batch_norm": True}),
    "deep_convnet with filters": ("deep_convnet", (31, 35), {"filters": (5, 3, 4)}),
    "lenet5 sigmoid": ("lenet5", (27, 32), {"variant": "sigmoid"}),
    "lenet5 modern": ("lenet5", (32, 32), {"variant": "modern"}),
    "alexnet large": ("alexnet", (79, 99), {"small_images": False}),
    "alexnet with LRN": ("alexnet", (32, 28), {"local_response_norm": True}),
    "vgg13_bn large": ("vgg13_bn", (64, 96), {"small_images": False}),
    "vgg16 large": ("vgg16", (32, 33), {"small_images": False}),
    "googlenet large": ("googlenet", (64, 49), {"small_images": False}),
    "resnet34 large": ("resnet34", (64, 49), {"small_images": False}),
    "resnet50 large": ("resnet50", (33, 64), {"small_images": False}),
    "resnet32": ("resnet32", (16, 16), {}),
}


def pair(name: str, options: dict[str, Any]) -> tuple[nn.Sequential, Any]:
    """A narrow model without dropout, and its twin with the same drawn weights."""
    more: dict[str, Any] = {"input_shape": (2, 9, 8)} if name in OF_ONE_SIZE else {"small_images": True}
    if name in ("deep_convnet", "alexnet", "googlenet") or name.startswith("vgg"):
        more["dropout"] = 0.0
    options = {**more, **options}
    model = tiny(name, **options)
    module = twin(name, classes=4, in_channels=2, narrow=True, **options).double()
    state = drawn_state(model)
    model.load_state_dict(state)
    module.load_state_dict({path: torch.from_numpy(array) for path, array in state.items()})
    return model, module


@pytest.mark.slow
@parametrize("name size options", CASES)
def test_logits_and_one_training_step(name: str, size: tuple[int, int], options: dict[str, Any]) -> None:
    model, module = pair(name, options)
    x, labels = images(6, 2, *size, seed=2), np.arange(6) % 4
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    assert_close(model(x), expected, rtol=1e-9)
    assert_close(model.forward(x)[0], expected, rtol=1e-9)

    y, ctx = model.forward(x, train=True)
    loss, loss_ctx = ops.softmax_cross_entropy(y, labels)
    grads = nn.Gradients()
    dx = model.backward(ctx, ops.softmax_cross_entropy.backward(loss_ctx), grads)

    torch_x = torch.from_numpy(x).requires_grad_()
    torch_y = module.train()(torch_x)
    torch_loss = torch.nn.functional.cross_entropy(torch_y, torch.from_numpy(labels))
    torch_loss.backward()
    assert_close(y, torch_y.detach().numpy(), rtol=1e-7)
    assert_close(loss, np.asarray(torch_loss.item()), rtol=1e-7)
    assert_close(dx, torch_x.grad.numpy(), rtol=1e-5)
    scale = max(float(parameter.grad.abs().max()) for parameter in module.parameters())
    for path, parameter in module.named_parameters():
        # Some gradients are 0 but for rounding, such as those of a bias in front of a batch-norm.
        assert_close(grads[path], parameter.grad.numpy(), rtol=1e-5, atol=1e-9 * scale)
    for path, buffer in module.named_buffers():
        assert_close(model.buffers()[path].data, buffer.numpy(), rtol=1e-7)


@pytest.mark.slow
def test_resnet18_at_its_published_size() -> None:
    """Logits in float32, to 1e-4; one training step's gradients in float64.

    In float32 rounding alone, of either library, moves some gradients by a hundredth: with two images,
    batch-norm and ReLU multiply it on the way back through 18 layers.
    """
    model = models.build("resnet18", seed=3)
    with torch.device("meta"):  # spares PyTorch's own initial weights
        module = twin("resnet18")
    state = drawn_state(model)
    model.load_state_dict(state)
    module.load_state_dict({path: torch.from_numpy(array) for path, array in state.items()}, assign=True)
    x, labels = images(2, 3, 224, 224), np.asarray([3, 998])
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x).float()).numpy()
    assert_close(model(x.astype("float32")), expected, rtol=1e-4)

    model.to(dtype="float64")
    y, ctx = model.forward(x, train=True)
    _, loss_ctx = ops.softmax_cross_entropy(y, labels)
    grads = nn.Gradients()
    model.backward(ctx, ops.softmax_cross_entropy.backward(loss_ctx), grads, need_dx=False)
    logits = module.double().train()(torch.from_numpy(x))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
    for path, parameter in module.named_parameters():
        assert_close(grads[path], parameter.grad.numpy(), rtol=1e-6)
