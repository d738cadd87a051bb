"""Where arrays live: the only rooms that name CuPy, torch or array_api_compat.

Creation asks the setting (`get_backend`), computation asks the arrays (`backend_of`, `namespace`).
"""

from xpcnn.backend.arrays import FLOATS, Array, Namespace, array_dtype_name, dtype_name, is_floating, itemsize
from xpcnn.backend.base import Backend
from xpcnn.backend.current import (
    asarray,
    backend_of,
    get_backend,
    matmul,
    namespace,
    primitive,
    release_memory,
    set_backend,
    use_backend,
)
from xpcnn.backend.random import Key, host_generator
from xpcnn.backend.registry import available_backends, backend_names, home_of, is_array, native, to_numpy
from xpcnn.backend.threads import get_num_threads, set_num_threads

__all__ = [
    "FLOATS",
    "Array",
    "Backend",
    "Key",
    "Namespace",
    "array_dtype_name",
    "asarray",
    "available_backends",
    "backend_names",
    "backend_of",
    "dtype_name",
    "get_backend",
    "get_num_threads",
    "home_of",
    "host_generator",
    "is_array",
    "is_floating",
    "itemsize",
    "matmul",
    "namespace",
    "native",
    "primitive",
    "release_memory",
    "set_backend",
    "set_num_threads",
    "to_numpy",
    "use_backend",
]
