"""Whole training steps with every kernel there is, against the same steps in float64 with none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.implementations import Implementation
from tests.support.ops import Array
from xpcnn import Trainer, data, nn, optim
from xpcnn.data.augment import parse

pytestmark = pytest.mark.slow

TOLERANCE = {"float64": 1e-11, "float32": 2e-5, "float16": 3e-2, "bfloat16": 2e-1}
"""Largest error of a weight after two steps."""


def network() -> nn.Layer:
    return nn.Sequential(
        conv1=nn.Conv2d(1, 5, 3, padding=1, bias=False, seed=1),
        bn1=nn.BatchNorm2d(5),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(5, 8, 3, stride=2, padding=1, seed=2),
        relu2=nn.ReLU(),
        bn2=nn.BatchNorm2d(8),
        pool2=nn.AvgPool2d(3, stride=2, padding=1),
        flatten=nn.Flatten(),
        fc=nn.Linear(128, 10, seed=3),
    )


# An eps that does not let rounding decide where gradients are almost 0.
RULES = {"SGD": (optim.SGD, {"momentum": 0.9}), "AdamW": (optim.AdamW, {"eps": 0.01})}


def weights_after(
    dtype: str, backend: str, rule: type[optim.Optimizer], options: dict[str, float]
) -> dict[str, Array]:
    with xpcnn.use_backend(backend):
        model = network().to(backend=backend, dtype=dtype)
        trainer = Trainer(model, rule(model, lr=0.02, **options), seed=4)
        trainer.fit(data.synthetic_digits(16), batch_size=8, augment=parse("crop=2,hflip"), progress=None)
        model.to(dtype="float64")
        return {path: xpcnn.to_numpy(array) for path, array in model.state_dict().items()}


@pytest.mark.parametrize(("rule", "options"), [*RULES.values()], ids=[*RULES])
def test_two_steps(cuda: Implementation, rule: Any, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are changed on the host, and moved as bytes."""
    got = weights_after(cuda.dtype_name, cuda.backend, rule, options)
    cuda.ran("batch_norm_train", "batch_norm_gradients", "batch_norm_inference", "scaled_images")
    assert cuda.served & {"sgd_step", "adamw_step"}
    monkeypatch.setattr(xpcnn.backend_of(np.zeros(1)), "kernels", {})
    expected = weights_after("float64", "numpy", rule, options)
    for path, array in expected.items():
        np.testing.assert_allclose(got[path], array, rtol=0, atol=TOLERANCE[cuda.dtype_name], err_msg=path)
