"""Models by name; and ensembles of published ones, as files of earlier versions describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xpcnn import nn
from xpcnn.errors import ArgumentError, CheckpointError
from xpcnn.models import catalog
from xpcnn.nn.preprocess import set_preprocessing
from xpcnn.nn.spec import checked_recipe
from xpcnn.ops.op import in_words, plain

__all__ = ["build", "ensemble"]


def ensemble(members: Sequence[Mapping[str, Any]], vote: str = "mean") -> nn.Ensemble:
    """Return a new ensemble of published models; see `nn.Ensemble`, which takes models themselves.

    Parameters
    ----------
    members : sequence of mappings
        `name` and `arguments` of each one's builder, `mean`, `std` and, where they are known, `input_shape`
        and `preparation`.
    vote : "mean" or "geometric"

    Raises
    ------
    ArgumentError
        For an unknown name, other fields, or members that do not fit together.

    Examples
    --------
    >>> tiny = {"name": "tiny_convnet", "arguments": {"filters": 4}, "mean": 0.5, "std": 1.0}
    >>> [member.conv1.weight.shape for member in ensemble([tiny, tiny])]
    [(4, 1, 3, 3), (4, 1, 3, 3)]
    """
    given: Any = members
    if not isinstance(given, list | tuple):
        raise ArgumentError(f"ensemble: members must be a list of descriptions, got {in_words(given)}")
    return nn.Ensemble(*(_member(i, member) for i, member in enumerate(members)), vote=vote)


def build(name: str, **arguments: Any) -> nn.Layer:
    """Return a new published model by name, or an `ensemble` of such.

    Raises
    ------
    ArgumentError
        For an unknown name, or an argument its builder does not take.

    Examples
    --------
    >>> build("tiny_convnet", filters=4).conv1.weight.shape
    (4, 1, 3, 3)
    """
    return ensemble(**arguments) if name == "ensemble" else catalog.build(name, **arguments)


def _member(number: int, described: Mapping[str, Any]) -> nn.Layer:
    try:
        older = checked_recipe(plain(described), f"ensemble: member {number} is no model's description")
    except CheckpointError as error:
        raise ArgumentError(str(error)) from error
    model = build(str(older.spec.builder), **older.spec.arguments)
    model.spec = older.spec
    set_preprocessing(model, older.mean, older.std)
    return model
