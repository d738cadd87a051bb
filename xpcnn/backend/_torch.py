"""PyTorch tensors, on any of its devices. Only tensors are used: no autograd, no modules."""

from __future__ import annotations

import functools
import importlib.util
import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.base import Backend, host_array, require_convertible
from xpcnn.backend.convolution import VendorConvolution
from xpcnn.backend.random import Key
from xpcnn.backend.windows import window_view
from xpcnn.errors import BackendError


def unavailable(device: Any = None) -> str | None:
    """Return why this backend cannot be used, or None."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed: pip install 'xpcnn[torch]'"
    return None


def parse_device(device: Any) -> Any:
    """Return the library's device for what the user named, checked by an allocation on it."""
    import torch

    try:
        # A tensor knows its full device ("cuda" becomes "cuda:0"), and shows that the device works.
        return torch.empty(0, device="cpu" if device is None else device).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise BackendError(f"backend torch cannot use the device {device!r}: {error}") from error


device_of = operator.attrgetter("device")

Pair = tuple[int, int]


def unfold(x: Any, kernel: Pair, stride: Pair, padding: Sequence[int], dilation: Pair) -> Array:
    """Return the patches of x (N, C, H, W) as the rows of a matrix (N·OH·OW, kh·kw·C): one strided copy."""
    top, bottom, left, right = padding
    n, c, h, w = x.shape
    images = x.permute(0, 2, 3, 1)
    if any(padding):
        frame = x.new_zeros(n, h + top + bottom, w + left + right, c)
        frame[:, top : top + h, left : left + w] = images
        images = frame
    images = images.contiguous().permute(0, 3, 1, 2)
    windows = images.as_strided(*window_view(images.shape, images.stride(), kernel, stride, dilation))
    oh, ow, kh, kw = windows.shape[2:]
    if c == 1:  # tap by tap, runs are rows of the output; the product takes the transpose as it is
        return windows.permute(4, 5, 1, 0, 2, 3).reshape(kh * kw, n * oh * ow).T
    return windows.permute(0, 2, 3, 4, 5, 1).reshape(n * oh * ow, kh * kw * c)


class TorchBackend(Backend):
    """PyTorch tensors on one device."""

    kernels = MappingProxyType({"unfold": unfold})

    def __init__(self, device: Any) -> None:
        import array_api_compat.torch as xp
        import torch

        self._torch = torch
        super().__init__("torch", xp, device)
        self.is_host = device.type == "cpu"
        if not self.is_host:
            self.default_workspace = 1 << 30
        if device.type == "cuda":
            self.switches = MappingProxyType({"tf32": False})

    @functools.cached_property
    def convolutions(self) -> Mapping[str, VendorConvolution]:  # type: ignore[override]
        from xpcnn.backend._torch_conv import TorchConvolution

        return MappingProxyType({"native": TorchConvolution()})

    @property
    def tf32(self) -> bool:
        if self.device.type != "cuda":
            return False
        return bool(self._torch.backends.cuda.matmul.allow_tf32 or self._torch.backends.cudnn.allow_tf32)

    @tf32.setter
    def tf32(self, value: bool) -> None:
        # PyTorch's switches are process-wide, and its own default is on for convolutions alone.
        self._torch.backends.cuda.matmul.allow_tf32 = value
        self._torch.backends.cudnn.allow_tf32 = value

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        if not isinstance(x, self._torch.Tensor):
            array = host_array(x, dtype)
            # torch can neither mark memory read-only nor step backwards through it.
            if not array.flags.writeable or any(step < 0 for step in array.strides):
                array = array.copy()
            x = self._torch.from_numpy(array) if array.ndim else self._torch.tensor(array[()])
        require_convertible(x, dtype)
        return x.detach().to(device=self.device, dtype=self.dtype(dtype))

    def to_numpy(self, x: Any) -> np.ndarray:
        x = x.detach().cpu()
        # NumPy has no bfloat16; float32 holds each of its values exactly.
        return np.asarray((x.float() if x.dtype == self._torch.bfloat16 else x).numpy())

    def device_info(self) -> dict[str, Any]:
        facts = super().device_info()
        if self.device.type != "cuda":
            return facts
        name = self._torch.cuda.get_device_name(self.device)
        return facts | {"device": name, "cuda runtime": self._torch.version.cuda}

    def synchronize(self) -> None:
        if self.device.type != "cpu":
            getattr(self._torch, self.device.type).synchronize(self.device)

    def copy(self, x: Any) -> Array:
        return x.detach().clone(memory_format=self._torch.contiguous_format)

    def is_fresh(self, x: Any, *inputs: Any) -> bool:
        place = x.untyped_storage().data_ptr()
        return place == 0 or all(one.untyped_storage().data_ptr() != place for one in inputs)

    def channels_last(self, x: Any) -> Array:
        return x.permute(0, 2, 3, 1).contiguous()

    def sliding_windows(
        self, x: Any, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
    ) -> Array:
        return x.as_strided(*window_view(x.shape, x.stride(), kernel, stride, dilation))

    def erfc(self, x: Any) -> Array:
        return self._torch.special.erfc(x)

    def uniform(self, key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        generator = self._torch.Generator(device=self.device).manual_seed(key.seed64)
        return self._torch.rand(shape, generator=generator, dtype=dtype, device=self.device)


create = TorchBackend
