"""What the model tests share: narrow versions of every network, drawn inputs and drawn weights."""

import importlib
import math
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest

from xpcnn import models, nn, to_numpy

Array = np.ndarray[Any, Any]

ALL = models.model_names()
FAMILIES = (
    "simple_convnet",
    "tiny_convnet",
    "deep_convnet",
    "lenet5",
    "alexnet",
    "vgg11",
    "vgg11_bn",
    "googlenet",
    "resnet18",
    "resnet50",
    "resnet20",
)
"""One of each kind, where testing all of them would only take longer."""

SLOW = ("googlenet", "resnet50")
"""Of them, those whose tests take seconds."""

OF_ONE_SIZE = ("simple_convnet", "tiny_convnet")
"""Those that are built for images of one size, and take it as an argument."""

WIDTHS = {"alexnet": 1, "vgg": 2, "googlenet": 4, "resnet": 2}
"""Of the narrow versions; the published ones have 64."""


def parametrize(names, cases):
    """Parametrise a test over cases by name, of which the first entry is a model's name; some are slow."""
    rows = [
        pytest.param(*case, id=name, marks=[pytest.mark.slow] if case[0] in SLOW else [])
        for name, case in cases.items()
    ]
    return pytest.mark.parametrize(names.split(), rows)


@contextmanager
def narrow(width=None):
    """A block in which the networks for large images are built with a few filters only."""
    with ExitStack() as stack:
        for name, own in WIDTHS.items():
            module = importlib.import_module(f"xpcnn.models.{name}")
            stack.enter_context(mock.patch.object(module, "_WIDTH", width or own))
        yield


def tiny(name: str, **options: Any) -> nn.Sequential:
    """A network for `tiny_shape` images, small enough for finite differences, with weights of normal size."""
    if name in OF_ONE_SIZE:
        options = {"input_shape": (2, 9, 8), "filters": 3, "classes": 4, **options}
        if name == "simple_convnet":
            options = {"filter_size": 3, "hidden": 5, "weight_std": "he", **options}
    else:
        options = {"classes": 4, "in_channels": 2, "small_images": True, **options}
    with narrow():
        model = models.build(name, **{"dtype": "float64", **options})
    assert isinstance(model, nn.Sequential)
    return model


def tiny_shape(name):
    """The images that `tiny` takes: as small as leaves more than one pixel to the last batch-norm."""
    if name in OF_ONE_SIZE:
        return (2, 9, 8)
    if name.startswith("vgg"):
        return (2, 32, 32)
    return (2, 28, 28) if name == "deep_convnet" else (2, 16, 16)


def count(model):
    """How many numbers are trained."""
    return sum(math.prod(parameter.shape) for parameter in model.parameters().values())


def images(*shape, seed=0, dtype="float64"):
    """Pixels from −1 to 1."""
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(dtype)


def drawn_state(model, seed=1):
    """The model's state, with drawn values for the zeros and ones that biases and batch-norms start at.

    Weights of more than one axis stay: drawn at any other scale, they would blow up a deep network.
    """
    rng = np.random.default_rng(seed)
    state = {path: to_numpy(array) for path, array in model.state_dict().items()}
    for path, old in state.items():
        if path.endswith(("num_batches_tracked", "connections")) or old.ndim > 1:
            continue
        positive = path.endswith(("weight", "running_var"))
        drawn = rng.uniform(0.5, 1.5, old.shape) if positive else rng.normal(0, 0.1, old.shape)
        state[path] = drawn.astype(old.dtype)
    return state
