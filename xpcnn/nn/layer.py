"""The base of every layer: parameters, saved state, moving, and the forward/backward contract."""

from __future__ import annotations

from reprlib import recursive_repr
from typing import Any, ClassVar, Literal, Self

from xpcnn.backend import Array, Backend, Key, dtype_name, get_backend, home_of, is_floating
from xpcnn.backend.registry import load as load_backend
from xpcnn.errors import ArgumentError, DtypeError
from xpcnn.nn.config import shown_arguments
from xpcnn.nn.init import Initializer, constant, draw, floating
from xpcnn.nn.loading import LoadReport, Saved
from xpcnn.nn.parameter import Buffer, Gradients, Parameter, State
from xpcnn.nn.receptive_field import ReceptiveField, Traced, TraceRow
from xpcnn.nn.spec import ModelSpec, structure_of
from xpcnn.nn.tree import PLAIN, members, walk
from xpcnn.ops.op import Op, flag, in_words

__all__ = ["Layer", "LoadReport", "ModelSpec", "OpLayer", "ReceptiveField", "Stateless", "Weighted"]


class Layer(Saved):
    """A function with parameters, and its derivative. It holds no activations and no gradients.

    A subclass sets its parameters, buffers and child layers as attributes in ``__init__``, alone or in lists,
    tuples and dicts, and defines `forward` and `backward`. What backward needs travels in the context that
    forward returns, so a layer can be used twice, evaluated between forward and backward, and run from
    several threads.

    Attributes
    ----------
    spec : ModelSpec or None
        How a whole model was built, and which images it was trained on.
    batch_independent : bool, or "inference"
        Whether each sample's result depends on that sample alone, so that a batch may be run in parts; or so
        at inference, but not while training. To be stated by the class that defines `forward`; of a container
        it is a statement about itself alone.
    """

    spec: ModelSpec | None = None
    _structure: list[tuple[str, str]] | None = None  # as it was when its builder had built it
    batch_independent: bool | Literal["inference"] = False

    # -- the contract -----------------------------------------------------------------

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        """Return (y, ctx).

        Parameters
        ----------
        x : array
        train : bool
            Whether dropout drops and batch-norm uses (and tracks) the batch's statistics.
        key : Key, optional
            What random masks are a function of; None draws a fresh one where one is needed.
        """
        raise TypeError(f"{type(self).__name__} does not define forward")

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        """Return dx, and add the gradients of the trainable parameters to `grads`.

        Parameters
        ----------
        ctx
            What forward returned beside y.
        dy : array
            The gradient of the loss for y.
        grads : Gradients, optional
            None computes dx alone.
        need_dx : bool
            False spares dx, as for a model's first layer; None is returned then.
        """
        raise TypeError(f"{type(self).__name__} does not define backward")

    def __call__(self, x: Array) -> Array:
        """Return y alone: inference, keeping nothing for backward."""
        return self.forward(x)[0]

    def accumulate(self, grads: Gradients | None, **gradients: Array | None) -> None:
        """Add gradients to the store, each for the parameter in the attribute of that name."""
        if grads is None:
            return
        grads.bind(self)
        for name, gradient in gradients.items():
            parameter = getattr(self, name)
            if parameter is not None and parameter.trainable and gradient is not None:
                grads.add(parameter, gradient)

    def _takes_gradients(self) -> bool:
        """Return whether any parameter in this layer takes gradients."""
        states = vars(self).values() if self._holds_no_layer() else self.parameters().values()
        return any(isinstance(state, Parameter) and state.trainable for state in states)

    # -- what it consists of ----------------------------------------------------------

    def children(self) -> dict[str, Layer]:
        """Return the child layers by name, in definition order; one in a list goes by ``"name.0"``."""
        return {} if self._holds_no_layer() else members(self, vars(self), Layer)

    def _holds_no_layer(self) -> bool:
        """Return whether all attributes are parameters, buffers and plain values: in a tenth of a search."""
        for value in vars(self).values():
            kind = type(value)
            if kind is tuple:
                if not PLAIN.issuperset(map(type, value)):
                    return False
            elif kind not in PLAIN and kind is not Parameter and kind is not Buffer:
                return False
        return True

    @property
    def backend(self) -> Backend:
        """The backend the parameters live on; the current one for a layer without any."""
        for _, layer in walk(self):
            for state in layer.own_states().values():
                return home_of(state.data)
        return get_backend()

    def note_builder(self, builder: str, arguments: dict[str, Any]) -> None:
        """Note the name and the arguments by which `xpcnn.models.build` builds this model as it now is."""
        self.spec, self._structure = ModelSpec(builder, arguments), structure_of(self)

    def to(self, backend: str | None = None, device: Any = None, dtype: Any = None) -> Self:
        """Move all parameters and buffers, and return this layer.

        Parameters
        ----------
        backend : str, optional
            The name of a backend; the present one if not given.
        device : optional
            One of its devices.
        dtype : str or dtype, optional
            For floating entries; integer counters keep theirs.
        """
        if dtype is not None and not dtype_name(dtype).startswith(("float", "bfloat")):
            raise DtypeError(f"{type(self).__name__}.to: dtype must be floating, got {dtype_name(dtype)}")
        for state in self._states().values():
            old = home_of(state.data)
            stays = backend is None and device is None
            new = old if stays else load_backend(old.name if backend is None else backend, device)
            floating = is_floating(state.data.dtype)
            state.data = new.asarray(state.data, dtype if floating else None)
        if dtype is not None:
            for _, layer in walk(self):
                layer._note_dtype(dtype)
        return self

    def _note_dtype(self, dtype: Any) -> None:
        """Follow `to` to another dtype, where a layer makes results of a dtype that no parameter has."""

    # -- looking at it ----------------------------------------------------------------

    def trace(self, x: Array, path: str = "", field: ReceptiveField | None = None) -> Traced:
        """Run `x` through and return (y, receptive field of y, one row for each layer passed)."""
        y = self(x)
        field = self.receptive_field(field)
        return y, field, [TraceRow(path, self, tuple(y.shape), self.macs(x.shape, y.shape), field)]

    def receptive_field(self, before: ReceptiveField | None) -> ReceptiveField | None:
        """Return the receptive field after this layer, given the one before it."""
        return before

    def macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        """Return the multiply-accumulates of a forward pass."""
        return 0

    @recursive_repr()
    def __repr__(self) -> str:
        name, children = type(self).__name__, self.children()
        if not children:
            return f"{name}({shown_arguments(self)})"
        lines = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in children.items()]
        return "\n".join([f"{name}(", *lines, ")"])


