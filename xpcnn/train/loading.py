"""A model from its weight file alone."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from xpcnn.errors import ArgumentError, CheckpointError, XpcnnError
from xpcnn.io import load_weights
from xpcnn.models import build
from xpcnn.nn import Layer
from xpcnn.nn.init import at_most
from xpcnn.nn.preprocess import set_preprocessing
from xpcnn.train.run import RunDirectory

__all__ = ["load_model"]


_LACKING = 10_000
"""Numbers that a file may lack of its model: a few biases are named then, one by one."""


def load_model(path: str | PathLike[str]) -> Layer:
    """Return the published model a weight file (or a run's folder) was saved from, with its weights.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged, or does not say which model it belongs to; when it describes a
        model that has more weights than the file, before memory is taken for them.

    Warns
    -----
    NonFiniteWarning
        When there are NaN or infinite numbers among the weights.

    Examples
    --------
    >>> import tempfile
    >>> from xpcnn import models
    >>> path = tempfile.mkdtemp() + "/tiny.safetensors"
    >>> models.tiny_convnet(filters=4).save(path)
    >>> load_model(path).conv1.weight.shape
    (4, 1, 3, 3)
    """
    path = Path(path)
    if os.path.isdir(path):
        path = RunDirectory(path).weights_file
    file = load_weights(path, {})  # of a file that describes no model, nothing is read
    arrays, recipe = file
    if recipe is None:
        raise CheckpointError(
            f"{path}: does not say which model it belongs to, as that is no published one or was changed "
            f"since; build the model, replace the same children, and call model.load(path)"
        )
    try:
        with at_most(sum(array.size for array in arrays.values()) + _LACKING):
            model = build(recipe.name, **recipe.arguments)
    except Exception as error:  # of a newer xpcnn, or damaged: odd arguments fail in any way
        reason = error if isinstance(error, XpcnnError | ValueError | TypeError) else repr(error)
        raise CheckpointError(f"{path}: {reason}") from error
    model.load_state_dict(arrays)
    model.recipe = recipe  # the file knows what the weights were trained on
    try:
        set_preprocessing(model, file.preprocessing)
    except ArgumentError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model
