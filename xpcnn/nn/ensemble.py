"""Several models asked together: the mean of their probabilities, arithmetic or geometric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from xpcnn import ops
from xpcnn.backend import Array, backend_of, is_array, is_floating
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.nn.containers import Parallel
from xpcnn.nn.layer import Layer
from xpcnn.nn.parameter import Gradients
from xpcnn.nn.preprocess import prepared
from xpcnn.nn.spec import checked_spec, spec_fields
from xpcnn.ops.op import check_dy, in_words, upcast

__all__ = ["Ensemble"]

VOTES = ("mean", "geometric")


class Ensemble(Parallel):
    """Models that answer together. It stands wherever a model does; the classes' softmax is the answer.

    Parameters
    ----------
    *members : Layer
        Ending in logits (N, classes), for the same classes. Their paths begin with their number:
        ``"0.conv1.weight"``. Each normalises bytes as it was trained to; one without a `Preprocess` takes
        them as ``x / 255``. Floating images all members take as they are.
    vote : "mean" or "geometric"
        ``"mean"``: y is the logarithm of the members' averaged softmax probabilities, so that the softmax of
        y are the averages. Exact where a probability itself would round to 0.

        ``"geometric"``: of their geometric means, which are proportional to the probabilities. That is the
        softmax of the averaged logits. A member that is sure that it is not a class counts for more than one
        that is sure that it is.

    Raises
    ------
    ArgumentError
        Without members, or for an unknown vote.

    Notes
    -----
    It can be trained: backward gives the members their gradient, for fine-tuning them together.

    References
    ----------
    Hansen and Salamon, "Neural network ensembles", 1990. Hinton, "Products of experts", 1999, for the
    geometric mean.

    Examples
    --------
    >>> from xpcnn import data, models, nn
    >>> both = nn.Ensemble(models.tiny_convnet(seed=0), models.tiny_convnet(seed=1))
    >>> list(both.parameters())
    ['0.conv1.weight', '0.fc.weight', '0.fc.bias', '1.conv1.weight', '1.fc.weight', '1.fc.bias']
    >>> from xpcnn.train import predict
    >>> images = data.synthetic_digits(2).images
    >>> separate = [predict(member, images) for member in both.members]
    >>> bool(abs(predict(both, images) - sum(separate) / 2).max() < 1e-6)
    True
    """

    def __init__(self, *members: Layer, vote: str = "mean") -> None:
        if vote not in VOTES:
            raise ArgumentError(
                f"Ensemble: vote must be one of {', '.join(map(repr, VOTES))}, got {in_words(vote)}"
            )
        if not members:
            raise ArgumentError("Ensemble: it has no members; give at least one model")
        self._vote = vote
        super().__init__({str(i): member for i, member in enumerate(members)})

    @classmethod
    def from_children(cls, children: Mapping[str, Layer], vote: str = "mean", specs: Any = ()) -> Self:
        ensemble = cls(*children.values(), vote=vote)
        Parallel.__init__(ensemble, children)  # by their names, which may be others than numbers
        for number, (member, fields) in enumerate(zip(ensemble.members, specs, strict=bool(specs))):
            if fields is not None:
                member.spec = checked_spec(fields, f"Ensemble: specs[{number}]")
        return ensemble

    def config_arguments(self) -> dict[str, Any]:
        specs = [None if member.spec is None else spec_fields(member.spec) for member in self.members]
        return {"vote": self._vote} | ({"specs": specs} if any(specs) else {})

    @property
    def vote(self) -> str:
        """How the members' answers become one."""
        return self._vote

    @property
    def members(self) -> tuple[Layer, ...]:
        """The models, in order."""
        return tuple(self._layers.values())

    # -- how answers become one -------------------------------------------------------

    def _input(self, layer: Layer, x: Array) -> Array:
        return prepared(layer, x)

    def _join(self, x: Array, outputs: list[Any]) -> tuple[Array, Any]:
        """Return y, and with it the members' log-probabilities and y before it was rounded to its dtype."""
        _check_outputs(outputs)
        backend = backend_of(*outputs)
        xp = backend.xp
        own, softmaxes = zip(*(ops.log_softmax(upcast(backend, z)) for z in outputs), strict=True)
        stacked = xp.stack(own)
        if self._vote == "geometric":
            answered, _ = ops.log_softmax(xp.mean(stacked, axis=0))
        else:
            highest = xp.max(stacked, axis=0)
            possible = highest > -math.inf  # for one member at least
            highest = xp.where(possible, highest, xp.zeros_like(highest))
            total = xp.sum(xp.exp(stacked - highest), axis=0)
            total = xp.log(xp.where(possible, total, xp.ones_like(total))) - math.log(len(own))
            answered = xp.where(possible, highest + total, xp.full_like(total, -math.inf))
        y = xp.astype(answered, outputs[0].dtype, copy=False)
        return y, (softmaxes, answered, y, is_floating(x.dtype))

    def _split(self, ctx: Any, dy: Array) -> list[Array]:
        softmaxes, answered, y, _ = ctx
        backend = check_dy("Ensemble.backward", dy, y.shape, y)
        xp, wide_dy = backend.xp, upcast(backend, dy)
        possible, nothing = answered > -math.inf, xp.zeros_like(wide_dy)
        parts = []
        for softmax in softmaxes:
            if self._vote == "geometric":
                part = (wide_dy - xp.exp(answered) * xp.sum(wide_dy, axis=1, keepdims=True)) / len(self)
            else:  # d log(Σ p / M) / d log p: the member's part of the sum; nothing where no member has any
                part = xp.exp(softmax.y - xp.where(possible, answered, nothing)) / len(self)
                part = xp.where(possible, wide_dy * part, nothing)
            dlogits = ops.log_softmax.backward(softmax, part)
            parts.append(xp.astype(dlogits, dy.dtype, copy=False))
        return parts

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        of_floats = ctx[0][-1]  # bytes have no gradient
        return super().backward(ctx, dy, grads, need_dx=need_dx and of_floats)


def _check_outputs(outputs: list[Any]) -> None:
    for i, y in enumerate(outputs):
        shape = tuple(y.shape) if is_array(y) else type(y).__name__
        if not is_array(y) or y.ndim != 2:
            raise ShapeError(f"Ensemble: member {i} gave {shape}, not one array of logits (N, classes)")
        if y.shape != outputs[0].shape:
            raise ShapeError(
                f"Ensemble: members 0 and {i} gave shapes {tuple(outputs[0].shape)} and {shape}; all must "
                f"know the same classes"
            )
