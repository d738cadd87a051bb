"""What the book's two convolutional networks share."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from xpcnn import io
from xpcnn.arguments import whole
from xpcnn.backend import Array, backend_of, is_array, to_numpy
from xpcnn.errors import CheckpointError, StateDictError
from xpcnn.io.pickles import read_pickle
from xpcnn.ops import ConvGeometry
from xpcnn.scratch._arrays import class_numbers, samples
from xpcnn.scratch._namespace import np
from xpcnn.scratch.gradient import numerical_gradient
from xpcnn.scratch.layers import Convolution, Dropout, Pooling, SoftmaxWithLoss

__all__ = ["Network"]


class Network:
    """Layers in a row; in `params`, "W1" and "b1" belong to the first layer that has any, and so on.

    The dictionary is what counts. Its arrays may be changed in place or replaced; the layers are handed what
    it holds at every prediction.

    Attributes
    ----------
    params : dict of str to array
    layers : dict or list of layers
    last_layer : SoftmaxWithLoss
    """

    params: dict[str, Array]
    layers: Any
    last_layer: SoftmaxWithLoss

    def predict(self, x: Array, train_flg: bool = False) -> Array:
        """Return the logits (N, classes) of images (N, C, H, W)."""
        self._assign_params()
        for layer in self._layer_list():
            x = layer.forward(x, train_flg) if isinstance(layer, Dropout) else layer.forward(x)
        return x

    def loss(self, x: Array, t: Array) -> Any:
        """Return the loss of images with labels (N,) or (N, 1), or one-hot rows, with dropout at work."""
        return self.last_layer.forward(self.predict(x, train_flg=True), t)

    def accuracy(self, x: Array, t: Array, batch_size: int = 100) -> float:
        """Return the fraction of images classified correctly, those of an incomplete last batch included."""
        x, t = samples("accuracy", x, t)
        n, labels, hits = x.shape[0], class_numbers(t), 0
        for start in range(0, n, batch_size := whole("accuracy: batch_size", batch_size, 1)):
            some = slice(start, min(start + batch_size, n))
            y = self.predict(x[some, ...])
            xp = backend_of(y, labels).xp
            hits += int(xp.sum(xp.astype(xp.argmax(y, axis=1) == labels[some], xp.int64)))
        return hits / n

    def gradient(self, x: Array, t: Array) -> dict[str, Array]:
        """Return the gradient of the loss for each entry of `params`, by backpropagation."""
        self.loss(x, t)
        dout = self.last_layer.backward(1)
        first, *others = self._layer_list()
        for layer in reversed(others):
            dout = layer.backward(dout)
        first.backward(dout, need_dx=False)
        grads = {}
        for i, layer in enumerate(self._weight_layers(), start=1):
            grads[f"W{i}"], grads[f"b{i}"] = layer.dW, layer.db
        return grads

    def numerical_gradient(self, x: Array, t: Array) -> dict[str, Array]:
        """Return what `gradient` does, by finite differences: slow, and right without a thought.

        Dropout masks are drawn once and held, so that all differences are of one function.
        """
        self.loss(x, t)
        self._hold_masks(True)
        try:
            return {key: numerical_gradient(lambda _: self.loss(x, t), p) for key, p in self.params.items()}
        finally:
            self._hold_masks(False)

    def save_params(self, file_name: str | PathLike[str] = "params.pkl") -> None:
        """Write `params` to a file: safetensors if the name ends so, else npz, and never a pickle.

        A script's ``save_params("params.pkl")`` writes an npz archive under that very name, which
        `load_params` and `numpy.load` recognise by its content.

        Raises
        ------
        CheckpointError
            For an ending other than .npz, .pkl or .safetensors, or when the file cannot be written.
        """
        arrays = {key: to_numpy(value) for key, value in self.params.items()}
        if Path(file_name).suffix != ".pkl":
            io.save_arrays(file_name, arrays, {})
            return
        # Under the script's own name: where it looks for its params.pkl again, the file is there.
        with io.replacing(file_name) as temporary:
            archive = temporary.with_suffix(".npz")
            io.save_arrays(archive, arrays, {})
            os.replace(archive, temporary)

    def load_params(self, file_name: str | PathLike[str] = "params.pkl") -> None:
        """Take `params` from a file of `save_params`, or from an old pickle, which is read but never run.

        The arrays keep the dtype of the file, so float16 weights stay float16, and come to the backend of
        those that they replace.

        Raises
        ------
        CheckpointError
            When the file is missing, damaged, or a pickle of anything but arrays, numbers and text.
        StateDictError
            When names or shapes are not those of this network; nothing is changed then.
        """
        self.params.update(_fit_params(file_name, self.params))
        self._assign_params()

    def _hold_masks(self, hold: bool) -> None:
        for layer in self._layer_list():
            if isinstance(layer, Dropout):
                layer.hold = hold

    def _layer_list(self) -> list[Any]:
        return list(self.layers.values() if isinstance(self.layers, dict) else self.layers)

    def _weight_layers(self) -> list[Any]:
        return [layer for layer in self._layer_list() if hasattr(layer, "W")]

    def _assign_params(self) -> None:
        for i, layer in enumerate(self._weight_layers(), start=1):
            layer.W, layer.b = self.params[f"W{i}"], self.params[f"b{i}"]

    def _draw(self, std: float | None, *shape: int) -> tuple[Array, Array]:
        """Draw the next layer's parameters: weights of a standard deviation, by default He's, and zeros.

        `shape` is (FN, C, FH, FW) of filters or (inputs, outputs).
        """
        number = len(self.params) // 2 + 1
        inputs, outputs = (shape[0], shape[1]) if len(shape) == 2 else (math.prod(shape[1:]), shape[0])
        W = (math.sqrt(2.0 / inputs) if std is None else std) * np.random.randn(*shape)
        self.params |= {f"W{number}": W, f"b{number}": np.zeros(outputs)}
        return W, self.params[f"b{number}"]

    def _convolution(
        self, input_shape: tuple[int, ...], conv_param: Mapping[str, int], std: float | None = None
    ) -> tuple[Convolution, tuple[int, ...]]:
        """Return a convolution of new parameters, and the (C, H, W) that it makes of `input_shape`."""
        size, stride, pad = (conv_param[key] for key in ("filter_size", "stride", "pad"))
        shape = (conv_param["filter_num"], input_shape[0], size, size)
        geometry = ConvGeometry.of((1, *input_shape), shape, stride, pad, op=type(self).__name__)
        return Convolution(*self._draw(std, *shape), stride, pad), geometry.output_shape[1:]

    def _pooling(self, input_shape: tuple[int, ...]) -> tuple[Pooling, tuple[int, ...]]:
        """Return a pooling by 2×2, and the (C, H, W) that it makes of `input_shape`."""
        shape = (input_shape[0], input_shape[0], 2, 2)
        geometry = ConvGeometry.of((1, *input_shape), shape, 2, op=type(self).__name__)
        return Pooling(pool_h=2, pool_w=2, stride=2), geometry.output_shape[1:]


def _read_params(path: str | PathLike[str], params: Mapping[str, Array]) -> dict[str, Any]:
    """Return the dictionary in a file of `save_params`, or in a pickle; what it is, its content says.

    Of another tool's archive, only entries that fit `params` are read.

    Raises
    ------
    CheckpointError
        When the file is missing or damaged, or is a pickle of anything but arrays, numbers and text.
    """
    wanted = {key: tuple(value.shape) for key, value in params.items()}
    if Path(path).suffix == ".safetensors":
        return dict(io.load_arrays(path, wanted=wanted)[0])
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"PK":  # a zip file, which npz files are
                return dict(io.load_arrays(path, ending=".npz", wanted=wanted)[0])
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    found = read_pickle(path)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: a pickle of a {type(found).__name__}, not of a dict of parameters")
    return found


def _fit_params(path: str | PathLike[str], params: Mapping[str, Array]) -> dict[str, Array]:
    """Return what a file has for `params`, as arrays on their backends, in the file's own dtypes.

    Raises
    ------
    StateDictError
        Naming every entry that is missing, not expected, no array of real numbers, or of another shape.
    """
    found = _read_params(path, params)
    problems = [f"missing: {key}" for key in params if key not in found]
    for key, array in found.items():
        if key not in params:
            problems.append(f"unexpected: {key!r}")
        elif not is_array(array):
            problems.append(f"{key}: a {type(array).__name__}, not an array of real numbers")
        elif array.dtype.kind not in "fiu":
            problems.append(f"{key}: an array of {array.dtype}, not one of real numbers")
        elif tuple(array.shape) != tuple(params[key].shape):
            problems.append(f"{key}: shape {tuple(array.shape)}, expected {tuple(params[key].shape)}")
    if problems:
        raise StateDictError(f"{path} does not fit this network:\n  " + "\n  ".join(problems))
    backends = {key: backend_of(value) for key, value in params.items()}
    return {key: backend.copy(backend.asarray(found[key])) for key, backend in backends.items()}
