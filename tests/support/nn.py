"""What the layer tests share: drawn inputs, layers with drawn state, and running a pass."""

import re
from typing import Any, NamedTuple

import numpy as np

from xpcnn import nn

Array = np.ndarray[Any, Any]


def draw(*shape, dtype="float64", seed=0):
    """Normal numbers, a function of the shape and the seed alone."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def mentions(*parts):
    """A regular expression for messages that hold all of these, in any order."""
    return r"(?s)\A" + "".join(f"(?=.*{re.escape(part)})" for part in parts)


def drawn_state(layer, seed=1):
    """Random values for every parameter and buffer of a layer; variances and counters are positive."""
    state = {}
    for i, (path, old) in enumerate({**layer.parameters(), **layer.buffers()}.items()):
        if path.endswith("num_batches_tracked"):
            state[path] = np.asarray(7)
        else:
            state[path] = draw(*old.shape, seed=seed + i)
            if path.endswith("running_var"):
                state[path] = 0.5 + state[path] ** 2
    return state


def build(make, factory, dtype="float64"):
    """A layer on the backend of `make` whose whole state, biases included, is drawn."""
    with make.use():
        layer = factory().to(dtype=dtype)
    layer.load_state_dict(drawn_state(layer))
    return layer


class Pass(NamedTuple):
    """What a forward and a backward gave, as NumPy arrays; gradients by path."""

    y: Array
    dx: Array | None
    gradients: dict[str, Array]


def run_pass(make, layer, x, *, train=False, key=None):
    """Forward, and backward with a drawn dy."""
    y, ctx = layer.forward(x, train=train, key=key)
    grads = nn.Gradients()
    dtype = np.asarray(make.to_numpy(y)).dtype.name
    dx = layer.backward(ctx, make.array(draw(*y.shape, dtype=dtype, seed=9)), grads)
    gradients = {path: np.array(make.to_numpy(grads[path])) for path in layer.parameters() if path in grads}
    return Pass(np.array(make.to_numpy(y)), np.array(make.to_numpy(dx)), gradients)


def assert_same_bits(a, b):
    """Assert that two passes gave exactly the same."""
    np.testing.assert_array_equal(a.y, b.y)
    np.testing.assert_array_equal(a.dx, b.dx)
    assert list(a.gradients) == list(b.gradients)
    for path, gradient in a.gradients.items():
        np.testing.assert_array_equal(gradient, b.gradients[path], err_msg=path)
