"""What an optimiser keeps for each parameter, and what it refuses of other parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xpcnn.backend import Array, home_of
from xpcnn.errors import ArgumentError
from xpcnn.nn import Gradients, Layer, Parameter
from xpcnn.ops.op import accumulator

__all__ = ["ParamState", "refuse_strangers"]


@dataclass
class ParamState:
    """One parameter with the options that apply to it, how often it was updated, and its state.

    `slots` are the names of the arrays in `state`; None until they are first needed.
    """

    parameter: Parameter
    lr_ratio: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    slots: tuple[str, ...] | None = None
    steps: int = 0
    state: dict[str, Array] = field(default_factory=dict)

    def copied(self) -> dict[str, Array]:
        """Return copies of the arrays, by slot."""
        return {slot: home_of(array).copy(array) for slot, array in self.state.items()}

    def converted(self, saved: Mapping[str, Any]) -> dict[str, Array]:
        """Return copies of saved arrays of any library, where the parameter is and in its dtype."""
        data = self.parameter.data
        backend = home_of(data)
        dtype = accumulator(backend, data.dtype) or data.dtype
        return {slot: backend.copy(backend.asarray(array, dtype)) for slot, array in saved.items()}

    def misfits(self, path: str, slots: tuple[str, ...], arrays: Mapping[str, Array]) -> list[str]:
        """Return how arrays differ from what these slots need, in words."""
        expected = self.parameter.shape
        return [
            *(f"missing: {path} {slot}" for slot in slots if slot not in arrays),
            *(f"unexpected: {path} {slot}" for slot in arrays if slot not in slots),
            *(
                f"wrong shape: {path} {slot} is {tuple(array.shape)} but the parameter has {expected}"
                for slot, array in arrays.items()
                if tuple(array.shape) != expected
            ),
        ]


def refuse_strangers(name: str, grads: Gradients, states: Iterable[ParamState], model: Layer | None) -> None:
    """Raise `ArgumentError` for gradients of parameters that nobody trains.

    Parameters
    ----------
    name : str
        Of the optimiser, for the message.
    grads : Gradients
    states : iterable of ParamState
        Of the optimiser.
    model : Layer, optional
        What the optimiser was made for.
    """
    own = {entry.parameter for entry in states}
    root = grads.root
    paths = {} if root is None else {parameter: path for path, parameter in root.parameters().items()}
    # Where this was made for a part of the model, other optimisers may have the rest.
    rest = set(paths) if root is not model and own <= set(paths) else set()
    strangers = [parameter for parameter, _ in grads.items() if parameter not in own | rest]
    if strangers:
        shown = [f"{paths.get(each, 'without a path')} {each.shape}" for each in strangers[:5]]
        more = f" and {len(strangers) - 5} more" if len(strangers) > 5 else ""
        raise ArgumentError(
            f"{name}.step: {len(strangers)} of the {len(grads)} gradients are for parameters that "
            f"this optimiser does not have, and would not be trained: {', '.join(shown)}{more}; make the "
            f"optimiser after all layers are in place, keep layers in attributes, lists or dicts of the "
            f"model, freeze what is not to be trained, and where other optimisers train it, begin "
            f"backward of your own layer with grads.bind(self)"
        )
