"""xpcnn: convolutional networks written once against an array namespace.

The same source runs on NumPy, CuPy, PyTorch tensors or any array-API library:
``xpcnn.set_backend("cupy")``.
"""

from xpcnn import data, errors, models, nn, ops, optim
from xpcnn.backend import (
    Key,
    asarray,
    available_backends,
    backend_of,
    get_backend,
    namespace,
    set_backend,
    to_numpy,
    use_backend,
)
from xpcnn.nn import summary
from xpcnn.ops import conv_algorithm, get_workspace_limit, set_workspace_limit
from xpcnn.train import Trainer, load_model

__version__ = "0.1.0"

__all__ = [
    "Key",
    "Trainer",
    "__version__",
    "asarray",
    "available_backends",
    "backend_of",
    "conv_algorithm",
    "data",
    "errors",
    "get_backend",
    "get_workspace_limit",
    "load_model",
    "models",
    "namespace",
    "nn",
    "ops",
    "optim",
    "set_backend",
    "set_workspace_limit",
    "summary",
    "to_numpy",
    "use_backend",
]
