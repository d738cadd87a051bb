"""What optimisers and schedules share: options declared as a table, and reading a saved state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from inspect import Parameter, Signature, signature
from typing import Any, ClassVar

from xpcnn.backend import Array, home_of
from xpcnn.errors import ArgumentError, StateDictError
from xpcnn.nn.parameter import State
from xpcnn.ops.op import accumulator, in_words, plain, real

__all__ = ["Configured", "Rules", "differences", "fraction", "load_arrays", "non_negative"]
__all__ += ["copy_like", "saved_state", "two_fractions"]


class Rules(dict[str, tuple[Any, Callable[[str, Any], Any]]]):
    """Options by name, each with its default (``...`` where there is none) and its rule.

    A rule takes what the value is (for the message) and the value. It returns it cleaned, or raises
    `ArgumentError`.
    """


non_negative = partial(real, least=0)


def fraction(what: str, value: Any) -> float:
    """Accept a number in [0, 1)."""
    number = real(what, value)
    if not 0 <= number < 1:
        raise ArgumentError(f"{what} must be at least 0 and less than 1, got {in_words(value)}")
    return number


def two_fractions(what: str, value: Any) -> tuple[float, float]:
    """Accept two numbers in [0, 1)."""
    numbers = plain(value)
    if not isinstance(numbers, tuple) or len(numbers) != 2:
        raise ArgumentError(f"{what} must be two numbers, got {in_words(value)}")
    return fraction(f"{what}[0]", numbers[0]), fraction(f"{what}[1]", numbers[1])


class Configured:
    """The base of `Optimizer` and `Schedule`, whose subclasses declare their options in `rules`.

    A subclass is called with `subject`, then with its options in their order, then with `more`.
    """

    rules = Rules()
    """The options, each with its default and its allowed values."""

    subject: ClassVar[str]
    more: ClassVar[Mapping[str, Any]] = {}
    __signature__: ClassVar[Signature]
    _arguments: ClassVar[Signature]

    def __init_subclass__(cls) -> None:
        defaults = {name: default for name, (default, _) in cls.rules.items()}
        defaults = {cls.subject: ..., **defaults, **cls.more}
        cls._arguments = cls.__signature__ = Signature([_parameter(*item) for item in defaults.items()])
        maker: Any = next(base for base in cls.__mro__ if "__init__" in vars(base))
        if "subject" not in vars(maker):  # a constructor of the subclass's own
            _, *parameters = signature(maker.__init__).parameters.values()
            cls.__signature__ = Signature(parameters)

    def _bind(self, args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
        """Return all arguments by name; those that are not given are the defaults."""
        self._name = type(self).__name__
        try:
            bound = self._arguments.bind(*args, **options)
        except TypeError as error:
            raise TypeError(f"{self._name}: {error}") from None
        bound.apply_defaults()
        return bound.arguments

    def check_together(self, where: str, options: Mapping[str, Any]) -> None:
        """Raise `ArgumentError` for options that are allowed each, but not with one another."""

    def _checked(self, where: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a whole set of options, cleaned by the rules."""
        for name in options:
            if name not in self.rules:
                raise ArgumentError(
                    f"{where}: {self._name} has no option {name!r}; it has {', '.join(self.rules)}"
                )
        checked = {name: rule(f"{where}: {name}", options[name]) for name, (_, rule) in self.rules.items()}
        self.check_together(where, checked)
        return checked


def _parameter(name: str, default: Any) -> Parameter:
    parameter = Parameter(name, Parameter.POSITIONAL_OR_KEYWORD)
    return parameter if default is ... else parameter.replace(default=default)


@contextmanager
def saved_state(where: str, what: str) -> Iterator[list[str]]:
    """Return the block that reads a saved state, and a list for what of it does not fit.

    Raises
    ------
    StateDictError
        When it is no state of `what`, or does not fit; all of the list is named.
    """
    problems: list[str] = []
    try:
        yield problems
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise StateDictError(f"{where}: not the state of {what}: {error!r}") from error
    if problems:
        raise StateDictError(f"{where}: the saved state does not fit:\n  " + "\n  ".join(problems))


def differences(expected: Iterable[str], found: Iterable[str], of: str = "") -> list[str]:
    """Return which names are missing and which unexpected, in words."""
    expected, found = list(expected), list(found)
    missing = [f"missing: {of}{name}" for name in expected if name not in found]
    return missing + [f"unexpected: {of}{name}" for name in found if name not in expected]


def load_arrays(
    problems: list[str], states: Mapping[str, State], saved: Mapping[str, Any], of: str = ""
) -> dict[str, Array]:
    """Return copies of saved arrays, each where its state is; note names and shapes that differ."""
    problems += differences(states, saved, of)
    arrays = {name: copy_like(state, saved[name]) for name, state in states.items() if name in saved}
    problems += [
        f"wrong shape: {of}{name} is {tuple(array.shape)}, not {states[name].shape}"
        for name, array in arrays.items()
        if tuple(array.shape) != states[name].shape
    ]
    return arrays


def copy_like(state: State, array: Any) -> Array:
    """Return a copy of an array of any library, where a parameter or buffer is.

    It is of that one's dtype, and of float32 where that is half precision.
    """
    dtype = state.data.dtype
    backend = home_of(state.data)
    return backend.copy(backend.asarray(array, accumulator(backend, dtype) or dtype))
