"""Folding batch-norms into the layers before them: fewer passes over memory at inference."""

from __future__ import annotations

import copy
from typing import Any

from xpcnn.backend import Array, backend_of
from xpcnn.errors import ArgumentError
from xpcnn.nn.containers import Sequential
from xpcnn.nn.conv import Conv2d, ConvTranspose2d
from xpcnn.nn.layer import Layer
from xpcnn.nn.norm import BatchNorm2d
from xpcnn.nn.parameter import Parameter
from xpcnn.nn.tree import walk
from xpcnn.ops.op import upcast

__all__ = ["fuse"]


def fuse(model: Layer) -> Layer:
    """Return a copy of a model for inference, its batch-norms folded into the layers before them.

    With running statistics a batch-norm is one factor and one summand for each channel, which a `Conv2d` or
    `ConvTranspose2d` before a `BatchNorm2d` can have in its weight and bias. The batch-norm is then left
    out: a ReLU behind it follows the convolution directly.

    Parameters
    ----------
    model : Layer
        Left as it is. Pairs are found in each `Sequential` of it, however deep; of exactly these types, as
        a subclass may do something else. All other layers are copied as they are.

    Returns
    -------
    Layer
        Outputs of ``fused(x)`` are those of ``model(x)`` but for rounding: within 1e-5 of their largest in
        float32. The other parameters keep their paths. Where nothing can be folded, just a copy.

    Raises
    ------
    ArgumentError
        When `model` is no layer.

    Notes
    -----
    It can be trained, but not as the original: there are no batch statistics any more, neither taken nor
    tracked. Train the original, and fuse it again.

    Its file holds its structure, batch-norms folded: `load_model` reads it back.

    References
    ----------
    Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", 2018, section 3.2. PyTorch's ``torch.nn.utils.fusion.fuse_conv_bn_eval`` computes the same.

    Examples
    --------
    >>> from xpcnn import nn
    >>> model = nn.Sequential(conv=nn.Conv2d(1, 4, 3, bias=False), bn=nn.BatchNorm2d(4), relu=nn.ReLU())
    >>> nn.fuse(model)
    Sequential(
      (conv): Conv2d(1, 4, (3, 3))
      (relu): ReLU()
    )
    """
    if not isinstance(model, Layer):
        raise ArgumentError(f"fuse: model must be a Layer, got {type(model).__name__}")
    fused = copy.deepcopy(model)
    for _, layer in walk(fused):
        kind = type(layer)
        # A row whose subclass runs it in another way stays as it is.
        if kind.forward is Sequential.forward and kind.__call__ is Sequential.__call__:
            _fold_row(layer)
    return fused


def _fold_row(row: Any) -> None:
    before: str = ""
    conv: Any = None
    for name, layer in list(row._layers.items()):
        foldable = type(layer) is BatchNorm2d and type(conv) in (Conv2d, ConvTranspose2d)
        if foldable and conv.out_channels == layer.num_features:
            # A new layer: the old one may stand elsewhere too, without this batch-norm.
            row[before] = conv = _folded(conv, layer)
            del row._layers[name]
        else:
            before, conv = name, layer


def _folded(layer: Any, norm: Any) -> Any:
    """Return a layer that gives what `layer` and the batch-norm `norm` give one after the other."""
    weight = layer.weight.data
    backend = backend_of(weight)
    xp = backend.xp

    scale = 1 / xp.sqrt(upcast(backend, norm.running_var.data) + norm.eps)
    if norm.weight is not None:
        scale = scale * upcast(backend, norm.weight.data)
    shift = -upcast(backend, norm.running_mean.data)
    if layer.bias is not None:
        shift = shift + upcast(backend, layer.bias.data)
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + upcast(backend, norm.bias.data)

    if isinstance(layer, ConvTranspose2d):
        c, k, *kernel = weight.shape  # so many outputs of each group
        by_group = xp.reshape(upcast(backend, weight), (layer.groups, c // layer.groups, k, *kernel))
        scaled = xp.reshape(by_group * xp.reshape(scale, (layer.groups, 1, k, 1, 1)), weight.shape)
    else:
        scaled = upcast(backend, weight) * xp.reshape(scale, (-1,) + (1,) * (weight.ndim - 1))
    folded: Any = copy.copy(layer)
    folded.weight = _like(layer.weight, scaled)
    folded.bias = _like(layer.weight if layer.bias is None else layer.bias, shift)
    return folded


def _like(parameter: Parameter, data: Array) -> Parameter:
    """Return another parameter with `data`, in the dtype of this one and frozen if it is."""
    other = copy.copy(parameter)
    other.data = backend_of(data).xp.astype(data, parameter.dtype, copy=False)
    return other
