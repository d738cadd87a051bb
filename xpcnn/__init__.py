"""xpcnn: convolutional networks written once against an array namespace.

The same source runs on NumPy, CuPy, PyTorch tensors or any array-API library:
``xpcnn.set_backend("cupy")``.
"""

from xpcnn import errors, nn, ops
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

__version__ = "0.1.0"

__all__ = [
    "Key",
    "__version__",
    "asarray",
    "available_backends",
    "backend_of",
    "conv_algorithm",
    "errors",
    "get_backend",
    "get_workspace_limit",
    "namespace",
    "nn",
    "ops",
    "set_backend",
    "set_workspace_limit",
    "summary",
    "to_numpy",
    "use_backend",
]
