"""xpcnn: convolutional networks written once against an array namespace.

The same source runs on NumPy, CuPy, PyTorch tensors or any array-API library:
``xpcnn.set_backend("cupy")``.
"""

from typing import TYPE_CHECKING

from xpcnn import errors
from xpcnn.backend import (
    Key,
    asarray,
    available_backends,
    backend_of,
    get_backend,
    get_num_threads,
    namespace,
    release_memory,
    set_backend,
    set_num_threads,
    to_numpy,
    use_backend,
)
from xpcnn.lazy import lazily

if TYPE_CHECKING:
    from xpcnn import data, models, nn, ops, optim
    from xpcnn.nn.summary import summary
    from xpcnn.ops import autotune, conv_algorithm, get_workspace_limit, reference, set_workspace_limit
    from xpcnn.train import Trainer, load_model

__version__ = "0.1.0"
__getattr__ = lazily(
    __name__,
    {
        "xpcnn": "data models nn ops optim",
        "xpcnn.nn": "summary",
        "xpcnn.ops": "autotune conv_algorithm get_workspace_limit reference set_workspace_limit",
        "xpcnn.train": "Trainer load_model",
    },
)

__all__ = [
    "Key",
    "Trainer",
    "__version__",
    "asarray",
    "autotune",
    "available_backends",
    "backend_of",
    "conv_algorithm",
    "data",
    "errors",
    "get_backend",
    "get_num_threads",
    "get_workspace_limit",
    "load_model",
    "models",
    "namespace",
    "nn",
    "ops",
    "optim",
    "reference",
    "release_memory",
    "set_backend",
    "set_num_threads",
    "set_workspace_limit",
    "summary",
    "to_numpy",
    "use_backend",
]


def __dir__() -> list[str]:
    return __all__
