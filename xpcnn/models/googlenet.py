"""GoogLeNet: Inception modules, which see each image at several scales side by side."""

from __future__ import annotations

from itertools import accumulate
from operator import or_
from typing import Any, NamedTuple

from xpcnn import nn, ops
from xpcnn.backend import Array, Key, backend_of, host_generator
from xpcnn.models._images import imagenet_images
from xpcnn.models.catalog import register_model
from xpcnn.nn import Gradients
from xpcnn.nn.receptive_field import ReceptiveField, Traced

__all__ = ["GoogLeNet", "GoogLeNetLogits", "googlenet", "googlenet_loss"]

# Filters of each module: 1×1; reduction and 3×3; reduction and second 3×3; 1×1 behind the pooling.
_INCEPTION = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
_WIDTH = 64
_AUX = {"aux1": "inception4a", "aux2": "inception4d"}
"""Each auxiliary head, and the module whose output it reads."""
_AUX_WEIGHT = 0.3


class GoogLeNetLogits(NamedTuple):
    """What GoogLeNet with auxiliary heads gives in training: three times logits (N, classes)."""

    aux1: Array
    aux2: Array
    logits: Array


@nn.registered("GoogLeNet")
class GoogLeNet(nn.Sequential):
    """A row of layers, from which two auxiliary heads branch off on the way.

    With ``train=True``, forward gives `GoogLeNetLogits`, and backward takes the three gradients in the same
    form. Otherwise the heads `aux1` and `aux2` are not run, and the output is the logits alone.
    """

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Any, Any]:
        if not train:
            return self._row().forward(x)
        outputs, contexts = [], []
        for part, head in self._parts():
            x, part_ctx = part.forward(x, train=True, key=key)
            y, head_ctx = head.forward(x, train=True, key=key)
            outputs.append(y)
            contexts.append((part_ctx, head_ctx))
        return GoogLeNetLogits(*outputs), tuple(contexts)

    def backward(self, ctx: Any, dy: Any, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        if grads is not None:
            grads.bind(self)
        if not isinstance(dy, GoogLeNetLogits):
            return self._row().backward(ctx, dy, grads, need_dx=need_dx)
        parts = self._parts()
        # Whether anybody wants the gradient in front of each part, and behind the last.
        asked = [*accumulate((part._takes_gradients() for part, _ in parts), or_, initial=need_dx)]
        dx = None
        for i, (part, head) in reversed(list(enumerate(parts))):
            part_ctx, head_ctx = ctx[i]
            dhead = head.backward(head_ctx, dy[i], grads, need_dx=asked[i + 1])
            if asked[i + 1]:
                dx = dhead if dx is None else dx + dhead
                dx = part.backward(part_ctx, dx, grads, need_dx=asked[i])
        return dx

    def __call__(self, x: Array) -> Array:
        return self._row()(x)

    def trace(self, x: Array, path: str = "", field: ReceptiveField | None = None) -> Traced:
        return self._row().trace(x, path, field)

    def _row(self) -> nn.Sequential:
        """Return the layers without the auxiliary heads."""
        return nn.Sequential({name: layer for name, layer in self.children().items() if name not in _AUX})

    def _parts(self) -> list[tuple[nn.Sequential, nn.Sequential]]:
        """Return the row in three parts, each with the head that reads its output."""
        parts, row = [], {}
        for name, layer in self._row().children().items():
            row[name] = layer
            if name in (*_AUX.values(), "inception5b"):
                parts.append(nn.Sequential(row))
                row = {}
        heads = [*(nn.Sequential({name: self[name]}) for name in _AUX), nn.Sequential(row)]
        return list(zip(parts, heads, strict=True))


def _loss(y: Any, target: Array) -> tuple[Array, Any]:
    """Return softmax cross-entropy; in training, with 0.3 times that of each auxiliary head added."""
    heads = y if isinstance(y, GoogLeNetLogits) else (y,)
    losses, contexts = zip(*(ops.softmax_cross_entropy(logits, target) for logits in heads), strict=True)
    total = losses[-1] + sum(_AUX_WEIGHT * loss for loss in losses[:-1])
    return backend_of(heads[-1]).xp.asarray(total), contexts


def _loss_grad(ctx: Any) -> Any:
    dlogits = ops.softmax_cross_entropy.backward(ctx[-1])
    if len(ctx) == 1:
        return dlogits
    daux1, daux2 = (ops.softmax_cross_entropy.backward(head, _AUX_WEIGHT) for head in ctx[:-1])
    return GoogLeNetLogits(daux1, daux2, dlogits)


googlenet_loss = (_loss, _loss_grad)
"""``Trainer(model, optimizer, loss=googlenet_loss)`` trains GoogLeNet with its auxiliary heads.

Softmax cross-entropy, to which each auxiliary head adds 0.3 times its own, as in the paper. Of a model in
evaluation, or without heads, it is softmax cross-entropy.
"""


@register_model("googlenet")
def googlenet(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    aux: bool = False,
    dropout: float = 0.2,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return GoogLeNet, ending in logits; parameters have torchvision's names, shapes and order.

    It differs from the paper as torchvision's does: batch normalisation (with ``eps=0.001``) follows each
    convolution, in place of local response normalisation; the modules' third branch has a 3×3 convolution
    where the paper has 5×5; the last layer has less dropout.

    Parameters
    ----------
    classes, in_channels : int
    small_images : bool
        For images of about 32×32: the first convolution is 3×3 with stride 1, and the two poolings before the
        first module are left out, so the modules work on 28×28 and 14×14 pixels, as they do for 224×224.
        Without it, 224×224 is the published size; anything from 15×15 will do.
    seed : int or NumPy generator
        What the initial weights are drawn from.
    aux : bool
        Whether to add the two auxiliary heads, which help to train the lower modules: the model is a
        `GoogLeNet` then, and ``loss=googlenet_loss`` makes a Trainer use its three outputs.
    dropout : float
        The fraction of the last layer's inputs that is dropped in training; it was 0.4 in the paper. The
        auxiliary heads drop 0.7.
    dtype : str

    Notes
    -----
    The file of weights that torchvision offers includes auxiliary heads, untrained ones (build with
    ``aux=True``, or load with ``strict=False``), and expects inputs ``(x − 0.5) / 0.5``: set mean and std of
    ``nn.preprocess_of(model)`` to 0.5.

    References
    ----------
    Szegedy et al., "Going deeper with convolutions", 2015.

    Examples
    --------
    >>> model = googlenet()
    >>> sum(p.data.size for p in model.parameters().values())
    6624904
    """
    options: dict[str, Any] = {"seed": host_generator(seed), "dtype": dtype}
    smallest, kernel, stride = (2, 3, 1) if small_images else (15, 7, 2)
    row: dict[str, nn.Layer] = {
        "": imagenet_images("googlenet", in_channels, smallest, small_images, dtype),
        "conv1": _conv_bn_relu(in_channels, _WIDTH, kernel, options, stride),
    }
    if not small_images:
        row["maxpool1"] = nn.MaxPool2d(3, 2, ceil_mode=True)
    row["conv2"] = _conv_bn_relu(_WIDTH, _WIDTH, 1, options)
    row["conv3"] = _conv_bn_relu(_WIDTH, 3 * _WIDTH, 3, options)
    if not small_images:
        row["maxpool2"] = nn.MaxPool2d(3, 2, ceil_mode=True)

    channels = 3 * _WIDTH
    outputs: dict[str, int] = {}
    for name, published_filters in _INCEPTION.items():
        if name == "inception4a":
            row["maxpool3"] = nn.MaxPool2d(3, 2, ceil_mode=True)
        elif name == "inception5a":
            row["maxpool4"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        filters = [number * _WIDTH // 64 for number in published_filters]
        row[name] = _inception(channels, filters, options)
        channels = outputs[name] = filters[0] + filters[2] + filters[4] + filters[5]

    # Drawn before the heads, which so do not change the rest of the model.
    fc = nn.Linear(channels, classes, **options)
    if aux:
        for name, module in _AUX.items():
            row[name] = _auxiliary_head(outputs[module], 2 * _WIDTH, classes, options)
    row["avgpool"] = nn.AdaptiveAvgPool2d(1)
    row["flatten"] = nn.Flatten()
    row["dropout"] = nn.Dropout(dropout)
    row["fc"] = fc
    return GoogLeNet(row) if aux else nn.Sequential(row)


def _conv_bn_relu(
    inputs: int, filters: int, kernel: int, options: dict[str, Any], stride: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        conv=nn.Conv2d(inputs, filters, kernel, stride, padding=kernel // 2, bias=False, **options),
        bn=nn.BatchNorm2d(filters, eps=0.001, dtype=options["dtype"]),
        relu=nn.ReLU(),
    )


def _inception(inputs: int, filters: list[int], options: dict[str, Any]) -> nn.Concat:
    """Return a module: four branches, of which two reduce the channels before they look around."""

    def conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
        return _conv_bn_relu(inputs, outputs, kernel, options)

    one, reduced3, three, reduced5, five, pooled = filters
    return nn.Concat(
        branch1=conv(inputs, one, 1),
        branch2=nn.Sequential(conv(inputs, reduced3, 1), conv(reduced3, three, 3)),
        branch3=nn.Sequential(conv(inputs, reduced5, 1), conv(reduced5, five, 3)),
        branch4=nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv(inputs, pooled, 1)),
    )


def _auxiliary_head(inputs: int, filters: int, classes: int, options: dict[str, Any]) -> nn.Sequential:
    return nn.Sequential(
        pool=nn.AdaptiveAvgPool2d(4),
        conv=_conv_bn_relu(inputs, filters, 1, options),
        flatten=nn.Flatten(),
        fc1=nn.Linear(16 * filters, 8 * filters, **options),
        relu=nn.ReLU(),
        dropout=nn.Dropout(0.7),
        fc2=nn.Linear(8 * filters, classes, **options),
    )
