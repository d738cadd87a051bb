"""What a backend is: one array library on one device, and the few primitives the ops lean on.

Every primitive has a portable definition here, in array-API calls alone. A backend overrides
one when its library can do better (a strided view instead of a gather); the version here
stays the definition the override is tested against.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from xpcnn.backend.arrays import DTYPES, Array, Namespace, array_dtype_name, dtype_name
from xpcnn.backend.erfc import erfc
from xpcnn.backend.random import Key
from xpcnn.backend.registry import is_array, native, to_numpy
from xpcnn.backend.windows import window_count
from xpcnn.errors import BackendError, DtypeError

if TYPE_CHECKING:
    from xpcnn.backend.convolution import VendorConvolution

__all__ = ["Backend"]

MIB = 1 << 20


class Backend:
    """An array library on one of its devices.

    Attributes
    ----------
    name : str
        The name `set_backend` takes.
    xp : namespace
        The library's functions, as the array API standard spells them.
    device : object
        The library's own device object.
    is_host : bool
        True where looking at a value does not wait for a device.
    default_workspace : int
        Bytes of scratch memory a convolution may use unless told otherwise.
    cache_block_bytes : int or None
        Bytes of scratch memory that stay in a cache: convolutions work through a batch in pieces of about
        that. None where pieces gain nothing.
    kernels : mapping of str to callable
        What replaces functions marked as `primitive` on arrays of this backend, by their names.
    convolutions : mapping of str to VendorConvolution
        Convolutions that come with the library, by the names of the algorithms that run them.
    switches : mapping of str to bool
        The options `set_backend` takes for this backend, with their defaults; each is an attribute.
    tf32 : bool
        Whether float32 numbers may be rounded to TF32 (10 bits of mantissa) before they are multiplied.
    """

    is_host: bool = True
    default_workspace: int = 64 * MIB
    cache_block_bytes: int | None = None
    kernels: Mapping[str, Callable[..., Any]] = MappingProxyType({})
    convolutions: Mapping[str, VendorConvolution] = MappingProxyType({})
    switches: Mapping[str, bool] = MappingProxyType({})
    tf32: bool = False

    def __init__(self, name: str, xp: Namespace, device: Any) -> None:
        self.name = name
        self.xp = xp
        self.device = device

    def __repr__(self) -> str:
        return f"<backend {', '.join([str(self), *map('{0[0]}={0[1]}'.format, self.settings().items())])}>"

    def __str__(self) -> str:
        return f"{self.name} ({self.device})"

    # -- crossing to and from the host ------------------------------------------------

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """Return `x` as an array of this backend, keeping its dtype unless one is given."""
        return self.xp.asarray(host_array(x, dtype), dtype=self.dtype(dtype), device=self.device)

    def to_numpy(self, x: Array) -> np.ndarray:
        """Return `x` as a NumPy array on the host."""
        return np.asarray(x)

    def dtype(self, dtype: Any) -> Any:
        """Return this library's dtype for a name, a NumPy dtype or a dtype of its own."""
        if dtype is None:
            return None
        name = dtype_name(dtype)
        found = getattr(self.xp, name, None) if name in DTYPES else None
        if found is None:
            raise BackendError(f"backend {self.name} has no dtype {name!r}")
        return found

    def copy(self, x: Array) -> Array:
        """Return a C-contiguous copy that shares no memory with `x`."""
        return self.xp.asarray(x, copy=True)

    def synchronize(self) -> None:
        """Wait until the device has finished what was asked of it."""

    def check_current(self) -> None:
        """Raise `BackendError` where another device is the current one of the calling thread."""

    def activate(self) -> None:
        """Make this device the calling thread's current one, where libraries have such a thing."""

    def activated(self) -> AbstractContextManager[object]:
        """Return a context in which this device is the calling thread's current one."""
        return nullcontext()

    def device_info(self) -> dict[str, Any]:
        """Return what a measurement should say: the device, its CUDA versions, whether float32 becomes TF32.

        Examples
        --------
        >>> import xpcnn
        >>> with xpcnn.use_backend("numpy") as backend:
        ...     backend.device_info()
        {'device': 'cpu', 'tf32': False}
        """
        return {"device": str(self.device), "tf32": self.tf32}

    def settings(self) -> dict[str, bool]:
        """Return every switch as it stands."""
        return {name: getattr(self, name) for name in self.switches}

    def configure(self, settings: Mapping[str, bool]) -> None:
        """Set switches, or raise `BackendError` and leave them all as they were."""
        for name, value in settings.items():
            if name not in self.switches:
                known = f"its options: {', '.join(self.switches)}" if self.switches else "it has none"
                raise BackendError(f"backend {self} has no option {name!r}; {known}")
            if not isinstance(value, bool):
                raise BackendError(f"backend {self}: option {name} must be True or False, got {value!r}")
        for name, value in settings.items():
            setattr(self, name, value)

    def execution_context(self) -> AbstractContextManager[object]:
        """Return the context in which a model is trained, evaluated or asked."""
        return self.activated()

    def release_memory(self) -> None:
        """Give back to the system or the device what is kept for later."""

    def parallel_map(
        self, function: Callable[[Any], Any], items: Iterable[Any], max_workers: int | None = None
    ) -> Iterator[Any]:
        """Yield ``function(item)`` for each item, in order; where the host computes, on several threads."""
        return map(function, items)

    def parallel_for(
        self, function: Callable[[Any], Any], items: Iterable[Any], max_workers: int | None = None
    ) -> None:
        """Call ``function(item)`` for each item likewise, where there are no results."""
        for item in items:
            function(item)

    def ascontiguous(self, x: Array) -> Array:
        """Return `x` in C order, where other orders cost time later."""
        return x

    def is_fresh(self, x: Array, *inputs: Array) -> bool:
        """Return whether writing to `x` is possible and leaves `inputs` as they are, as far as is known."""
        return all(x is not one for one in inputs)

    # -- primitives -------------------------------------------------------------------

    def channels_last(self, x: Array) -> Array:
        """Return `x` (N, C, H, W) as (N, H, W, C), in that memory order where there is one."""
        return self.xp.permute_dims(x, (0, 2, 3, 1))

    def sliding_windows(
        self, x: Array, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
    ) -> Array:
        """Return every kernel-sized window of `x`: (N, C, H, W) -> (N, C, OH, OW, kh, kw).

        A read-only view where the library has strides, gathered elsewhere.
        """
        xp, shape = self.xp, [*x.shape[:2]]
        for axis, (taps, step, reach) in enumerate(zip(kernel, stride, dilation, strict=True), 2):
            count = window_count(x.shape[axis], taps, step, reach)
            starts = xp.arange(count, device=self.device)[:, None] * step
            places = starts + xp.arange(taps, device=self.device)[None, :] * reach
            x = xp.take(x, xp.reshape(places, (-1,)), axis=axis)
            shape += [count, taps]
        return xp.permute_dims(xp.reshape(x, tuple(shape)), (0, 1, 2, 4, 3, 5))

    def masked(self, mask: Array, x: Array) -> Array:
        """Return `x` where `mask` is true, and 0 elsewhere, whatever stands there (NaN included)."""
        return self.xp.where(mask, x, self.xp.zeros((), dtype=x.dtype, device=self.device))

    def has_finite_sums(self, arrays: Iterable[Array]) -> bool:
        """Return whether the sum of each array is finite; it is not where an element is not, or overflows.

        It reads a number for each array.
        """
        return all(math.isfinite(float(self.xp.sum(array))) for array in arrays)

    def erfc(self, x: Array) -> Array:
        """Return the complementary error function ``1 − erf(x)`` of float32 or float64 numbers."""
        return erfc(self, x)

    def uniform(self, key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return numbers drawn evenly from [0, 1), a function of `key` alone."""
        return self.asarray(host_uniform(key, shape, dtype), dtype)

    def one_hot(self, labels: Array, classes: int, dtype: Any) -> Array:
        """Return `labels` (N,) as rows (N, classes) with a single 1."""
        xp = self.xp
        columns = xp.arange(classes, dtype=xp.int64, device=self.device)
        return xp.astype(xp.astype(labels, xp.int64)[:, None] == columns, dtype)


# Steps in [0, 1) that each dtype holds; rounded to fewer bits, the last ones would become 1.
UNIFORM_STEPS = {"float16": 1 << 11, "bfloat16": 1 << 8}


def host_uniform(key: Key, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return float32 numbers drawn evenly from [0, 1), which stay below 1 when rounded to `dtype`."""
    drawn: np.ndarray = key.generator().random(shape, dtype=np.float32)
    steps = UNIFORM_STEPS.get(dtype_name(dtype))
    return drawn if steps is None else np.floor(drawn * steps) / steps


def host_array(x: Any, dtype: Any = None) -> np.ndarray:
    """Return anything array-like as a NumPy array of native byte order, fetched from its own device.

    Its dtype is kept; `dtype` is what the caller will convert it to.

    Raises
    ------
    DtypeError
        For what holds no numbers: text, None, other objects, dates, records. For complex numbers where
        `dtype` is not complex.
    """
    if isinstance(x, np.ndarray):
        array: np.ndarray = native(x)
    elif is_array(x):
        array = to_numpy(x)
    else:
        try:
            array = np.asarray(x)
        except (ValueError, TypeError) as error:
            raise DtypeError(f"no array can be made of this {type(x).__name__}: {error}") from None
    # Extension types such as bfloat16 are of kind V, as records are.
    if array.dtype.kind not in "biufc" and (array.dtype.kind != "V" or array.dtype.type is np.void):
        what = f"of dtype {array.dtype.name}" if is_array(x) else reprlib.repr(x)
        raise DtypeError(f"expected numbers, got {type(x).__name__} {what}")
    require_convertible(array, dtype)
    return array


def require_convertible(x: Array, dtype: Any) -> None:
    """Refuse to make real numbers of complex ones: the imaginary parts would be lost."""
    found, wanted = array_dtype_name(x.dtype), "" if dtype is None else dtype_name(dtype)
    if found.startswith("complex") and wanted and not wanted.startswith("complex"):
        raise DtypeError(f"{found} cannot become {wanted} without losing its imaginary parts; give x.real")


def device_of(x: Any) -> tuple[Namespace, Any]:
    """Return the namespace and device of an array of a library that is known by the standard alone."""
    return x.__array_namespace__(), x.device


def create(place: tuple[Any, Any]) -> Backend:
    """Return a backend for such arrays, through the standard alone."""
    xp, device = place
    return Backend(xp.__name__.partition(".")[0], xp, device)
