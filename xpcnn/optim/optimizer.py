"""What optimisers share: parameters by path, groups of options, state, and saving it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from xpcnn.backend import Array, Backend, array_dtype_name, backend_of, home_of, native
from xpcnn.backend.reference import in_reference
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.nn import Gradients, Layer
from xpcnn.ops.op import accumulator, common_backend
from xpcnn.optim.groups import Group, ParamState, Slots, group_at, new_groups, parameters_by_path
from xpcnn.optim.options import Configured, Rules, differences, load_arrays, non_negative, saved_state

__all__ = ["Optimizer", "Slots", "foreach", "require_store"]

Update = TypeVar("Update", bound=Callable[..., Any])


class Due(NamedTuple):
    """A parameter that a step updates; `data` and `gradient` are float32 where it is half precision."""

    entry: ParamState
    data: Array
    gradient: Array
    backend: Backend


class Optimizer(Configured):
    """The base of every optimiser. A subclass declares `rules` and `slots`, and defines `update`.

    Parameters
    ----------
    model : Layer or mapping of path to Parameter
        What to train. The parameters are looked up now: layers replaced later are not noticed. One that two
        layers share goes by its first path.
    lr : float
        The learning rate.
    groups : mapping of pattern to dict, optional
        Other options for some parameters, by `fnmatch` patterns of their paths, such as
        ``{"*.bias": {"weight_decay": 0.0}, "conv*": {"lr": 1e-4}}``. Only the first matching pattern applies.
        A group's `lr` is absolute; when the base `lr` changes later, the ratio of the two is kept.
    **options
        The subclass's own.

    Raises
    ------
    ArgumentError
        When there is nothing to train, when an option is unknown or outside its allowed values, or when a
        group applies to no parameter.

    Examples
    --------
    >>> from xpcnn import nn, optim
    >>> model = nn.Sequential(conv=nn.Conv2d(1, 4, 3), flatten=nn.Flatten(), fc=nn.Linear(16, 10))
    >>> optimizer = optim.SGD(model, lr=0.1, groups={"conv.*": {"lr": 0.01}})
    >>> optimizer.lr = 0.2
    >>> optimizer.options_of("conv.weight")["lr"], optimizer.options_of("fc.weight")["lr"]
    (0.02, 0.2)
    """

    rules = Rules(lr=(..., non_negative))
    subject, more = "model", {"groups": None}

    # -- what a subclass defines ------------------------------------------------------

    def slots(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the arrays kept for each parameter, all of them 0 at first."""
        return ()

    def update(self, data: Array, gradient: Array, state: Slots, steps: int, **options: Any) -> Array:
        """Return `data` after the parameter's update number `steps` (the first is 1).

        `data` and the arrays in `state` belong to the optimiser, which changes them by ``x += …``: in place
        where the library can, and otherwise a new array. `gradient` belongs to others and stays as it is.
        """
        raise TypeError(f"{type(self).__name__} does not define update")

    # -- using it ---------------------------------------------------------------------

    def __init_subclass__(cls) -> None:
        cls.rules = Rules({"lr": Optimizer.rules["lr"], **cls.rules})
        super().__init_subclass__()

    def __init__(self, *args: Any, **options: Any) -> None:
        given = self._bind(args, options)
        model, groups = given.pop("model"), given.pop("groups")
        self._steps = 0
        self._model = model if isinstance(model, Layer) else None
        parameters = parameters_by_path(self._name, model)
        self._entries = {path: ParamState(parameter) for path, parameter in parameters.items()}
        own = self._checked(self._name, given)
        made = new_groups(self._name, groups, dict(own), list(parameters), self._checked)
        self._lr: float = own.pop("lr")
        self._apply(own, made)

    @property
    def lr(self) -> float:
        """The base learning rate. Groups with one of their own keep its ratio to this when it is set."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = non_negative(f"{self._name}: lr", value)

    def options_of(self, path: str) -> dict[str, Any]:
        """Return the options in force for the parameter at `path`, its learning rate first."""
        if path not in self._entries:
            raise ArgumentError(
                f"{self._name}.options_of: no parameter {path!r}; there are {', '.join(self._entries)}"
            )
        return self._options_of(self._entries[path])

    def step(self, grads: Gradients) -> None:
        """Update each trainable parameter that has a gradient in `grads`; leave the others alone.

        An updated parameter gets a new array as its `data`; the old array keeps its values. Parameters of
        half precision are updated in float32 and then rounded, and their state is float32.

        Raises
        ------
        ArgumentError
            When `grads` is no store; when there are gradients, but none for this optimiser's parameters; or
            some for parameters that nobody would train: the model that this was made for has other layers
            now, or keeps some where it does not look. Nothing is updated then.
        ShapeError, DtypeError, BackendError
            When a gradient is unlike its parameter. Nothing is updated then.
        """
        require_store(f"{self._name}.step", grads)
        due = [
            self._due(path, entry, gradient)
            for path, entry in self._entries.items()
            if (gradient := grads.get(entry.parameter)) is not None and entry.parameter.trainable
        ]
        if len(grads) > len(due):
            self._require_known(grads)
        by_dtype: dict[tuple[Backend, str], list[Due]] = {}
        for one in due:
            self._prepare_state(one)
            one.entry.steps += 1
            by_dtype.setdefault((one.backend, array_dtype_name(one.data.dtype)), []).append(one)
        for alike in by_dtype.values():
            for one, data in zip(alike, self._updated(alike), strict=True):
                parameter = one.entry.parameter
                if data.dtype != parameter.data.dtype:
                    data = one.backend.xp.astype(data, native(parameter.data).dtype, copy=False)
                parameter.data = data
        self._steps += 1

    def _updated(self, due: list[Due]) -> Iterator[Array]:
        """Return the new arrays of parameters of one dtype: by a kernel of the backend, where one serves."""
        updates = [
            (one.data, one.gradient, one.entry.state, one.entry.steps, self._options_of(one.entry))
            for one in due
        ]
        kernel = None if in_reference() else due[0].backend.kernels.get(getattr(self.update, "kernel", ""))
        updated: Any = NotImplemented if kernel is None else kernel(updates)
        if updated is NotImplemented:
            # A copy is updated and takes the array's place. The array itself is held by the contexts of
            # earlier forward passes, whose backward must meet the weights that their forward met.
            copy = due[0].backend.copy
            updated = (
                self.update(copy(data), gradient, state, steps, **options)
                for data, gradient, state, steps, options in updates
            )
        return iter(updated)

    def _options_of(self, entry: ParamState) -> dict[str, Any]:
        return {"lr": self._lr * entry.group.lr_ratio, **entry.group.options}

    def _due(self, path: str, entry: ParamState, gradient: Array) -> Due:
        where, data = f"{self._name}.step: the gradient of {path}", entry.parameter.data
        if not getattr(data.dtype, "isnative", False):  # as NumPy's nearly all are
            data = native(data)
        backend = backend_of(data)
        if backend_of(gradient) is not backend or gradient.dtype != data.dtype:
            common_backend(where, parameter=data, gradient=gradient)  # raises, and says why
        if tuple(gradient.shape) != tuple(data.shape):
            raise ShapeError(
                f"{where} has the shape {tuple(gradient.shape)}, but the parameter has {tuple(data.shape)}"
            )
        for name, array in entry.state.items():
            if array.shape != data.shape:
                raise ShapeError(
                    f"{self._name}.step: {path} has another shape than at its last update, "
                    f"{tuple(data.shape)}, not {tuple(array.shape)} like its {name}; make a new optimiser"
                )
        wide = accumulator(backend, data.dtype)
        if wide is not None:
            data, gradient = backend.xp.astype(data, wide), backend.xp.astype(gradient, wide)
        return Due(entry, data, gradient, backend)

    def _require_known(self, grads: Gradients) -> None:
        """Refuse gradients of parameters that nobody trains."""
        own = {entry.parameter for entry in self._entries.values()}
        root = grads.root
        paths = {} if root is None else {parameter: path for path, parameter in root.parameters().items()}
        # Where this was made for a part of the model, other optimisers may have the rest.
        is_part = root is not self._model and own <= set(paths)
        rest = set(paths) if is_part and any(parameter in grads for parameter in own) else set()
        unknown = [parameter for parameter, _ in grads.items() if parameter not in own | rest]
        if unknown:
            shown = [f"{paths.get(each, 'without a path')} {each.shape}" for each in unknown[:5]]
            raise ArgumentError(
                f"{self._name}.step: {len(unknown)} of the {len(grads)} gradients are for parameters that "
                f"this optimiser does not have: {', '.join(shown)}; make it for this model when all layers "
                f"are in place, in attributes, lists or dicts of it, and freeze what is not to be trained; "
                f"where other optimisers train it, begin backward of your own layer with grads.bind(self)"
            )

    def _prepare_state(self, due: Due) -> None:
        """Make a parameter's state at its first update, and let it follow a parameter that was moved."""
        (entry, data, _, backend), state = due, due.entry.state
        for slot in entry.slots:
            if slot not in state:
                state[slot] = backend.xp.zeros(data.shape, dtype=data.dtype, device=backend.device)
            elif home_of(state[slot]) is not backend or state[slot].dtype != data.dtype:
                state[slot] = backend.copy(backend.asarray(state[slot], data.dtype))

    def _apply(self, options: dict[str, Any], groups: list[Group]) -> None:
        self._options, self._groups = options, groups
        for path, entry in self._entries.items():
            entry.group = group_at(path, options, groups)
            entry.slots = self.slots(entry.group.options)

    def __repr__(self) -> str:
        shown = {"lr": self._lr, **self._options}
        if self._groups:
            shown["groups"] = [group.pattern for group in self._groups]
        return f"{self._name}({', '.join(f'{name}={value}' for name, value in shown.items())})"

    # -- saved state ------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return copies of everything it takes to go on bit for bit.

        Returns
        -------
        dict
            ``kind``, ``step`` (calls of `step`), ``lr``, ``options``, ``groups``, ``steps`` (updates of each
            parameter by path: fewer than ``step`` where it was frozen for a while), and ``state`` (arrays by
            path and name). JSON keeps all but the arrays.
        """
        return {
            "kind": self._name,
            "step": self._steps,
            "lr": self._lr,
            "options": dict(self._options),
            "groups": [group._asdict() for group in self._groups],
            "steps": {path: entry.steps for path, entry in self._entries.items()},
            "state": {
                path: {slot: home_of(array).copy(array) for slot, array in entry.state.items()}
                for path, entry in self._entries.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, with its learning rate, options and groups.

        Parameters
        ----------
        state : mapping
            The arrays may be of any library. They are copied to the device and dtype of each parameter, or
            float32 where that is half precision; paths without arrays may be left out of ``state``.

        Raises
        ------
        StateDictError
            When it is of another kind of optimiser, or paths or shapes differ. All differences are named, and
            nothing is loaded.
        """
        arrays: dict[str, Slots] = {}
        with saved_state(f"{self._name}.load_state_dict", "an optimiser") as problems:
            saved, steps = state["state"], {path: int(count) for path, count in state["steps"].items()}
            if state["kind"] != self._name:
                problems.append(f"wrong kind: saved by {state['kind']}, loaded into {self._name}")
            problems += differences(self._entries, steps)
            problems += [f"unexpected: {path}" for path in saved if path not in {**self._entries, **steps}]
            if state["kind"] == self._name:
                step = int(state["step"])
                options = self._checked("options", {"lr": state["lr"], **state["options"]})
                lr = options.pop("lr")
                groups = []
                for one in state["groups"]:
                    own = self._checked("groups", {"lr": one["lr_ratio"], **one["options"]})
                    groups.append(Group(str(one["pattern"]), own.pop("lr"), own))
                for path, entry in self._entries.items():
                    slots = self.slots(group_at(path, options, groups).options) if steps.get(path) else ()
                    states = dict.fromkeys(slots, entry.parameter)
                    arrays[path] = load_arrays(problems, states, saved.get(path, {}), f"{path} ")
        self._steps, self._lr = step, lr
        self._apply(options, groups)
        for path, entry in self._entries.items():
            entry.steps, entry.state = steps[path], arrays[path]


def foreach(kernel: str) -> Callable[[Update], Update]:
    """Mark an `Optimizer.update` as one that a backend may do for all parameters at once.

    The function of this name in `Backend.kernels`, where there is one, takes a list with
    ``(data, gradient, state, steps, options)`` for each parameter, all of one dtype. It changes the arrays in
    ``state`` in place and returns the list of new arrays, or NotImplemented. A subclass that defines an
    `update` of its own is not marked by this one.
    """

    def mark(update: Update) -> Update:
        update.kernel = kernel  # type: ignore[attr-defined]
        return update

    return mark


def require_store(where: str, grads: Any) -> None:
    """Refuse anything but a store of gradients."""
    if not isinstance(grads, Gradients):
        raise ArgumentError(
            f"{where}: grads must be the nn.Gradients that backward filled, got {type(grads).__name__}"
        )
