"""The options of optimisers and schedules: what each may be, and which parameters it applies to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from xpcnn.errors import ArgumentError
from xpcnn.nn import Layer, Parameter
from xpcnn.ops.op import flag, in_words, plain, positive, real, whole

__all__ = [
    "Rule",
    "Settings",
    "count",
    "flag",
    "fraction",
    "non_negative",
    "parameters_by_path",
    "positive",
    "positive_count",
    "share",
    "two_fractions",
]

# -- what an option may be ---------------------------------------------------------------

Rule = Callable[[str, Any], Any]
"""Takes what the value is (for the message) and the value; returns it cleaned, or raises `ArgumentError`."""


def non_negative(what: str, value: Any) -> float:
    """Accept a finite number of at least 0."""
    return real(what, value, 0)


def fraction(what: str, value: Any) -> float:
    """Accept a number in [0, 1)."""
    number = real(what, value)
    if not 0 <= number < 1:
        raise ArgumentError(f"{what} must be at least 0 and less than 1, got {in_words(value)}")
    return number


def share(what: str, value: Any) -> float:
    """Accept a number in [0, 1]."""
    return real(what, value, 0, 1)


def count(what: str, value: Any) -> int:
    """Accept an integer of at least 0."""
    return whole(what, value, 0)


def positive_count(what: str, value: Any) -> int:
    """Accept an integer of at least 1."""
    return whole(what, value, 1)


def two_fractions(what: str, value: Any) -> tuple[float, float]:
    """Accept two numbers in [0, 1)."""
    numbers = plain(value)
    if not isinstance(numbers, tuple) or len(numbers) != 2:
        raise ArgumentError(f"{what} must be two numbers, got {in_words(value)}")
    return fraction(f"{what}[0]", numbers[0]), fraction(f"{what}[1]", numbers[1])


# -- which parameters it applies to ------------------------------------------------------

Check = Callable[[str, Mapping[str, Any]], dict[str, Any]]
"""Takes where a whole set of options stands (for the message) and the options; returns them cleaned."""


class Group(NamedTuple):
    """All options of the parameters whose path matches a pattern."""

    pattern: str
    lr_ratio: float
    options: dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """The options of an optimiser, all but the learning rate, and the groups that differ from them.

    A group keeps the ratio of its learning rate to the optimiser's, as schedules change that one.
    """

    options: dict[str, Any]
    groups: list[Group]

    @classmethod
    def of(cls, name: str, check: Check, lr: float, options: Mapping[str, Any], groups: Any) -> Settings:
        """Return the settings for what a user gave."""
        base = check(name, options)
        if not isinstance(groups, Mapping) or not all(
            isinstance(pattern, str) and isinstance(own, Mapping) for pattern, own in groups.items()
        ):
            raise ArgumentError(
                f"{name}: groups must map path patterns to dicts of options, such as "
                f"{{'*.bias': {{'weight_decay': 0.0}}}}, got {in_words(groups)}"
            )
        made = []
        for pattern, overrides in groups.items():
            where = f"{name}: groups[{pattern!r}]"
            own = {option: value for option, value in overrides.items() if option != "lr"}
            ratio = _ratio(where, overrides["lr"], lr) if "lr" in overrides else 1.0
            made.append(Group(pattern, ratio, check(where, {**base, **own})))
        return cls(base, made)

    @classmethod
    def from_saved(
        cls, check: Check, options: Mapping[str, Any], groups: list[Mapping[str, Any]]
    ) -> Settings:
        """Return the settings that `to_saved` described."""
        return cls(
            check("options", options),
            [
                Group(
                    str(group["pattern"]),
                    non_negative("lr_ratio", group["lr_ratio"]),
                    check("groups", group["options"]),
                )
                for group in groups
            ],
        )

    def to_saved(self) -> dict[str, Any]:
        """Return the settings as plain values that JSON keeps as they are."""
        # A list, since the order of the groups matters and JSON writers may sort keys.
        groups = [{**group._asdict(), "options": _plain(group.options)} for group in self.groups]
        return {"options": _plain(self.options), "groups": groups}

    def at(self, path: str) -> tuple[float, dict[str, Any]]:
        """Return the ratio to the base learning rate, and the options, for one parameter."""
        group = self._group_of(path)
        return (1.0, self.options) if group is None else (group.lr_ratio, group.options)

    def require_all_used(self, name: str, paths: list[str]) -> None:
        """Raise `ArgumentError` for a group that applies to no parameter."""
        used = [self._group_of(path) for path in paths]
        for group in self.groups:
            if any(group is one for one in used):
                continue
            if any(fnmatchcase(path, group.pattern) for path in paths):
                raise ArgumentError(
                    f"{name}: groups[{group.pattern!r}] applies to no parameter, since the first matching "
                    f"pattern wins and earlier ones match all of its own; put it before them"
                )
            raise ArgumentError(
                f"{name}: groups[{group.pattern!r}] matches no parameter; there are {', '.join(paths)}"
            )

    def _group_of(self, path: str) -> Group | None:
        return next((group for group in self.groups if fnmatchcase(path, group.pattern)), None)


def parameters_by_path(name: str, model: Any) -> dict[str, Parameter]:
    """Return the parameters of a layer or mapping; one that has several paths goes by its first."""
    found = model.parameters() if isinstance(model, Layer) else model
    if not isinstance(found, Mapping) or not all(isinstance(p, Parameter) for p in found.values()):
        raise ArgumentError(
            f"{name}: the first argument must be a Layer or a mapping of paths to Parameters, such as "
            f"model.parameters(), got {type(model).__name__}"
        )
    if not found:
        raise ArgumentError(f"{name}: there is no parameter to train in {type(model).__name__}")
    first: dict[int, str] = {}
    for path, parameter in found.items():
        first.setdefault(id(parameter), path)
    return {path: found[path] for path in first.values()}


def _ratio(where: str, group_lr: Any, lr: float) -> float:
    own = non_negative(f"{where}: lr", group_lr)
    if lr == 0:
        raise ArgumentError(
            f"{where}: a group with its own lr keeps its ratio to the base lr, which must not be 0; "
            f"to train some parameters only, set trainable=False on the others"
        )
    return own / lr


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
