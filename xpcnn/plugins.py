"""What other installed distributions bring: objects by name, in a group of entry points.

A distribution declares them in its ``pyproject.toml``::

    [project.entry-points."xpcnn.models"]
    my_net = "my_package.networks:my_net"

Nothing is imported before an object is asked for by its name.
"""

from __future__ import annotations

import functools
import re
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from xpcnn.errors import ArgumentError, PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Registry", "check_name", "load", "names"]

Object = TypeVar("Object")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,79}")


def names(group: str) -> tuple[str, ...]:
    """Return the names in a group, such as ``"xpcnn.models"``, sorted.

    Examples
    --------
    >>> names("xpcnn.nobody.declares.this")
    ()
    """
    return tuple(_found(group))


def load(group: str, name: str) -> Any:
    """Return the object that a distribution declares under a name in a group.

    Raises
    ------
    PluginError
        When none does, or several; when the object cannot be imported. The message names the distribution.
    """
    found = _found(group).get(name, ())
    if len(found) != 1:
        several = f"{' and '.join(map(_distribution, found))} declare it; uninstall all but one"
        raise PluginError(f"{group}: {name!r:.60}: {several if found else 'no distribution declares it'}")
    (point,) = found
    try:
        return point.load()
    except Exception as error:  # of any kind: it is another program's
        raise PluginError(
            f"{group}: {name!r:.60} of the distribution {_distribution(point)} cannot be imported from "
            f"{point.value!r:.100}: {type(error).__name__}: {error!s:.300}"
        ) from error


@functools.cache
def _found(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """Return the entry points of a group by name: of each distribution one."""
    from importlib.metadata import entry_points  # a dozen modules, which most programs do without

    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, {})[_distribution(point)] = point
    return {name: tuple(found[name].values()) for name in sorted(found)}


def _distribution(point: EntryPoint) -> str:
    return "an unknown one" if point.dist is None else f"{point.dist.name} {point.dist.version}"


class Registry(UserDict[str, Object]):
    """Objects by name: those put in here, and those that other distributions declare in a group.

    The latter are imported when they are asked for by name, and asked about when no other name fits.

    Parameters
    ----------
    group : str
    adopted : callable
        Is given the name and the object of a distribution, and returns what is kept.
    """

    def __init__(self, group: str, adopted: Callable[[str, Any], Object]) -> None:
        super().__init__()
        self._group, self._adopted = group, adopted

    def __missing__(self, name: str) -> Object:
        if name not in self:
            raise KeyError(name)
        found = load(self._group, name)
        try:
            self.data[name] = self._adopted(name, found)
        except ArgumentError as error:
            raise PluginError(f"{self._group}: {name!r:.60}: {error}") from error
        return self.data[name]

    def __contains__(self, name: object) -> bool:
        return name in self.data or name in names(self._group)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self.data, *names(self._group))))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def add(self, what: str, name: str, value: Object) -> None:
        """Put a function in under a name that no other has; the same one may come again, as from a cell.

        Raises
        ------
        ArgumentError
            For a name that is taken; `what` asks for it.
        """
        if name in self.data and _place(self.data[name]) != _place(value):
            raise ArgumentError(f"{what}: the name {name!r} is taken; choose another one")
        self.data[name] = value


def _place(function: Any) -> tuple[Any, Any]:
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


def check_name(what: str, name: Any) -> None:
    """Require a name that a file and a command line can hold."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        if callable(name):
            raise ArgumentError(f'{what}: its name is missing; write @{what}("my_name") before it')
        shown = repr(name)[:90] if isinstance(name, str) else type(name).__name__
        raise ArgumentError(
            f"{what}: a name must be a letter followed by letters, digits, dots, hyphens and underscores, at "
            f"most 80 in all, got {shown}"
        )
