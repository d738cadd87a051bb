"""Gradients against central finite differences, which call forward alone.

For a random `dy`, the derivative of the scalar ``<dy, forward(x)>`` is taken twice: by backward, and as
``<dy, f(v + eps) − f(v − eps)> / (2·eps)``. Everything is perturbed on the host in float64, so every backend
is checked in the same way.

References
----------
Press, Teukolsky, Vetterling and Flannery, "Numerical Recipes", section 5.7: the error of a central difference
is eps² times the third derivative, plus rounding divided by eps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from xpcnn.backend import Array, Key, backend_of, dtype_name, to_numpy
from xpcnn.errors import ArgumentError, DtypeError
from xpcnn.nn import Gradients, Layer, Parameter
from xpcnn.ops.op import Op

__all__ = ["GradcheckResult", "gradcheck"]

_DIRECTIONS = 4

# Values by the names of inputs: on the host, and as the layer or op has them.
Point = dict[str, np.ndarray]
Arrays = dict[str, Array]


class GradcheckResult(NamedTuple):
    """The largest ``|analytic − numeric|`` of a check that passed, and how many derivatives it compared."""

    max_error: float
    compared: int


def gradcheck(
    layer: Layer | Op[..., Any],
    x: Array,
    *more: Array,
    seed: int = 0,
    eps: float = 1e-6,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    train: bool = False,
    key: Key | None = None,
    directional: bool = False,
) -> GradcheckResult:
    """Check by finite differences a layer's dx and every trainable parameter's gradient, or an op's backward.

    The layer is left as it was, batch-norm's running statistics included. Keep `x` away from kinks, such as
    ReLU's at 0: within `eps` of one the two derivatives differ rightly.

    Parameters
    ----------
    layer : Layer or op
        A layer with float64 parameters, on any backend; or an op with its ``backward``, such as
        `xpcnn.ops.gelu`.
    x : array, float64
        On the layer's backend.
    *more : array, float64
        An op's other arrays.
    seed : int
        For dy, the directions, and the masks of dropout unless `key` is given.
    eps : float
        The step of the differences.
    rtol, atol : float
        What is allowed: ``|analytic − numeric| <= atol + rtol·|numeric|``.
    train : bool
        Passed to forward.
    key : Key, optional
        Passed to forward.
    directional : bool
        False compares each element, at two forwards each. True compares the derivatives along a few random
        directions through `x` and all parameters at once: for whole models. The relative error is then
        that of the sum of the absolute contributions of `x` and of each parameter.

    Returns
    -------
    GradcheckResult
        The largest error, and the number of derivatives compared.

    Raises
    ------
    AssertionError
        Naming the parameter's path (``x``, or an op's ``arrays[0]``), the index, and both derivatives.
    DtypeError
        When `x` or a parameter is not float64.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn import nn
    >>> layer = nn.Linear(3, 2, dtype="float64", seed=0)
    >>> result = gradcheck(layer, xpcnn.asarray([[1.0, 2.0, 3.0]]))
    >>> result.compared, result.max_error < 1e-8
    (11, True)
    >>> gradcheck(xpcnn.ops.gelu, xpcnn.asarray([1.0, 2.0])).compared
    2
    """
    key = Key(seed) if key is None else key
    if not isinstance(layer, Layer):
        arrays = {f"arrays[{i}]": array for i, array in enumerate((x, *more))}
        remedy, (forward, backward) = "xpcnn.asarray(x, dtype='float64')", _of_op(layer, list(arrays))
    elif more:
        raise ArgumentError(f"gradcheck: a layer has one input, got {1 + len(more)}")
    else:
        arrays = {"x": x, **{path: p.data for path, p in layer.parameters().items()}}
        remedy, (forward, backward) = "layer.to(dtype='float64')", _of_layer(layer, train, key)
    for name, array in arrays.items():
        found = dtype_name(array.dtype)
        if found != "float64":
            raise DtypeError(f"gradcheck: {name} is {found}, too coarse for finite differences; use {remedy}")

    def moved(changed: Point) -> np.ndarray:
        given = {name: backend_of(arrays[name]).asarray(value) for name, value in changed.items()}
        return to_numpy(forward({**arrays, **given})[0])

    rng = np.random.default_rng(seed)
    y, ctx = forward(arrays)
    dy = rng.standard_normal(tuple(y.shape))
    gradients = backward(ctx, backend_of(y).asarray(dy))
    point = {name: to_numpy(arrays[name]) for name in gradients}
    check = _Check(moved, dy, point, _on_host(point, gradients), eps, rtol, atol)
    return check.along_directions(rng) if directional else check.each_element()


def _of_op(op: Op[..., Any], names: list[str]) -> tuple[Callable[[Arrays], Any], Callable[[Any, Array], Any]]:
    def backward(ctx: Any, dy: Array) -> dict[str, Array | None]:
        found = op.backward(ctx, dy)
        gradients = list(found) if isinstance(found, tuple) else [found]
        while len(gradients) > len(names) and gradients[-1] is None:  # of a bias that was left out
            gradients.pop()
        if len(gradients) != len(names):
            raise AssertionError(f"gradcheck: {len(names)} arrays but {len(gradients)} gradients")
        return dict(zip(names, gradients, strict=True))

    return lambda arrays: op(*arrays.values()), backward


def _of_layer(
    layer: Layer, train: bool, key: Key
) -> tuple[Callable[[Arrays], Any], Callable[[Any, Array], Any]]:
    """Return both passes; a parameter with several paths has its first."""
    paths: dict[Parameter, str] = {}
    for path, parameter in layer.parameters().items():
        paths.setdefault(parameter, path)

    def forward(arrays: Arrays) -> Any:
        with _restoring(layer):
            for parameter, path in paths.items():
                parameter.data = arrays[path]
            return layer.forward(arrays["x"], train=train, key=key)

    def backward(ctx: Any, dy: Array) -> dict[str, Array | None]:
        grads = Gradients()
        dx = layer.backward(ctx, dy, grads)
        return {"x": dx, **{path: grads.get(p) for p, path in paths.items() if p.trainable}}

    return forward, backward


class _Check(NamedTuple):
    """One function at one point, with the derivatives that are to be confirmed."""

    forward: Callable[[Point], np.ndarray]
    dy: np.ndarray
    point: Point
    analytic: Point
    eps: float
    rtol: float
    atol: float

    def slope(self, direction: Point) -> float:
        """Return the numeric derivative along `direction`."""
        above = self.forward({name: self.point[name] + self.eps * v for name, v in direction.items()})
        below = self.forward({name: self.point[name] - self.eps * v for name, v in direction.items()})
        # Subtracted before they are summed, which rounds less.
        return float(np.sum(self.dy * (above - below))) / (2 * self.eps)

    def each_element(self) -> GradcheckResult:
        worst, compared = 0.0, 0
        for name, values in self.point.items():
            for index in np.ndindex(values.shape):
                unit = np.zeros(values.shape)
                unit[index] = 1.0
                numeric, analytic = self.slope({name: unit}), float(self.analytic[name][index])
                error = abs(analytic - numeric)
                if not error <= self.atol + self.rtol * abs(numeric):  # NaN fails
                    raise AssertionError(f"gradcheck: {name}{list(index)}: {_both(analytic, numeric)}")
                worst, compared = max(worst, error), compared + 1
        return GradcheckResult(worst, compared)

    def along_directions(self, rng: np.random.Generator) -> GradcheckResult:
        worst = 0.0
        for _ in range(_DIRECTIONS):
            # Each of length 1, so that a large parameter does not hide a small one.
            direction = {name: _unit(rng.standard_normal(v.shape)) for name, v in self.point.items()}
            parts = {name: float(np.sum(self.analytic[name] * v)) for name, v in direction.items()}
            numeric, analytic = self.slope(direction), sum(parts.values())
            error = abs(analytic - numeric)
            if not error <= self._allowed(parts):
                raise AssertionError(
                    f"gradcheck: along a random direction through {', '.join(parts)}: "
                    f"{_both(analytic, numeric)}{self._blame(direction, parts)}"
                )
            worst = max(worst, error)
        return GradcheckResult(worst, _DIRECTIONS)

    def _allowed(self, parts: dict[str, float]) -> float:
        return self.atol + self.rtol * sum(map(abs, parts.values()))

    def _blame(self, direction: Point, parts: dict[str, float]) -> str:
        """Return a line for each input whose own part of the direction disagrees."""
        lines = ""
        for name, analytic in parts.items():
            numeric = self.slope({name: direction[name]})
            if not abs(analytic - numeric) <= self._allowed(parts):
                lines += f"\n  along {name} alone: {_both(analytic, numeric)}"
        return lines


@contextmanager
def _restoring(layer: Layer) -> Iterator[None]:
    states = [*layer.parameters().values(), *layer.buffers().values()]
    kept = [(state, state.data) for state in states]
    try:
        yield
    finally:
        for state, data in kept:
            state.data = data


def _on_host(point: Point, gradients: dict[str, Array | None]) -> Point:
    """Return the gradients as NumPy arrays, 0 where there is none, after a look at shapes and dtypes."""
    host = {}
    for name, gradient in gradients.items():
        if gradient is None:  # right only if the numeric derivative is 0 too
            host[name] = np.zeros(point[name].shape)
            continue
        host[name] = to_numpy(gradient)
        if host[name].shape != point[name].shape or dtype_name(gradient.dtype) != "float64":
            raise AssertionError(
                f"gradcheck: the gradient of {name} is {dtype_name(gradient.dtype)} {host[name].shape} "
                f"but {name} is float64 {point[name].shape}"
            )
    return host


def _unit(values: np.ndarray) -> np.ndarray:
    length = float(np.sqrt(np.sum(values * values)))
    return values / length if length else values


def _both(analytic: float, numeric: float) -> str:
    return f"backward gives {analytic:.10g}, finite differences {numeric:.10g}"
