"""The base of every layer: parameters, saved state, moving, and the forward/backward contract."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from os import PathLike
from reprlib import recursive_repr
from typing import Any, Self

from xpcnn.backend import Array, Backend, Key, dtype_name, get_backend, home_of, is_floating, to_numpy
from xpcnn.backend.registry import load as load_backend
from xpcnn.errors import ArgumentError, DtypeError, StateDictError
from xpcnn.io import load_weights, save_arrays
from xpcnn.nn.config import Configurable
from xpcnn.nn.held import PLAIN, held, walked
from xpcnn.nn.loading import load_state
from xpcnn.nn.parameter import Buffer, Parameter, State
from xpcnn.nn.records import LoadReport, ReceptiveField, Traced, TraceRow
from xpcnn.nn.spec import ModelSpec, describe_spec, spec_of, structure_of
from xpcnn.nn.value_and_grad import Gradients
from xpcnn.ops.op import in_words

__all__ = ["Layer", "LoadReport", "ModelSpec", "ReceptiveField", "TraceRow"]

_log = logging.getLogger(__name__)


class Layer(Configurable):
    """A function with parameters, and its derivative. It holds no activations and no gradients.

    A subclass sets its parameters, buffers and child layers as attributes in ``__init__``, alone or in lists,
    tuples and dicts, and defines `forward` and `backward`. What backward needs travels in the context that
    forward returns, so a layer can be used twice, evaluated between forward and backward, and run from
    several threads.

    Attributes
    ----------
    spec : ModelSpec or None
        How a whole model was built, and which images it was trained on.
    per_sample : bool
        Whether each sample's result depends on that sample alone, so that a batch may be run in parts. To be
        stated by the class that defines `forward`; of a container it is a statement about itself alone.
    batch_statistics : bool
        True where that holds for inference, but not while training.
    """

    spec: ModelSpec | None = None
    _structure: tuple[str, ...] | None = None  # as it was when its builder had built it
    per_sample: bool = False
    batch_statistics: bool = False

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

    def trainable(self, *parameters: Parameter | None) -> bool:
        """Return whether any of the given parameters (None is passed over) takes gradients."""
        return any(parameter is not None and parameter.trainable for parameter in parameters)

    def _takes_gradients(self) -> bool:
        """Return whether any parameter in this layer takes gradients."""
        if any(type(value) is Parameter and value.trainable for value in vars(self).values()):
            return True
        if self._holds_no_layer() and not self.children():
            return False
        return any(parameter.trainable for parameter in self.parameters().values())

    # -- what it consists of ----------------------------------------------------------

    def children(self) -> dict[str, Layer]:
        """Return the child layers by name, in definition order; one in a list goes by ``"name.0"``."""
        return {} if self._holds_no_layer() else held(self, vars(self), Layer)

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

    def own_states(self) -> dict[str, State]:
        """Return the parameters and then the buffers of this layer itself, not those of its children."""
        own = held(self, vars(self), State)
        return dict(sorted(own.items(), key=lambda item: isinstance(item[1], Buffer)))

    def parameters(self) -> dict[str, Parameter]:
        """Return every parameter by its path, such as ``"conv1.weight"``, in PyTorch's order."""
        return {path: state for path, state in self._states().items() if isinstance(state, Parameter)}

    def buffers(self) -> dict[str, Buffer]:
        """Return every buffer by its path."""
        return {path: state for path, state in self._states().items() if isinstance(state, Buffer)}

    def _states(self) -> dict[str, State]:
        states: dict[str, State] = {}  # PyTorch's order: parameters, then buffers, then children
        for outer, layer in walked(self):
            for name, state in layer.own_states().items():
                path = f"{outer}.{name}" if outer else name
                if path in states:
                    raise ArgumentError(
                        f"{type(self).__name__}: two parameters have the path {path!r}; rename a child"
                    )
                states[path] = state
        return states

    def freeze(self, *patterns: str) -> list[str]:
        """Keep training from changing the parameters whose paths match, as for transfer learning.

        Their gradients are no longer computed. Batch-norm's running statistics are no parameters: they still
        follow the batches of a forward pass with ``train=True``.

        Parameters
        ----------
        *patterns : str
            As a shell's: ``"features.*"`` is all that begins so, ``"*.bias"`` every bias; none means all.

        Returns
        -------
        list of str
            The paths that matched.

        Raises
        ------
        ArgumentError
            For a pattern that matches no parameter; nothing is frozen then.

        Examples
        --------
        >>> from xpcnn import nn
        >>> model = nn.Sequential(body=nn.Linear(2, 2), head=nn.Linear(2, 1))
        >>> model.freeze("body.*")
        ['body.weight', 'body.bias']
        """
        return self._set_trainable("freeze", patterns, False)

    def unfreeze(self, *patterns: str) -> list[str]:
        """Undo `freeze` for the parameters whose paths match; it takes and returns the same."""
        return self._set_trainable("unfreeze", patterns, True)

    def _set_trainable(self, method: str, patterns: tuple[str, ...], trainable: bool) -> list[str]:
        parameters = self.parameters()
        for pattern in patterns:
            if not isinstance(pattern, str) or not any(fnmatchcase(path, pattern) for path in parameters):
                raise ArgumentError(
                    f"{type(self).__name__}.{method}: {in_words(pattern)} matches no parameter; there are "
                    f"{', '.join(parameters) or 'none'}"
                )
        matched = [
            path
            for path in parameters
            if not patterns or any(fnmatchcase(path, pattern) for pattern in patterns)
        ]
        for path in matched:
            parameters[path].trainable = trainable
        return matched

    @property
    def backend(self) -> Backend:
        """The backend the parameters live on; the current one for a layer without any."""
        for _, layer in walked(self):
            for state in layer.own_states().values():
                return home_of(state.data)
        return get_backend()

    def note_builder(self, builder: str, arguments: dict[str, Any]) -> None:
        """Note the name and the arguments by which `xpcnn.models.build` builds this model as it now is."""
        self.spec, self._structure = ModelSpec(builder, arguments), structure_of(self)

    # -- saved state ------------------------------------------------------------------

    def state_dict(self) -> dict[str, Array]:
        """Return C-contiguous copies of all parameters and buffers under PyTorch's names."""
        return {path: home_of(state.data).copy(state.data) for path, state in self._states().items()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Copy saved arrays of any library into this layer, on its own device and in its own dtypes.

        Parameters
        ----------
        state : mapping of path to array
            Also a checkpoint that holds such a mapping, under ``"state_dict"``, ``"model"`` or the like; and
            paths that all begin with ``module.``, ``_orig_mod.`` or ``model.``, which is taken off. What was
            done is logged, and is in the report's `notes`.
        strict : bool
            False loads what fits and reports the rest, as for transfer learning.

        Returns
        -------
        LoadReport
            What was left out.

        Raises
        ------
        StateDictError
            When `strict` and an entry is missing, unknown or of the wrong shape, or when no entry fits at
            all: in at most ten lines. Nothing is loaded then.
        """
        return load_state(self, state, strict)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the weights, and how the model was built, to a ``.safetensors`` or ``.npz`` file.

        A model that `xpcnn.models` built is described by name and arguments, any other by its structure, as
        `config` returns it: `load_model` reads both. A model with a layer that is not registered is saved
        without: its file says so, and so does the log.

        Raises
        ------
        CheckpointError
            When the file cannot be written. An existing file is replaced whole or not at all.
        """
        spec = spec_of(self)
        if spec.missing is not None:
            _log.warning(
                "%s: saved without its structure, so load_model cannot build it: %s", path, spec.missing
            )
        arrays = {path: to_numpy(array) for path, array in self.state_dict().items()}
        save_arrays(path, arrays, {"spec": describe_spec(spec)})

    def load(self, path: str | PathLike[str], *, strict: bool = True) -> LoadReport:
        """Read the weights of a ``.safetensors`` or ``.npz`` file into this layer.

        Of a file that xpcnn did not write, only entries that the layer may take are read.

        Raises
        ------
        CheckpointError
            When the file cannot be read.
        StateDictError
            When its entries do not fit, as `load_state_dict` says.
        """
        wanted = {state_path: state.shape for state_path, state in self._states().items()}
        arrays = load_weights(path, wanted).arrays
        try:
            return self.load_state_dict(arrays, strict=strict)
        except StateDictError as error:
            raise StateDictError(f"{path}: {error}") from error

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
            for _, layer in walked(self):
                layer._note_dtype(dtype)
        return self

    def _note_dtype(self, dtype: Any) -> None:
        """Follow `to` to another dtype, where a layer makes results of a dtype that no parameter has."""

    # -- looking at it ----------------------------------------------------------------

    def trace(self, x: Array, path: str = "", field: ReceptiveField | None = None) -> Traced:
        """Run `x` through and return (y, receptive field of y, one row for each layer passed)."""
        y = self(x)
        field = self.field_of(field)
        return y, field, [TraceRow(path, self, tuple(y.shape), self.macs(x.shape, y.shape), field)]

    def field_of(self, field: ReceptiveField | None) -> ReceptiveField | None:
        """Return the receptive field behind this layer, given the one before it."""
        return field

    def macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        """Return the multiply-accumulates of a forward pass."""
        return 0

    def extra_repr(self) -> str:
        """Return the arguments shown by ``repr``."""
        return ""

    @recursive_repr()
    def __repr__(self) -> str:
        children = self.children()
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        lines = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in children.items()]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])
