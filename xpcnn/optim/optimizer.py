"""What optimisers share: parameters by path, groups of options, state, and saving it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

from xpcnn.backend import Array, Backend, array_dtype_name, backend_of, dtype_name, home_of, native
from xpcnn.backend.reference import in_reference
from xpcnn.errors import ArgumentError, BackendError, DtypeError, ShapeError, StateDictError
from xpcnn.nn import Gradients, Layer, Parameter
from xpcnn.ops.op import accumulator
from xpcnn.optim.options import Rule, Settings, non_negative, parameters_by_path
from xpcnn.optim.param_state import ParamState, refuse_strangers

__all__ = ["Optimizer", "foreach", "require_store"]

Update = TypeVar("Update", bound=Callable[..., Any])


class Optimizer:
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

    rules: ClassVar[Mapping[str, Rule]] = {}
    """The options beside lr, each with its allowed values."""

    # -- what a subclass defines ------------------------------------------------------

    def slots(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the arrays kept for each parameter, all of them 0 at first."""
        return ()

    def check_together(self, where: str, options: Mapping[str, Any]) -> None:
        """Raise `ArgumentError` for options that are allowed each, but not with one another."""

    def update(
        self, data: Array, gradient: Array, state: dict[str, Array], steps: int, *args: Any, **options: Any
    ) -> Array:
        """Return `data` after the parameter's update number `steps` (the first is 1).

        `data` and the arrays in `state` belong to the optimiser, which changes them by ``x += …``: in place
        where the library can, and otherwise a new array. `gradient` belongs to others and stays as it is.
        """
        raise TypeError(f"{type(self).__name__} does not define update")

    # -- using it ---------------------------------------------------------------------

    def __init__(
        self,
        model: Layer | Mapping[str, Parameter],
        *,
        lr: float,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        self._name = type(self).__name__
        self._steps = 0
        self._model = model if isinstance(model, Layer) else None
        self._entries = {path: ParamState(p) for path, p in parameters_by_path(self._name, model).items()}
        self.lr = lr
        settings = Settings.of(self._name, self._check, self.lr, options, {} if groups is None else groups)
        settings.require_all_used(self._name, list(self._entries))
        self._apply(settings)

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
        due = self._due(grads)
        for one in due:
            self._prepare_state(one)
            one.entry.steps += 1
        for group in _group_by_dtype(due):
            if not self._update_foreach(group):
                self._update_one_by_one(group)
        self._steps += 1

    def _update_foreach(self, group: list[Due]) -> bool:
        """Let a kernel of the backend update parameters of one dtype, and return whether it did."""
        kernel = group[0].backend.kernels.get(getattr(self.update, "kernel", ""))
        if kernel is None or in_reference():
            return False
        updated = kernel(
            [
                (data, gradient, entry.state, entry.steps, self._options_of(entry))
                for entry, data, gradient, _ in group
            ]
        )
        if updated is NotImplemented:
            return False
        for one, data in zip(group, updated, strict=True):
            _replace(one, data)
        return True

    def _update_one_by_one(self, group: list[Due]) -> None:
        for one in group:
            # A copy is updated and takes the array's place. The array itself is held by the contexts of
            # earlier forward passes, whose backward must meet the weights that their forward met.
            data, entry = one.backend.copy(one.data), one.entry
            data = self.update(data, one.gradient, entry.state, entry.steps, **self._options_of(entry))
            _replace(one, data)

    def _apply(self, settings: Settings) -> None:
        self._settings = settings
        for path, entry in self._entries.items():
            entry.lr_ratio, entry.options = settings.at(path)
            entry.slots = None

    def _options_of(self, entry: ParamState) -> dict[str, Any]:
        return {"lr": self._lr * entry.lr_ratio, **entry.options}

    def _due(self, grads: Gradients) -> list[Due]:
        due, known = [], 0
        for path, entry in self._entries.items():
            gradient = grads.get(entry.parameter)
            if gradient is None:
                continue
            known += 1
            if entry.parameter.trainable:
                data = entry.parameter.data
                if not getattr(getattr(data, "dtype", None), "isnative", False):  # as NumPy's nearly all are
                    data = native(data)
                backend = self._common_backend(path, data, gradient)
                wide = accumulator(backend, data.dtype)
                if wide is not None:
                    data, gradient = backend.xp.astype(data, wide), backend.xp.astype(gradient, wide)
                due.append(Due(entry, data, gradient, backend))
        if len(grads) and not known:
            raise ArgumentError(
                f"{self._name}.step: none of the {len(grads)} gradients is for one of the "
                f"{len(self._entries)} parameters of this optimiser; was it made for another model?"
            )
        if len(grads) > known:
            refuse_strangers(self._name, grads, self._entries.values(), self._model)
        return due

    def _common_backend(self, path: str, data: Array, gradient: Array) -> Backend:
        where = f"{self._name}.step: the gradient of {path}"
        try:
            backend = backend_of(data, gradient)
        except BackendError as error:
            raise BackendError(f"{where}: {error}") from error
        if gradient.dtype != data.dtype:
            raise DtypeError(
                f"{where} is {dtype_name(gradient.dtype)}, but the parameter is {dtype_name(data.dtype)}; "
                f"compute gradients again after model.to(dtype=...)"
            )
        if tuple(gradient.shape) != tuple(data.shape):
            raise ShapeError(
                f"{where} has the shape {tuple(gradient.shape)}, but the parameter has {tuple(data.shape)}"
            )
        return backend

    def _prepare_state(self, due: Due) -> None:
        """Make a parameter's state at its first update, and let it follow a parameter that was moved."""
        (entry, data, _, backend), state = due, due.entry.state
        if entry.slots is None:
            entry.slots = self.slots(entry.options)
        for slot in entry.slots:
            if slot not in state:
                state[slot] = backend.xp.zeros(data.shape, dtype=data.dtype, device=backend.device)
            elif home_of(state[slot]) is not backend or state[slot].dtype != data.dtype:
                state[slot] = backend.copy(backend.asarray(state[slot], data.dtype))

    def _check(self, where: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a whole set of options, cleaned by the rules."""
        for name in options:
            if name not in self.rules:
                raise ArgumentError(
                    f"{where}: {self._name} has no option {name!r}; it has {', '.join(['lr', *self.rules])}"
                )
        checked = {name: rule(f"{where}: {name}", options[name]) for name, rule in self.rules.items()}
        self.check_together(where, checked)
        return checked

    def __repr__(self) -> str:
        shown = {"lr": self._lr, **self._settings.options}
        if self._settings.groups:
            shown["groups"] = [group.pattern for group in self._settings.groups]
        return f"{self._name}({', '.join(f'{name}={value}' for name, value in shown.items())})"

    # -- saved state ------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return copies of everything it takes to go on bit for bit.

        Returns
        -------
        dict
            ``kind``, ``step`` (calls of `step`), ``lr``, ``options``, ``groups``, ``steps`` (updates of each
            parameter by path: fewer than ``step`` where it was frozen for a while), and ``state`` (arrays by
            path and name). JSON keeps all but the arrays as they are.
        """
        return {
            "kind": self._name,
            "step": self._steps,
            "lr": self._lr,
            **self._settings.to_saved(),
            "steps": {path: entry.steps for path, entry in self._entries.items()},
            "state": {path: entry.copied() for path, entry in self._entries.items()},
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
        where = f"{self._name}.load_state_dict"
        arrays: dict[str, dict[str, Array]] = {}
        try:
            saved, steps = state["state"], {path: int(count) for path, count in state["steps"].items()}
            problems = [f"missing: {path}" for path in self._entries if path not in steps]
            problems += [f"unexpected: {path}" for path in {**steps, **saved} if path not in self._entries]
            if state["kind"] != self._name:
                problems.insert(0, f"wrong kind: saved by {state['kind']}, loaded into {self._name}")
            else:
                step, lr = int(state["step"]), non_negative("lr", state["lr"])
                settings = Settings.from_saved(self._check, state["options"], state["groups"])
                for path, entry in self._entries.items():
                    slots = self.slots(settings.at(path)[1]) if steps.get(path) else ()
                    arrays[path] = entry.converted(saved.get(path, {}))
                    problems += entry.misfits(path, slots, arrays[path])
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise StateDictError(f"{where}: not the state of an optimiser: {error!r}") from error
        if problems:
            raise StateDictError(f"{where}: the saved state does not fit:\n  " + "\n  ".join(problems))
        self._steps, self._lr = step, lr
        self._apply(settings)
        for path, entry in self._entries.items():
            entry.steps, entry.state = steps[path], arrays[path]


class Due(NamedTuple):
    """A parameter that a step updates; `data` and `gradient` are float32 where it is half precision."""

    entry: ParamState
    data: Array
    gradient: Array
    backend: Backend


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


def _group_by_dtype(due: Iterable[Due]) -> list[list[Due]]:
    """Return what is due by backend and dtype."""
    groups: dict[tuple[Backend, str], list[Due]] = {}
    for one in due:
        groups.setdefault((one.backend, array_dtype_name(one.gradient.dtype)), []).append(one)
    return list(groups.values())


def _replace(due: Due, data: Array) -> None:
    """Give a parameter its new values, in its own dtype."""
    parameter = due.entry.parameter
    if data.dtype != parameter.data.dtype:
        data = due.backend.xp.astype(data, native(parameter.data).dtype, copy=False)
    parameter.data = data
