"""Arrays of one backend, and the comparison of what came back with NumPy values.

"numpy-readonly" is NumPy with inputs that refuse to be written to, which turns any in-place write into an
error; "array_api_strict" refuses whatever is not in the array API standard.
"""

import functools
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

import xpcnn

BACKENDS = ("numpy", "numpy-readonly", "array_api_strict", "torch", "cupy")
DTYPES = ("float32", "float64")
TOLERANCE = {"float64": 1e-11, "float32": 1e-5}
"""Largest error allowed, relative to the largest expected value."""

HALVES = ("float16", "bfloat16")
LACKING = {"numpy": {"bfloat16"}, "array_api_strict": set(HALVES)}
"""The floating dtypes a library lacks: written down, so that no test skips what a backend has lost."""


def backend_name(name):
    """The xpcnn backend behind a name of BACKENDS."""
    return name.removesuffix("-readonly")


@functools.cache
def why_unusable(name):
    """None where the backend works here, else the reason."""
    return xpcnn.available_backends()[backend_name(name)]


@dataclass(frozen=True)
class Make:
    """Makes arrays of one backend, and checks what came back against NumPy values."""

    name: str

    @property
    def backend(self):
        """The name xpcnn knows: "numpy" for "numpy-readonly"."""
        return backend_name(self.name)

    @property
    def readonly(self):
        return self.name != self.backend

    @functools.cached_property
    def xp(self):
        """The array namespace."""
        return xpcnn.backend_of(self.array([0.0], "float32")).xp

    @functools.cached_property
    def device(self):
        """Where `array` puts things."""
        return self.array([0.0], "float32").device

    def use(self):
        """A block in which xpcnn creates its arrays on this backend."""
        return xpcnn.use_backend(self.backend)

    def has(self, name):
        """Whether this backend's library has a dtype."""
        return name not in LACKING.get(self.backend, ())

    def dtype(self, name):
        """The namespace's dtype of this name."""
        return getattr(self.xp, name)

    def array(self, values, dtype=None):
        """A new array of this backend; keeps the dtype and, where it can, the layout of a NumPy array."""
        host = np.array(values) if dtype == "bfloat16" else np.array(values, dtype=dtype)
        with self.use():
            array = xpcnn.asarray(host, dtype=dtype)
        if self.readonly:
            array.flags.writeable = False
        return array

    def to_numpy(self, array):
        """The values on the host; bfloat16, which NumPy does not have, as float32."""
        if str(array.dtype).endswith("bfloat16"):
            array = self.xp.astype(array, self.xp.float32)
        return xpcnn.to_numpy(array)

    def check_kind(self, y, shape, dtype):
        """Assert that y is an array of this backend and device, of exactly this shape and dtype."""
        assert xpcnn.backend_of(y).name == self.backend
        assert y.device == self.device
        assert tuple(y.shape) == tuple(shape)
        assert y.dtype == self.dtype(dtype)

    def check(self, y, expected, dtype, *, rtol=None, scale=None):
        """`check_kind`, then the values: errors are relative to `scale`, by default the largest expected.

        Infinities and NaNs must stand exactly where they are expected.
        """
        expected = np.asarray(expected, dtype=np.float64)
        self.check_kind(y, expected.shape, dtype)
        values = np.asarray(self.to_numpy(y), dtype=np.float64)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(values[~finite], expected[~finite])
        if not finite.any():
            return
        if scale is None:
            scale = float(np.abs(expected[finite]).max())
        allowed = (TOLERANCE[dtype] if rtol is None else rtol) * scale
        error = np.abs(values[finite] - expected[finite])
        worst = int(np.argmax(error))  # of NaNs too: argmax finds them first
        assert error[worst] <= allowed, (
            f"error {error[worst]:.3g} exceeds {allowed:.3g}: expected {expected[finite][worst]!r}, "
            f"got {values[finite][worst]!r} at {tuple(int(i) for i in np.argwhere(finite)[worst])}"
        )

    def snapshot(self, thing):
        """Copies of every array in a (nested) tuple, list or context, to compare later."""
        if isinstance(thing, tuple | list):
            return [self.snapshot(item) for item in thing]
        if hasattr(thing, "shape") and hasattr(thing, "dtype"):
            return np.array(self.to_numpy(thing))
        return thing

    @contextmanager
    def unchanged(self, *things):
        """A block that must not change any of these arrays or contexts."""
        before = self.snapshot(things)
        yield
        np.testing.assert_equal(self.snapshot(things), before)
