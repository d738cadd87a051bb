"""CUDA sources as text: one templated ``.cu`` file a family, and what its templates are instantiated for.

The same text goes to NVRTC (through CuPy), to nvcc and to a host's C++ compiler behind a shim.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from xpcnn.backend.arrays import itemsize

__all__ = ["STORAGE", "VECTOR_BYTES", "Family", "expressions", "first_argument", "full_width", "vectored"]

VECTOR_BYTES: Final = 16
"""What one instruction can move."""

STORAGE: Final = {"float16": "__half", "bfloat16": "__nv_bfloat16", "float32": "float", "float64": "double"}
"""The C++ type behind each dtype that kernels serve."""

_DIRECTORY: Final = Path(__file__).parent


class Family(NamedTuple):
    """The kernels of one source file.

    Attributes
    ----------
    name : str
        The file is ``<name>.cu``, next to this one.
    kernels : tuple of str
        Every instantiation there is, as C++ spells it: ``"unfold<float, 4, unsigned>"``.
    """

    name: str
    kernels: tuple[str, ...]

    def source(self) -> str:
        """Return the text of the family with the common header pasted in: it stands alone."""
        return stand_alone((_DIRECTORY / f"{self.name}.cu").read_text("utf-8"))


def stand_alone(text: str) -> str:
    """Return `text` with the common header in place of the line that includes it."""
    # Pasted: CuPy's cache of binaries knows the text it was given, not the files which that text names.
    return text.replace('#include "common.cuh"\n', (_DIRECTORY / "common.cuh").read_text("utf-8"))


def expressions(template: str, *choices: Iterable[object]) -> tuple[str, ...]:
    """Return the template's name with every combination of arguments.

    Examples
    --------
    >>> expressions("fill", ["float", "double"], [1, 4])
    ('fill<float, 1>', 'fill<float, 4>', 'fill<double, 1>', 'fill<double, 4>')
    """
    return tuple(f"{template}<{', '.join(map(str, chosen))}>" for chosen in itertools.product(*choices))


def vectored(template: str, *more: str) -> tuple[str, ...]:
    """Return a template's name for one element a thread, in 32 and in 64 bits, and for vectors in 32.

    Vectors are counted in 32 bits alone: 2³¹ of them are 32 GiB.
    """
    kinds = [
        (storage, width, *more, index)
        for dtype, storage in STORAGE.items()
        for width, index in ((1, "unsigned"), (1, "long long"), (full_width(dtype), "unsigned"))
    ]
    return tuple(f"{template}<{', '.join(map(str, kind))}>" for kind in kinds)


def full_width(dtype: Any) -> int:
    """Return how many elements one instruction can move."""
    return VECTOR_BYTES // itemsize(dtype)


def first_argument(kernel: str) -> str:
    """Return the first template argument of an instantiation: by custom, the type of the elements.

    Examples
    --------
    >>> first_argument("unfold<float, 4, unsigned>"), first_argument("add_rows<double>")
    ('float', 'double')
    """
    return kernel.partition("<")[2].rstrip(">").partition(",")[0]
