"""Folding batch-norms into the layers before them: against PyTorch's, and against the model before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.nn import draw, drawn_state
from xpcnn import nn

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

CONVOLUTIONS = {
    "plain": (lambda: nn.Conv2d(2, 3, 3, bias=False), (2, 5, 6)),
    "with a bias": (lambda: nn.Conv2d(2, 3, 3, 2, 1), (2, 5, 6)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 4, 4)),
    "depthwise": (lambda: nn.Conv2d(3, 3, 3, groups=3, bias=False), (3, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 3, 2), (2, 3, 4)),
    "transposed, in groups": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), (4, 3, 3)),
}
NORMS = {
    "affine": lambda channels: nn.BatchNorm2d(channels),
    "not affine": lambda channels: nn.BatchNorm2d(channels, eps=0.1, affine=False),
}


def built(make: Any, layer: nn.Layer, dtype: str = "float64", seed: int = 1) -> Any:
    """The layer on the backend of `make`, with drawn weights and statistics of trained layers' size."""
    layer.to(backend=make.backend, dtype=dtype).load_state_dict(drawn_state(layer, seed))
    return layer


def kinds(layer: nn.Layer) -> list[str]:
    """The names of the types of all layers that have no children."""
    children = layer.children().values()
    return [kind for child in children for kind in kinds(child)] if children else [type(layer).__name__]


def assert_same_outputs(make: Any, model: nn.Layer, fused: nn.Layer, x: Any, dtype: str) -> None:
    make.check(fused(x), make.to_numpy(model(x)), dtype, rtol=TOLERANCE[dtype])
    y, _ = fused.forward(x)
    make.check(y, make.to_numpy(model(x)), dtype, rtol=TOLERANCE[dtype])


# -- one pair -----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_a_convolution_gives_the_same(make: Any, dtype: str, convolution: str, norm: str) -> None:
    factory, shape = CONVOLUTIONS[convolution]
    conv = factory()
    channels = {"depthwise": 3}.get(convolution, 6 if "group" in convolution else 3)
    model = built(make, nn.Sequential(conv=conv, bn=NORMS[norm](channels), relu=nn.ReLU()), dtype)
    fused = nn.fuse(model)
    assert list(fused.children()) == ["conv", "relu"]
    assert list(fused.state_dict()) == ["conv.weight", "conv.bias"]
    x = make.array(draw(2, *shape), dtype)
    assert_same_outputs(make, model, fused, x, dtype)


def test_rows_of_batch_norms_are_all_folded(make: Any) -> None:
    model = built(make, nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.Tanh()))
    fused = nn.fuse(model)
    assert list(fused.children()) == ["0", "3"]
    assert_same_outputs(make, model, fused, make.array(draw(3, 1, 4, 4)), "float64")


def test_what_is_frozen_stays_frozen() -> None:
    model = nn.Sequential(conv=nn.Conv2d(1, 2, 3), bn=nn.BatchNorm2d(2))
    model.freeze("conv.weight")
    trainable = {path: parameter.trainable for path, parameter in nn.fuse(model).parameters().items()}
    assert trainable == {"conv.weight": False, "conv.bias": True}


def test_half_precision_stays_so(make: Any) -> None:
    model = built(make, nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), "float32")
    x = make.array(draw(2, 2, 5, 5), "float32")
    expected = make.to_numpy(model(x))
    if make.name == "array_api_strict":
        pytest.skip("has no float16")
    fused = nn.fuse(model.to(dtype="float16"))
    make.check(fused(make.array(draw(2, 2, 5, 5), "float16")), expected, "float16", rtol=1e-2)


# -- what is not folded -------------------------------------------------------------------------


class Doubled(nn.Conv2d):
    """A convolution that does something else, too."""

    def forward(self, x: Any, **options: Any) -> Any:
        y, ctx = super().forward(x, **options)
        return 2 * y, ctx


class Backwards(nn.Sequential):
    """Its children run in another order."""

    def __call__(self, x: Any) -> Any:
        return self[0](self[1](x))

    def forward(self, x: Any, **options: Any) -> Any:
        return self(x), None


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.BatchNorm2d(2)),
        nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3)),
        nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(45, 4), nn.BatchNorm1d(4)),
        nn.Sequential(Doubled(2, 2, 3), nn.BatchNorm2d(2)),
        Backwards(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)),
        nn.Concat(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)),
        nn.Sequential(nn.Conv2d(2, 2, 3)),
        nn.Conv2d(2, 2, 3),
        nn.BatchNorm2d(2),
    ],
)
def test_all_else_is_only_copied(model: nn.Layer) -> None:
    model.load_state_dict(drawn_state(model))
    model.spec = nn.ModelSpec("mine")
    fused = nn.fuse(model)
    assert fused is not model
    assert repr(fused) == repr(model)
    assert fused.spec == model.spec
    states = {**fused.parameters(), **fused.buffers()}
    for path, state in {**model.parameters(), **model.buffers()}.items():
        assert states[path] is not state
        assert not np.shares_memory(states[path].data, state.data)
    x = draw(3, 2, 5, 5, dtype="float32")
    np.testing.assert_array_equal(fused(x), model(x))


def test_a_layer_in_two_places() -> None:
    conv = nn.Conv2d(1, 2, 3, dtype="float64")
    branch = nn.Sequential(conv, nn.BatchNorm2d(2, dtype="float64"))
    other = nn.Sequential(conv, nn.BatchNorm2d(2, dtype="float64"))
    model = nn.Concat(conv, branch, other, branch)
    model.load_state_dict(drawn_state(model))
    fused: Any = nn.fuse(model)
    assert kinds(fused) == ["Conv2d"] * 4
    x = draw(2, 1, 5, 5)
    np.testing.assert_allclose(fused(x), model(x), rtol=1e-11, atol=1e-12)
    assert fused[1] is fused[3]
