"""What schedules share: counting steps, setting the learning rate, and saved state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xpcnn.errors import ArgumentError
from xpcnn.ops.op import whole
from xpcnn.optim.optimizer import Optimizer
from xpcnn.optim.options import Configured, differences, non_negative, saved_state

__all__ = ["Schedule"]


class Schedule(Configured):
    """The base of every schedule. A subclass declares `rules` and defines `formula`.

    Everything is counted in **optimisation steps**: a run of 20 epochs with 600 batches each has
    20 × 600 = 12000. The learning rate is a pure function of the step, `lr_at`; nothing accumulates, so a
    resumed run has exactly the rates of one that was never stopped.

    Making a schedule takes the optimiser's present learning rate as the base rate, and sets the optimiser to
    the rate of step 0. Parameter groups with a learning rate of their own keep its ratio to the base rate.

    Parameters
    ----------
    optimizer : Optimizer
        Whose `lr` is set.
    **options
        The subclass's own.

    Attributes
    ----------
    optimizer : Optimizer
    options : dict
        The options, cleaned: plain numbers and strings.
    base_lr : float
        The optimiser's learning rate when the schedule was made.
    last_step : int
        The calls of `step` so far; the optimiser's learning rate is ``lr_at(last_step)``.

    Raises
    ------
    ArgumentError
        When an option is outside its allowed values, or the first argument is no optimiser.
    """

    subject = "optimizer"

    def __init__(self, *args: Any, **options: Any) -> None:
        given = self._bind(args, options)
        optimizer = given.pop("optimizer")
        if not isinstance(optimizer, Optimizer):
            raise ArgumentError(
                f"{self._name}: the first argument must be an optimiser, such as optim.SGD(model), "
                f"got {type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        self.options = self._checked(self._name, given)
        self.base_lr = optimizer.lr
        self.last_step = 0
        optimizer.lr = self.lr_at(0)

    def formula(self, step: int, *args: Any, **options: Any) -> float:
        """Return the learning rate of a step, given the options; the subclass's definition."""
        raise TypeError(f"{type(self).__name__} does not define formula")

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, without changing anything.

        Parameters
        ----------
        step : int
            0 is the first optimisation step of a run.
        """
        step = whole(f"{self._name}.lr_at: step", step, 0)
        try:
            return self.formula(step, **self.options)
        except OverflowError as error:
            raise ArgumentError(f"{self!r}: the learning rate of step {step} exceeds every float") from error

    def step(self) -> None:
        """Move on to the next optimisation step. Call this after each ``optimizer.step(grads)``."""
        self.optimizer.lr = self.lr_at(self.last_step + 1)
        self.last_step += 1

    def __repr__(self) -> str:
        return f"{self._name}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"

    # -- saved state ------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return ``kind``, ``step``, ``base_lr`` and ``options``, as JSON keeps them."""
        return {
            "kind": self._name,
            "step": self.last_step,
            "base_lr": self.base_lr,
            "options": dict(self.options),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned: its step and base rate, and the optimiser's `lr` with them.

        Raises
        ------
        StateDictError
            When it is of another kind of schedule or was made with other options. All differences are named,
            and nothing is loaded.
        """
        with saved_state(f"{self._name}.load_state_dict", "a schedule") as problems:
            own, saved = dict(_settings(self.state_dict())), dict(_settings(state))
            problems += differences(own, saved)
            problems += [
                f"{name}: saved {saved[name]!r}, here {value!r}"
                for name, value in own.items()
                if saved.get(name, value) != value
            ]
        self._adopt(state)
        self.optimizer.lr = self.lr_at(self.last_step)

    def _adopt(self, state: Mapping[str, Any]) -> None:
        self.last_step = int(state["step"])
        self.base_lr = float(state["base_lr"])


def _settings(state: Mapping[str, Any], of: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what of a schedule's state does not change as it goes on, by name; raise where it is none."""
    whole(f"{of}step", state["step"], 0)
    non_negative(f"{of}base_lr", state["base_lr"])
    yield from ((of + name, value) for name, value in {**state["options"]}.items())
    for name, value in state.items():
        if isinstance(value, Mapping) and name != "options":
            yield from _settings(value, f"{of}{name}.")
        elif name not in ("step", "base_lr", "options"):
            yield of + name, value
