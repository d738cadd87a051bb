"""What a layer holds: layers, parameters and buffers as attributes, also in lists, tuples and dicts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from xpcnn.errors import ArgumentError
from xpcnn.nn.parameter import Buffer, Parameter, State
from xpcnn.ops.op import in_words

__all__ = ["DESCRIPTIONS", "PLAIN", "Tree", "join_paths", "members", "walk"]

Kind = TypeVar("Kind")

_WITHOUT_PATHS = (set, frozenset, deque)
DESCRIPTIONS = frozenset({"spec", "_structure"})
"""Attributes that describe a model in words, and hold nothing."""

PLAIN = frozenset({type(None), bool, int, float, str})
"""Types of attributes that hold nothing; nor do tuples of them."""


class Tree:
    """Parameters and buffers by their paths, of a layer and all layers inside it: the base of `Layer`."""

    def children(self) -> dict[str, Any]:
        """Return the child layers by name."""
        return {}

    def own_states(self) -> dict[str, State]:
        """Return the parameters and then the buffers of this layer itself, not those of its children."""
        own = members(self, vars(self), State)
        return dict(sorted(own.items(), key=lambda item: isinstance(item[1], Buffer)))

    def parameters(self) -> dict[str, Parameter]:
        """Return every parameter by its path, such as ``"conv1.weight"``, in PyTorch's order."""
        return {path: state for path, state in self._states().items() if isinstance(state, Parameter)}

    def buffers(self) -> dict[str, Buffer]:
        """Return every buffer by its path."""
        return {path: state for path, state in self._states().items() if isinstance(state, Buffer)}

    def _states(self) -> dict[str, State]:
        states: dict[str, State] = {}  # PyTorch's order: parameters, then buffers, then children
        for outer, layer in walk(self):
            for name, state in layer.own_states().items():
                path = join_paths(outer, name)
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
        matched = [] if patterns else list(parameters)
        for pattern in patterns:
            found = [path for path in parameters if isinstance(pattern, str) and fnmatchcase(path, pattern)]
            if not found:
                raise ArgumentError(
                    f"{type(self).__name__}.{method}: {in_words(pattern)} matches no parameter; there are "
                    f"{', '.join(parameters) or 'none'}"
                )
            matched += found
        for path in matched:
            parameters[path].trainable = trainable
        return [path for path in parameters if path in matched]


def members(owner: Any, attributes: Mapping[str, Any], kind: type[Kind]) -> dict[str, Kind]:
    """Return all objects of a kind in the attributes of a layer, by path.

    Parameters
    ----------
    owner : Layer
        For the message.
    attributes : mapping of name to value
        An element of a list or tuple has the path ``"name.0"``, a value of a dict ``"name.key"``, and so on.
    kind : type

    Raises
    ------
    ArgumentError
        When one is in a set or deque, or in a dict under a key that makes no path.

    Examples
    --------
    >>> list(members("it", {"body": [1.0, (2.0, "x")], "head": {"a": 3.0}}, float))
    ['body.0', 'body.1.0', 'head.a']
    """

    def found(path: str, value: Any) -> Iterator[tuple[str, Kind]]:
        if isinstance(value, kind):
            yield path, value
            return
        if type(value) in PLAIN or not isinstance(value, (list, tuple, Mapping, *_WITHOUT_PATHS)):
            return
        inside = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, element in inside:
            for inner, one in found(f"{path}.{key}", element):
                odd = isinstance(value, Mapping) and (not isinstance(key, str) or not key or "." in key)
                if odd or isinstance(value, _WITHOUT_PATHS):
                    raise ArgumentError(
                        f"{type(owner).__name__}: {path} is a {type(value).__name__} that holds a "
                        f"{type(one).__name__}{f' under the key {key!r}' if odd else ''}, which has no path "
                        f"there; use a list, a tuple, or a dict whose keys are texts without dots"
                    )
                yield inner, one

    names = (name for name in attributes if name not in DESCRIPTIONS)
    return {path: one for name in names for path, one in found(name, attributes[name])}


def walk(layer: Any, path: str = "", around: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield a layer and all layers inside it with their paths, each before its children.

    Raises
    ------
    ArgumentError
        For a layer that is inside itself.
    """
    if any(layer is outer for outer in around):
        raise ArgumentError(
            f"{type(around[0]).__name__}: {path} is a {type(layer).__name__} inside itself; a layer cannot "
            f"keep one that is around it in an attribute"
        )
    yield path, layer
    for name, child in layer.children().items():
        yield from walk(child, join_paths(path, name), (*around, layer))


def join_paths(path: str, name: str) -> str:
    """Return the path of a child."""
    return f"{path}.{name}" if path and name else path or name