class OpLayer(Layer):
    """A layer that is an op, called with the attributes that `options` names, parameters too."""

    op: ClassVar[Op[..., tuple[Array, Any]]]
    options: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        options: Any = cls.options
        if isinstance(options, str):  # the comma of a tuple of one was forgotten
            raise ArgumentError(
                f'{cls.__name__}: options must be a tuple of names, such as ("slope",), got {options!r}'
            )
        if "op" in vars(cls):
            op = vars(cls)["op"]
            if not callable(op) or not callable(getattr(op, "backward", None)):
                raise ArgumentError(
                    f"{cls.__name__}: op must be a function (x, …) -> (y, ctx) with a .backward, such as "
                    f"xpcnn.ops.relu or one under @xpcnn.ops.op.op, got {in_words(op)}"
                )
            cls.op = staticmethod(op)  # type: ignore[assignment]  # else ``self.op`` is a method

    def arguments(self) -> dict[str, Any]:
        """Return what the op takes beside x."""
        values = {name: getattr(self, name) for name in self.options}
        return {name: value.data if isinstance(value, State) else value for name, value in values.items()}

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        result = self.op(x, **self.arguments()) if self.options else self.op(x)
        if not isinstance(result, tuple) or len(result) != 2:  # an array would be taken for a pair of images
            raise ArgumentError(f"{type(self).__name__}: op must return (y, ctx), got {_kind(result)}")
        return result


class Weighted(OpLayer):
    """An op of a weight and a bias, which its backward can leave out: the base of `Linear` and `Conv2d`."""

    weight: Parameter
    bias: Parameter | None

    options: ClassVar[tuple[str, ...]] = ("weight", "bias")

    def _draw(
        self,
        shape: tuple[int, ...],
        fans: tuple[int, int],
        outputs: int,
        bias: bool,
        weight_init: Initializer | str | float,
        seed: Any,
        dtype: Any,
    ) -> None:
        """Set the initial weight and bias; `fans` are the fan-in and the fan-out."""
        name = type(self).__name__
        dtype, bias = floating(name, dtype), flag(f"{name}: bias", bias)
        self.weight = Parameter(draw(weight_init, seed, shape, *fans, dtype), dtype)
        self.bias = Parameter(constant(0.0, (outputs,), dtype)) if bias else None

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        need_dweight = grads is not None and self._takes_gradients()
        dx, dweight, dbias = self.op.backward(ctx, dy, need_dx=need_dx, need_dweight=need_dweight)
        self.accumulate(grads, weight=dweight, bias=dbias)
        return dx


class Stateless(OpLayer):
    """A layer that is an op: ``op(x, **options)``, and ``op.backward`` for its gradient.

    A subclass sets `op`, and where there are options, their names; its ``__init__`` sets an attribute for
    each. State ``batch_independent = True`` where each sample's result depends on that sample alone.

    Attributes
    ----------
    op : op
        A function ``op(x, …) -> (y, ctx)`` with ``op.backward(ctx, dy) -> dx``; `xpcnn.ops.op.op` makes one.
    options : tuple of str
        The attributes that `op` takes as keywords of these names; ``repr`` shows them.

    Raises
    ------
    ArgumentError
        When a subclass is defined whose `op` has no ``backward``; when `op` returns no pair (y, ctx), or its
        backward more than dx.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn import nn, ops
    >>> from xpcnn.ops.op import op
    >>> @op
    ... def swish(x, beta=1.0):
    ...     gate, _ = ops.sigmoid(beta * x)
    ...     return x * gate, (x, gate, beta)
    >>> @swish.def_backward
    ... def _(ctx, dy):
    ...     x, gate, beta = ctx
    ...     return dy * gate * (1 + beta * x * (1 - gate))
    >>> class Swish(nn.Stateless):
    ...     op = swish
    ...     options = ("beta",)
    ...     batch_independent = True
    ...
    ...     def __init__(self, beta=1.0):
    ...         self.beta = beta
    >>> layer = Swish(beta=2.0)
    >>> layer
    Swish(beta=2.0)
    >>> layer(xpcnn.asarray([-1000.0, 0.0, 1000.0]))
    array([  -0.,    0., 1000.])
    """

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        dx = self.op.backward(ctx, dy) if need_dx else None
        if isinstance(dx, tuple):
            raise ArgumentError(
                f"{type(self).__name__}: op.backward must return dx alone, got {_kind(dx)}; "
                f"where there are other gradients, write an nn.Layer with parameters"
            )
        return dx


def _kind(result: Any) -> str:
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
