"""A model from its weight file alone."""

from __future__ import annotations

import logging
import math
import os
from os import PathLike
from pathlib import Path
from typing import Any

from xpcnn import nn, plugins
from xpcnn.errors import CheckpointError, PluginError, StateDictError, UnknownLayerError, XpcnnError
from xpcnn.io import load_weights
from xpcnn.models import build
from xpcnn.nn import Layer
from xpcnn.nn.init import LACKING, MOST_REPLACED, without_memory
from xpcnn.nn.spec import ModelSpec, parse_recipe, parse_spec
from xpcnn.train.run import RunDirectory

__all__ = ["load_model"]

_log = logging.getLogger(__name__)


def load_model(path: str | PathLike[str]) -> Layer:
    """Return the model a weight file (or a run's folder) was saved from, with its weights.

    It is built by the function of `xpcnn.models` that the file names, or of the structure that it holds; its
    weights have the dtype of those in the file. Nothing of a file is run: classes of one's own layers have to
    be registered before, by `nn.registered`, and functions by `models.register_model`.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged, or does not say how its model is built; for a layer that is not
        known, by its name. When it describes a model that has more weights than the file, before memory is
        taken for them.

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
    arrays, metadata = load_weights(path, {})  # of a file that describes no model, nothing is read
    where = f"{path}: the model's description is unreadable"
    spec, older = ModelSpec(), None
    if "spec" in metadata:
        spec = parse_spec(metadata["spec"], where)
    elif "recipe" in metadata:
        spec, *older = parse_recipe(metadata["recipe"], where)
    if spec.builder is None and spec.structure is None:
        missing = "" if spec.missing is None else f", as {spec.missing:.300}"
        raise CheckpointError(
            f"{path}: does not say how its model is built{missing}; build the model, "
            f"and call model.load(path)"
        )
    try:
        most = sum(array.size for array in arrays.values()) + LACKING
        with without_memory(max(most, MOST_REPLACED), own=2 * most):
            model: Layer = _built(spec)
        if older and (layer := nn.preprocess_of(model)) is not None:
            layer.mean, layer.std = older
        weights = sum(math.prod(state.shape) for state in model._states().values())
        if weights > most:
            raise CheckpointError(
                f"its description has {weights:,} weights, more than the {most:,} that are there"
            )
    except Exception as error:  # of a newer xpcnn, or damaged: odd arguments fail in any way
        reason = error if isinstance(error, XpcnnError | ValueError | TypeError) else repr(error)
        raise CheckpointError(f"{path}: {reason}") from error
    kinds = {array.dtype for array in arrays.values() if array.dtype.kind == "f"}
    if len(kinds) == 1:
        model.to(dtype=kinds.pop().name)
    try:
        model.load_state_dict(arrays)
    except StateDictError as error:
        raise StateDictError(f"{path}: {error}") from error
    model.spec = spec._replace(structure=None)  # the model itself has it
    return model


def _built(spec: ModelSpec) -> Any:
    if spec.builder is not None:
        return build(spec.builder, **spec.arguments)
    try:
        return nn.from_config(spec.structure)
    except UnknownLayerError:
        for name in plugins.names("xpcnn.models"):  # other distributions, which may register layers
            try:
                plugins.load("xpcnn.models", name)
            except PluginError as error:
                _log.warning("%s", error)
    return nn.from_config(spec.structure)
