"""LeNet-5: the network that read the digits on cheques."""

from __future__ import annotations

from typing import Any

from xpcnn import nn, ops
from xpcnn.backend import Array, Key, backend_of, host_generator, to_numpy
from xpcnn.errors import ArgumentError
from xpcnn.models._images import Images
from xpcnn.models.catalog import register_model
from xpcnn.nn import Gradients
from xpcnn.ops.op import in_words

__all__ = ["PartialConv2d", "ScaledTanh", "lenet5"]

# Which of the six maps each filter of C3 sees: the paper's table I.
_C3 = (
    *((first, (first + 1) % 6, (first + 2) % 6) for first in range(6)),
    *((first, (first + 1) % 6, (first + 2) % 6, (first + 3) % 6) for first in range(6)),
    *((first, first + 1, (first + 3) % 6, (first + 4) % 6) for first in range(3)),
    (0, 1, 2, 3, 4, 5),
)


def _xavier_for_sigmoid(rng: Any, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
    """Draw four times Xavier's weights: around 0, the logistic function is four times flatter than tanh."""
    return nn.init.xavier()(rng, shape, fan_in, fan_out) * 4


@nn.registered("ScaledTanh")
class ScaledTanh(nn.Layer):
    """``1.7159·tanh(2x/3)``, which is about 1 at 1 and −1 at −1, and is curved most there.

    References
    ----------
    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998,
    appendix A.
    """

    batch_independent = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        y, ctx = ops.tanh(x * (2 / 3))
        return y * 1.7159, ctx

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return ops.tanh.backward(ctx, dy) * (1.7159 * 2 / 3) if need_dx else None


@nn.registered("PartialConv2d")
class PartialConv2d(nn.Conv2d):
    """A convolution of which each filter sees some of the channels only.

    Parameters
    ----------
    table : sequence of sequences of int
        The channels that each filter sees.
    in_channels : int
    kernel_size : int or (height, width)
    weight_init, seed, dtype
        As for `xpcnn.nn.Conv2d`; the fan-in and fan-out are the averages of what is connected.

    Attributes
    ----------
    weight : Parameter (len(table), in_channels, kernel_size, kernel_size)
        Stored in full, for one GEMM is faster than many small ones. What belongs to channels that a filter
        does not see is 0 at first, never used, and gets gradients of 0.
    bias : Parameter (len(table),)
    connections : Buffer (len(table), in_channels, 1, 1), bool
    """

    def __init__(
        self,
        table: tuple[tuple[int, ...], ...],
        in_channels: int,
        kernel_size: Any,
        *,
        weight_init: nn.init.Initializer | str | float = "xavier",
        seed: Any = None,
        dtype: Any = "float32",
    ) -> None:
        share = sum(map(len, table)) / (len(table) * in_channels)

        def init(rng: Any, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
            return nn.init.draw(weight_init, rng, shape, round(fan_in * share), round(fan_out * share))

        super().__init__(in_channels, len(table), kernel_size, weight_init=init, seed=seed, dtype=dtype)
        rows = [[[[channel in seen]] for channel in range(in_channels)] for seen in table]
        self.connections = nn.Buffer(rows, "bool")
        self.weight.data = self._seen(self.weight.data)

    @property
    def table(self) -> tuple[tuple[int, ...], ...]:
        rows = to_numpy(self.connections.data)[:, :, 0, 0]
        return tuple(tuple(i for i, seen in enumerate(row) if seen) for row in rows)

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "weight": self._seen(self.weight.data)}

    def accumulate(self, grads: Gradients | None, **gradients: Array | None) -> None:
        if (dweight := gradients.get("weight")) is not None:
            gradients["weight"] = self._seen(dweight)
        super().accumulate(grads, **gradients)

    def _seen(self, weight: Array) -> Array:
        """Return the weights (or their gradients) with 0 where there is no connection."""
        return backend_of(weight).masked(self.connections.data, weight)


_VARIANTS: dict[str, tuple[type[nn.Layer], Any]] = {
    "tanh": (ScaledTanh, "xavier"),
    "sigmoid": (nn.Sigmoid, _xavier_for_sigmoid),
    "modern": (nn.ReLU, "he"),
}
"""The squashing function of each, and the initial weights."""


@register_model("lenet5")
def lenet5(
    classes: int = 10,
    in_channels: int = 1,
    small_images: bool = False,
    seed: Any = 0,
    *,
    variant: str = "tanh",
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return LeNet-5, ending in logits.

    Conv 5×5 with 6 filters (C1) – subsampling (S2) – conv 5×5 with 16 filters, each of which sees 3, 4 or all
    6 maps (C3) – subsampling (S4) – conv 5×5 with 120 filters (C5) – affine 84 (F6) – affine. Subsampling is
    the average of 2×2 pixels, times a trained number, plus another, for each map. A squashing function
    follows every one of them but the last.

    It differs from the paper in the last layer, where the paper had the distances to fixed 7×12 pictures of
    the characters (radial basis functions), and in its inputs, whose background is 0 instead of −0.1.

    Parameters
    ----------
    classes, in_channels : int
    small_images : bool
        Changes nothing: the network was made for 32×32 pixels. Smaller images, such as MNIST's 28×28, get
        zeros on all sides up to that size.
    seed : int or NumPy generator
        What the initial weights are drawn from: Xavier's, or He's in the modern variant. The paper's were
        uniform within ±2.4/fan-in.
    variant : "tanh", "sigmoid" or "modern"
        ``"tanh"`` is the network of 1998, with 1.7159·tanh(2x/3); ``"sigmoid"`` the same with the logistic
        function, which learns more slowly at first; ``"modern"`` has ReLU instead, max-pooling, and C3
        connected in full.
    dtype : str

    Raises
    ------
    ArgumentError
        For another variant.

    References
    ----------
    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.

    Examples
    --------
    >>> list(lenet5().children())[:5]
    ['', 'c1', 'squash1', 's2', 'squash2']
    """
    if variant not in list(_VARIANTS):
        raise ArgumentError(f"lenet5: variant must be one of {', '.join(_VARIANTS)}, got {in_words(variant)}")
    squash, init = _VARIANTS[variant]
    plain: dict[str, Any] = {"seed": host_generator(seed), "dtype": dtype}
    options = {"weight_init": init, **plain}

    def subsampling(number: int, maps: int) -> dict[str, nn.Layer]:
        if variant == "modern":
            return {f"s{number}": nn.MaxPool2d(2)}
        layer = nn.ScaledAvgPool2d(maps, 2, dtype=dtype)
        if variant == "sigmoid":  # from 0…1 to −2…2: one logistic function behind another is all but flat
            layer.weight.data = layer.weight.data * 4
            layer.bias.data = layer.bias.data - 2
        return {f"s{number}": layer, f"squash{number}": squash()}

    # The deviation is that of MNIST's pixels. The background stays 0, as what is put around the images.
    return nn.Sequential(
        {"": Images("lenet5", in_channels, mean=0.0, std=0.3081, smallest=1, pad_to=32, dtype=dtype)},
        c1=nn.Conv2d(in_channels, 6, 5, **options),
        squash1=squash(),
        **subsampling(2, 6),
        c3=nn.Conv2d(6, 16, 5, **options) if variant == "modern" else PartialConv2d(_C3, 6, 5, **options),
        squash3=squash(),
        **subsampling(4, 16),
        c5=nn.Conv2d(16, 120, 5, **options),
        squash5=squash(),
        flatten=nn.Flatten(),
        f6=nn.Linear(120, 84, **options),
        squash6=squash(),
        output=nn.Linear(84, classes, weight_init="xavier", **plain),
    )
