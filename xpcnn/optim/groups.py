"""Which parameters an optimiser has, and which of its options apply to each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from xpcnn.backend import Array
from xpcnn.errors import ArgumentError
from xpcnn.nn import Layer, Parameter
from xpcnn.ops.op import in_words

__all__ = ["Group", "ParamState", "Slots", "group_at", "new_groups", "parameters_by_path"]

Slots = dict[str, Array]
"""What an optimiser keeps of a parameter, by name."""


class Group(NamedTuple):
    """The options of the parameters whose path matches a pattern, but for the learning rate.

    That has a ratio to the optimiser's, which is kept when schedules change that one.
    """

    pattern: str
    lr_ratio: float
    options: dict[str, Any]


_DEFAULT = Group("*", 1.0, {})


@dataclass
class ParamState:
    """One parameter with the options that apply to it, how often it was updated, and its state by slot."""

    parameter: Parameter
    group: Group = _DEFAULT
    slots: tuple[str, ...] = ()
    steps: int = 0
    state: Slots = field(default_factory=dict)


def group_at(path: str, options: dict[str, Any], groups: Iterable[Group]) -> Group:
    """Return the first group that a path matches; one of an optimiser's own options where there is none."""
    matching = (group for group in groups if fnmatchcase(path, group.pattern))
    return next(matching, Group("*", 1.0, options))


def new_groups(
    name: str,
    groups: Any,
    base: dict[str, Any],
    paths: list[str],
    check: Callable[[str, Mapping[str, Any]], dict[str, Any]],
) -> list[Group]:
    """Return the groups that a user gave to the optimiser `name`; `check` cleans all options of each."""
    groups = {} if groups is None else groups
    if not isinstance(groups, Mapping) or not all(
        isinstance(pattern, str) and isinstance(own, Mapping) for pattern, own in groups.items()
    ):
        raise ArgumentError(
            f"{name}: groups must map path patterns to dicts of options, such as "
            f"{{'*.bias': {{'weight_decay': 0.0}}}}, got {in_words(groups)}"
        )
    made: list[Group] = []
    left = paths
    for pattern, own in groups.items():
        where = f"{name}: groups[{pattern!r}]"
        options = check(where, {**base, **own})
        lr = options.pop("lr")
        if "lr" in own and base["lr"] == 0:
            raise ArgumentError(
                f"{where}: a group with its own lr keeps its ratio to the base lr, which must not be 0; "
                f"to train some parameters only, set trainable=False on the others"
            )
        made.append(Group(pattern, lr / base["lr"] if "lr" in own else 1.0, options))
        if not any(fnmatchcase(path, pattern) for path in left):
            raise ArgumentError(
                f"{where} applies to no parameter that an earlier pattern does not match; "
                f"there are {', '.join(paths)}"
            )
        left = [path for path in left if not fnmatchcase(path, pattern)]
    return made


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
    first: dict[Parameter, str] = {}
    for path, parameter in found.items():
        first.setdefault(parameter, path)
    return {path: parameter for parameter, path in first.items()}
