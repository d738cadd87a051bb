"""Look into a model: what each of its layers hands on."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar

import numpy as np

from xpcnn.backend import Array, Key
from xpcnn.errors import ArgumentError
from xpcnn.nn import Flatten, Layer, Preprocess
from xpcnn.nn.preprocess import like_of, to_images
from xpcnn.nn.tree import walk

Item = TypeVar("Item")


class Activation(NamedTuple):
    """What one layer handed on; `output` is on the model's device."""

    path: str
    layer: Layer
    output: Array


def activations(model: Layer, x: Any) -> list[Activation]:
    """Run images through a model, and return the output of every layer that has no children.

    What prepares the images, `nn.Preprocess`, is not among them.

    Parameters
    ----------
    model : Layer
        Of any containers, nested as one likes; it is not changed.
    x : array (N, ...)
        uint8 images, or floating ones that are prepared already.

    Returns
    -------
    list of (path, layer, output)
        In the order in which the layers are run; a layer used twice is there twice.

    Examples
    --------
    >>> from xpcnn import data, models
    >>> found = activations(models.tiny_convnet(), data.synthetic_digits(5).images)
    >>> [(path, output.shape) for path, _, output in found]
    [('conv1', (5, 8, 26, 26)), ('pool1', (5, 8, 13, 13)), ('flatten', (5, 1352)), ('fc', (5, 10))]
    """
    found: list[Activation] = []
    _run(model, x, lambda path, layer, _, y: found.append(Activation(path, layer, y)))
    return found


def _run(model: Layer, x: Any, on_layer: Callable[[str, Layer, Array, Array], None]) -> None:
    """Run images through a model, and call `on_layer(path, layer, input, output)` as each leaf is passed.

    What is run is a copy of the model's containers in which every leaf reports itself. So containers need not
    know that they are looked into, whatever they do with their children.
    """
    found: dict[int, tuple[Layer, list[str]]] = {}
    for path, leaf in leaf_layers(model):
        found.setdefault(id(leaf), (leaf, []))[1].append(path)
    # What deepcopy finds here, it takes for the copies of the leaves.
    copied: dict[int, Any] = {which: _watched(*places, on_layer) for which, places in found.items()}
    copied_model: Layer = copy.deepcopy(model, copied)
    with model.backend.execution_context():
        copied_model(to_images(model, x, like_of("viz", model)))


def _watched(layer: Layer, paths: list[str], on_layer: Callable[[str, Layer, Array, Array], None]) -> Layer:
    """Return a layer that is like another, also to those who ask for its kind or its attributes."""
    places = itertools.cycle(paths)  # a leaf can stand in several, and is then called once for each

    def call(self: Layer, x: Array) -> Array:
        y = layer(x)
        on_layer(next(places), layer, x, y)
        return y

    def forward(self: Layer, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return call(self, x), None

    kind = type(type(layer).__name__, (type(layer),), {"__call__": call, "forward": forward})
    watched: Layer = object.__new__(kind)
    vars(watched).update(vars(layer))
    return watched


def leaf_layers(model: Layer) -> Iterator[tuple[str, Layer]]:
    """Yield (path, layer) for every layer without children, in definition order; not what prepares images."""
    if not isinstance(model, Layer):
        raise ArgumentError(f"viz: model must be a Layer, got {type(model).__name__}")
    for path, layer in walk(model):
        if not layer.children() and not isinstance(layer, Preprocess):
            yield path, layer


def layer_outputs(
    function: str, model: Layer, x: Any, pattern: str | None, result: Callable[[str, Array], Item]
) -> list[Item]:
    """Return `result(path, output)` of each leaf under a path that fits a pattern and gives new numbers.

    Raises
    ------
    ArgumentError
        When no leaf fits; `function` is named in the message.
    """
    found: list[Item] = []

    def on_layer(path: str, layer: Layer, x: Array, y: Array) -> None:
        if y is not x and not isinstance(layer, Flatten) and (pattern is None or fnmatchcase(path, pattern)):
            found.append(result(path or type(layer).__name__, y))

    _run(model, x, on_layer)
    if not found:
        known = ", ".join(dict.fromkeys(path for path, _ in leaf_layers(model)))
        raise ArgumentError(f"{function}: no layer to show fits layers={pattern!r}; layers: {known}")
    return found


def evenly_spaced(items: list[Item], most: int) -> list[Item]:
    """Return at most `most` of the items, evenly spaced, the last always among them.

    Examples
    --------
    >>> evenly_spaced(list(range(10)), 4)
    [0, 3, 6, 9]
    """
    places = np.linspace(len(items) - 1, 0, min(most, len(items)))[::-1]
    return [items[round(place)] for place in places]
