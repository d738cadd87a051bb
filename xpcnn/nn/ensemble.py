"""Several models asked together: the mean of their probabilities, arithmetic or geometric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from xpcnn import ops
from xpcnn.backend import Array, Backend, Key, backend_of, is_array, is_floating
from xpcnn.backend.random import key_of_child
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.nn.containers import Container, join_paths
from xpcnn.nn.layer import Layer, ModelSpec, ReceptiveField, TraceRow
from xpcnn.nn.preprocess import prepared
from xpcnn.nn.records import Traced, union
from xpcnn.nn.spec import checked_spec, spec_fields
from xpcnn.nn.value_and_grad import Gradients
from xpcnn.ops.op import check_dy, in_words, upcast
from xpcnn.ops.softmax import SoftmaxContext

__all__ = ["Ensemble", "EnsembleContext"]

VOTES = ("mean", "geometric")


class EnsembleContext(NamedTuple):
    """What each member keeps, its log-probabilities, and the result before it was rounded to its dtype.

    Also whether images were bytes, which have no gradient.
    """

    members: tuple[Any, ...]
    softmaxes: tuple[SoftmaxContext, ...]
    answered: Array
    y: Array
    of_bytes: bool


class Ensemble(Container):
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

    Attributes
    ----------
    spec : ModelSpec or None
        Which images it was trained on; else those that all its members were.

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
        if vote == "majority":
            raise ArgumentError(
                "Ensemble: vote='majority' was removed; build the ensemble of its members with vote='mean' "
                "or 'geometric', read a file's weights with its load, and save it again"
            )
        if vote not in VOTES:
            raise ArgumentError(
                f"Ensemble: vote must be one of {', '.join(map(repr, VOTES))}, got {in_words(vote)}"
            )
        if not members:
            raise ArgumentError("Ensemble: it has no members; give at least one model")
        self._vote = vote
        self._spec: ModelSpec | None = None
        super().__init__({str(i): member for i, member in enumerate(members)})

    @classmethod
    def from_children(cls, children: Mapping[str, Layer], vote: str = "mean", specs: Any = ()) -> Self:
        ensemble = cls(*children.values(), vote=vote)
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

    def _add(self, name: str, layer: Any) -> None:
        if name not in self._layers and name != str(len(self._layers)):
            raise ArgumentError(
                f"Ensemble: members are numbered, so the next is {str(len(self._layers))!r}, not {name!r}"
            )
        super()._add(name, layer)

    @property
    def spec(self) -> ModelSpec | None:
        """Which images it was trained on; else those that all members were, where they agree."""
        if self._spec is not None:
            return self._spec
        known = [member.spec or ModelSpec() for member in self.members]
        shapes, preparations = (
            {getattr(one, name) for one in known} for name in ("input_shape", "preparation")
        )
        shape = shapes.pop() if len(shapes) == 1 else None
        preparation = preparations.pop() if len(preparations) == 1 else None
        return ModelSpec(input_shape=shape, preparation=preparation) if shape or preparation else None

    @spec.setter
    def spec(self, spec: ModelSpec | None) -> None:
        self._spec = spec

    # -- as a layer -------------------------------------------------------------------

    def forward(
        self, x: Array, *, train: bool = False, key: Key | None = None
    ) -> tuple[Array, EnsembleContext]:
        outputs, contexts = [], []
        for name, member in self._layers.items():
            images = prepared(member, x)
            y, ctx = self._call(name, member.forward, images, train=train, key=key_of_child(key, name))
            outputs.append(y)
            contexts.append(ctx)
        y, answered, softmaxes = self._together(outputs)
        return y, EnsembleContext(tuple(contexts), softmaxes, answered, y, not is_floating(x.dtype))

    def backward(
        self, ctx: EnsembleContext, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True
    ) -> Any:
        backend = check_dy("Ensemble.backward", dy, ctx.y.shape, ctx.y)
        if grads is not None:
            grads.bind(self)
        wide_dy, dx, need_dx = upcast(backend, dy), None, need_dx and not ctx.of_bytes
        for (name, member), member_ctx, softmax in zip(
            self._layers.items(), ctx.members, ctx.softmaxes, strict=True
        ):
            dlogits = ops.log_softmax.backward(softmax, self._share(backend, ctx, softmax, wide_dy))
            dlogits = backend.xp.astype(dlogits, dy.dtype, copy=False)
            part = self._call(name, member.backward, member_ctx, dlogits, grads, need_dx=need_dx)
            if need_dx:
                dx = part if dx is None else dx + part
        return dx

    def _share(self, backend: Backend, ctx: EnsembleContext, softmax: SoftmaxContext, dy: Array) -> Array:
        """Return the gradient of a member's log p, given that of the answer."""
        xp = backend.xp
        if self._vote == "geometric":
            return (dy - xp.exp(ctx.answered) * xp.sum(dy, axis=1, keepdims=True)) / len(self)
        # d log(Σ p / M) / d log p: the member's part of the sum; nothing where no member has any.
        possible, nothing = ctx.answered > -math.inf, xp.zeros_like(dy)
        part = xp.exp(softmax.y - xp.where(possible, ctx.answered, nothing)) / len(self)
        return xp.where(possible, dy * part, nothing)

    def __call__(self, x: Array) -> Array:
        return self._together(
            [self._call(name, member, prepared(member, x)) for name, member in self._layers.items()]
        )[0]

    def trace(self, x: Array, path: str = "", field: ReceptiveField | None = None) -> Traced:
        rows: list[TraceRow] = []
        outputs, fields = [], []
        for name, member in self._layers.items():
            images = prepared(member, x)
            y, member_field, more = self._call(name, member.trace, images, join_paths(path, name), field)
            outputs.append(y)
            fields.append(member_field)
            rows += more
        return self._together(outputs)[0], union(*fields), rows

    # -- how answers become one -------------------------------------------------------

    def _together(self, outputs: list[Any]) -> tuple[Array, Array, tuple[SoftmaxContext, ...]]:
        """Return y, the same before it was rounded to its dtype, and the members' log-probabilities."""
        backend = _check_outputs(outputs)
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
        return xp.astype(answered, outputs[0].dtype, copy=False), answered, softmaxes


def _check_outputs(outputs: list[Any]) -> Backend:
    for i, y in enumerate(outputs):
        if not is_array(y):
            raise ArgumentError(
                f"Ensemble: member {i} gave {type(y).__name__}, not one array of logits (N, classes)"
            )
        if y.ndim != 2:
            raise ShapeError(f"Ensemble: member {i} gave shape {tuple(y.shape)}, not logits (N, classes)")
        if tuple(y.shape) != tuple(outputs[0].shape):
            raise ShapeError(
                f"Ensemble: members 0 and {i} gave shapes {tuple(outputs[0].shape)} and {tuple(y.shape)}; "
                f"all must know the same classes"
            )
    return backend_of(*outputs)
