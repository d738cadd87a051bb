"""PyTorch's own convolution, layers and networks, to be timed beside xpcnn's.

Host arrays come in, and calls go out that wait for their device.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xpcnn import nn
from xpcnn.models.resnet import ZeroChannels

__all__ = ["LAYOUTS", "Spec", "TorchReference", "spec_of", "torch_is_installed"]

LAYOUTS = ("NCHW", "channels-last")
Spec = tuple[str, Mapping[str, Any]]
"""A layer as its kind and what PyTorch's constructor takes; containers hold the specs of what is in them."""


def torch_is_installed() -> bool:
    """Return whether PyTorch can be imported, without importing it."""
    return importlib.util.find_spec("torch") is not None


class TorchReference:
    """PyTorch on one device, with so many threads.

    Parameters
    ----------
    device : str
        ``"cpu"`` or such as ``"cuda:0"``.
    threads : int
        Of the whole process, on a CPU.
    tf32 : bool
        Whether float32 products may be rounded to TF32 on a GPU, convolutions included.
    """

    def __init__(self, device: str = "cpu", threads: int = 1, tf32: bool = False) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True  # at its best

    def tensor(self, array: np.ndarray, layout: str = "NCHW") -> Any:
        """Return a host array as a tensor of the device, in the memory order of `layout`."""
        tensor = self._torch.tensor(array, device=self._device)
        if tensor.ndim == 4 and layout == "channels-last":
            tensor = tensor.contiguous(memory_format=self._torch.channels_last)
        return tensor

    def host(self, tensor: Any) -> np.ndarray:
        """Return a tensor as a host array."""
        array: np.ndarray = tensor.detach().cpu().numpy()
        return array

    def synchronize(self) -> None:
        """Wait until the device is done."""
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)

    def convolution(
        self,
        arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
        layout: str,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> dict[str, Callable[[], Any]]:
        """Return the three passes over (x, weight, dy), each as a call that waits and returns a tensor."""
        x, weight, dy = (self.tensor(array, layout) for array in arrays)
        options = (stride, padding, dilation)

        def backward(*wanted: bool) -> Any:
            return self._torch.ops.aten.convolution_backward(
                dy, x, weight, None, *options, False, (0, 0), groups, wanted
            )

        return {
            "forward": self._waited(
                lambda: self._torch.nn.functional.conv2d(x, weight, None, *options, groups)
            ),
            "grad_input": self._waited(lambda: backward(True, False, False)[0]),
            "grad_weight": self._waited(lambda: backward(False, True, False)[1]),
        }

    def layer(
        self, op: str, x: np.ndarray, dy: np.ndarray, layout: str, options: Mapping[str, Any]
    ) -> dict[str, Callable[[], Any]]:
        """Return an op of ``torch.nn.functional`` forward, and backward to its input, as `convolution` does.

        Options that are host arrays become tensors, and backward computes their gradients too.
        """
        torch = self._torch
        function = getattr(torch.nn.functional, op)
        taken = {
            name: self.tensor(value).requires_grad_() if isinstance(value, np.ndarray) else value
            for name, value in options.items()
        }
        parameters = [value for value in taken.values() if isinstance(value, torch.Tensor)]
        fixed = {
            name: value.detach() if isinstance(value, torch.Tensor) else value
            for name, value in taken.items()
        }
        followed = self.tensor(x, layout).requires_grad_()
        gradient = self.tensor(dy, layout)
        plain = followed.detach()
        y = function(followed, **taken)
        inputs = (followed, *parameters)
        return {
            "forward": self._waited(lambda: function(plain, **fixed)),
            "backward": self._waited(lambda: torch.autograd.grad(y, inputs, gradient, retain_graph=True)[0]),
        }

    def network(
        self,
        spec: Spec,
        state: Sequence[np.ndarray],
        images: np.ndarray,
        labels: np.ndarray,
        layout: str,
        optimizer: str = "Adam",
        **options: Any,
    ) -> dict[str, Callable[[], Any]]:
        """Return a training step (its loss) and inference (its logits) of the network of `spec`.

        Parameters
        ----------
        spec : Spec
        state : sequence of ndarray
            The initial parameters and buffers, in PyTorch's order.
        images, labels : ndarray
        layout : one of LAYOUTS
        optimizer : str
            With its options; by default Adam's are a learning rate of 0.001.
        """
        torch = self._torch
        x, t = self.tensor(images, layout), self.tensor(labels)
        memory = torch.channels_last if layout == "channels-last" else torch.contiguous_format
        network = _build(spec).to(device=self._device, dtype=x.dtype, memory_format=memory)
        for target, value in zip(network.state_dict().values(), state, strict=True):
            target.copy_(torch.tensor(value))
        # Fused: the fastest of PyTorch's, on both devices.
        optim = getattr(torch.optim, optimizer)(network.parameters(), **options or {"lr": 1e-3}, fused=True)
        criterion = torch.nn.CrossEntropyLoss()

        def train() -> Any:
            network.train()
            optim.zero_grad()
            loss = criterion(network(x), t)
            loss.backward()
            optim.step()
            return loss.detach()

        def infer() -> Any:
            network.eval()
            with torch.no_grad():
                return network(x)

        return {"train": self._waited(train), "inference": self._waited(infer)}

    def _waited(self, call: Callable[[], Any]) -> Callable[[], Any]:
        def waited() -> Any:
            result = call()
            self.synchronize()
            return result

        return waited


def spec_of(layer: nn.Layer) -> Spec:
    """Return an xpcnn layer as PyTorch's name for its kind and what PyTorch's constructor takes.

    Examples
    --------
    >>> spec_of(nn.Linear(2, 3))
    ('Linear', {'in_features': 2, 'out_features': 3, 'bias': True})
    """
    children = list(layer.children().values())
    options: dict[str, Any] = {}
    match layer:
        case nn.Sequential():
            options = {"layers": [spec_of(child) for child in children]}
        case nn.Residual():
            options = {
                "body": spec_of(children[0]),
                "shortcut": spec_of(children[1]) if children[1:] else None,
            }
        case nn.Conv2d():
            outputs, channels, *kernel = layer.weight.data.shape
            options = {"in_channels": channels * layer.groups, "out_channels": outputs}
            options |= {"kernel_size": tuple(kernel), "bias": layer.bias is not None}
            options |= {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
        case nn.Linear():
            outputs, inputs = layer.weight.data.shape
            options = {"in_features": inputs, "out_features": outputs, "bias": layer.bias is not None}
        case nn.BatchNorm2d():
            features = layer.running_mean.data.shape[0]
            options = {"num_features": features, "eps": layer.eps, "momentum": layer.momentum}
        case nn.MaxPool2d(kernel_size=(1, 1), stride=(height, width)):
            return "Subsample", {"height": height, "width": width}
        case ZeroChannels():
            return "ZeroPad3d", {"padding": (0, 0, 0, 0, 0, layer.extra)}  # of channels, height and width
        case nn.MaxPool2d():
            options = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding")}
        case nn.AdaptiveAvgPool2d():
            options = {"output_size": layer.output_size}
        case nn.Dropout():
            options = {"p": layer.p}
        case nn.ReLU() | nn.Flatten() | nn.Identity():
            pass
        case nn.Preprocess():
            return "Identity", {}  # it leaves floating images as they are
        case _:
            raise NotImplementedError(f"spec_of: {type(layer).__name__} has no case yet")
    return type(layer).__name__, options


def _build(spec: Spec) -> Any:
    """Return the module of a spec."""
    from torch import nn

    kind, options = spec
    if kind == "Sequential":
        return nn.Sequential(*(_build(child) for child in options["layers"]))
    if kind == "Subsample":
        return _subsample(**options)
    if kind == "Residual":
        return _residual(_build(options["body"]), options["shortcut"])
    return getattr(nn, kind)(**options)


def _subsample(height: int, width: int) -> Any:
    from torch import nn

    class Subsample(nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x[:, :, ::height, ::width]

    return Subsample()


def _residual(body: Any, shortcut: Spec | None) -> Any:
    from torch import nn

    class Residual(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.shortcut = None if shortcut is None else _build(shortcut)

        def forward(self, x: Any) -> Any:
            return self.body(x) + (x if self.shortcut is None else self.shortcut(x))

    return Residual()
