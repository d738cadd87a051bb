"""What other installed distributions bring: objects by name, in a group of entry points.

A distribution declares them in its ``pyproject.toml``::

    [project.entry-points."xpcnn.models"]
    my_net = "my_package.networks:my_net"

Nothing is imported before an object is asked for by its name.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from xpcnn.errors import PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["load", "names"]


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
