"""What the optimiser tests share: the combinations of options, the textbook's formulas, gradients, steps."""

from typing import Any

import numpy as np

from tests.support.nn import mentions  # noqa: F401 - for the tests
from xpcnn import nn, optim

Case = tuple[type[optim.Optimizer], dict[str, Any]]
CASES = {
    "SGD": (optim.SGD, {"lr": 0.1}),
    "SGD momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "SGD decay": (optim.SGD, {"lr": 0.1, "weight_decay": 0.2}),
    "SGD all": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.2}),
    "AdaGrad": (optim.AdaGrad, {"lr": 0.1}),
    "AdaGrad all": (optim.AdaGrad, {"lr": 0.1, "eps": 0.01, "weight_decay": 0.2}),
    "RMSprop": (optim.RMSprop, {"lr": 0.1}),
    "RMSprop momentum": (optim.RMSprop, {"lr": 0.1, "momentum": 0.9}),
    "RMSprop all": (
        optim.RMSprop,
        {"lr": 0.1, "alpha": 0.9, "eps": 0.01, "momentum": 0.9, "weight_decay": 0.2},
    ),
    "Adam": (optim.Adam, {"lr": 0.1}),
    "Adam betas 0": (optim.Adam, {"lr": 0.1, "betas": (0.0, 0.0), "eps": 0.1}),
    "Adam all": (optim.Adam, {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.01, "weight_decay": 0.2}),
    "AdamW": (optim.AdamW, {"lr": 0.1}),
    "AdamW all": (optim.AdamW, {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.2}),
    "AdamW no decay": (optim.AdamW, {"lr": 0.1, "weight_decay": 0.0}),
}
"""Every optimiser with every option away from its default at least once."""
ONE_OF_EACH = ("SGD all", "AdaGrad", "RMSprop all", "Adam", "AdamW")

SHAPES = {"conv.weight": (2, 3, 2, 2), "conv.bias": (2,), "fc.weight": (4, 5)}

Array = np.ndarray[Any, Any]
Values = dict[str, Array]


def formula(kind, p, gradients, round_=np.asarray, **options):
    """The formulas of the docstrings in float64: `p` after each step, which alone is rounded."""
    lr, decay = options["lr"], options.get("weight_decay", 0.01 if kind is optim.AdamW else 0.0)
    momentum, nesterov = options.get("momentum", 0.0), options.get("nesterov", False)
    eps = options.get("eps", 1e-10 if kind is optim.AdaGrad else 1e-8)
    first, second, velocity = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(map(np.float64, gradients), start=1):
        if kind is optim.AdamW:
            p = p - lr * decay * p
        else:
            g = g + decay * p
        if kind is optim.SGD:
            velocity = momentum * velocity + g
            p = p - lr * (g + momentum * velocity if nesterov else velocity)
        elif kind is optim.AdaGrad:
            second = second + g * g
            p = p - lr * g / (np.sqrt(second) + eps)
        elif kind is optim.RMSprop:
            alpha = options.get("alpha", 0.99)
            second = alpha * second + (1 - alpha) * g * g
            velocity = momentum * velocity + g / (np.sqrt(second) + eps)
            p = p - lr * velocity
        else:
            beta1, beta2 = options.get("betas", (0.9, 0.999))
            first = beta1 * first + (1 - beta1) * g
            second = beta2 * second + (1 - beta2) * g * g
            root = np.sqrt(second / (1 - beta2**t))
            p = p - lr * first / (1 - beta1**t) / (root + eps)
        p = round_(p)
        yield p


def draw(seed):
    """Normal numbers for each of SHAPES, from float32; the first of each is 0, as for a dead weight."""
    values = {}
    for number, (path, shape) in enumerate(SHAPES.items()):
        normal = np.random.default_rng([seed, number]).standard_normal(shape).astype(np.float32)
        normal.flat[0] = 0
        values[path] = normal
    return values


def make_parameters(make, dtype, seed=0):
    """Parameters of SHAPES on the backend of `make`, whose arrays refuse writing where it can make such."""
    with make.use():
        return {path: nn.Parameter(make.array(values, dtype)) for path, values in draw(seed).items()}


def store(parameters, values):
    """A store with these gradients, by path."""
    grads = nn.Gradients()
    for path, gradient in values.items():
        grads.add(parameters[path], gradient)
    return grads


def step(make, optimizer, parameters, values):
    """One step with these gradients, in the dtype of each parameter, for those parameters that are named."""
    dtypes = {path: str(parameters[path].dtype).rpartition(".")[-1] for path in values}
    given = {path: make.array(gradient, dtypes[path]) for path, gradient in values.items()}
    with make.unchanged(*given.values()):
        optimizer.step(store(parameters, given))
