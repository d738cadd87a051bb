"""Saved state: names, copies, loading, reports, and moving between backends and dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.nn import build, draw, drawn_state, mentions
from tests.support.nn_cases import SMALL_NET_SHAPE, small_net
from xpcnn import errors, nn

NAMES = [
    "conv1.weight",
    "bn1.weight",
    "bn1.bias",
    "bn1.running_mean",
    "bn1.running_var",
    "bn1.num_batches_tracked",
    "block.conv2.weight",
    "block.conv2.bias",
    "block.downsample.weight",
    "block.downsample.bias",
    "mix.0.weight",
    "mix.0.bias",
    "mix.wide.0.weight",
    "mix.wide.0.bias",
    "fc.weight",
    "fc.bias",
]


def test_names() -> None:
    model = small_net()
    assert list(model.state_dict()) == NAMES
    buffers = [name for name in NAMES if "running" in name or "num_batches" in name]
    assert list(model.buffers()) == buffers
    assert list(model.parameters()) == [name for name in NAMES if name not in buffers]


def test_state_dict_is_a_copy(make: Any) -> None:
    model = build(make, small_net)
    state = model.state_dict()
    for path, old in {**model.parameters(), **model.buffers()}.items():
        dtype = "int64" if path.endswith("num_batches_tracked") else "float64"
        make.check(state[path], make.to_numpy(old.data), dtype, rtol=0)
        values = make.to_numpy(state[path])
        assert values.flags.c_contiguous
        assert not np.shares_memory(values, make.to_numpy(old.data))


@pytest.mark.parametrize("source", ["numpy", "torch", "array_api_strict"])
def test_loading_arrays_of_any_library(make: Any, source: str) -> None:
    """They arrive on the model's device, in its dtype, as copies."""
    if reason := xpcnn.available_backends()[source]:
        pytest.skip(reason)
    values = drawn_state(small_net())
    with xpcnn.use_backend(source):
        state = {path: xpcnn.asarray(array) for path, array in values.items()}
    with make.use():
        model = small_net()
    model.load_state_dict(state)
    for path, old in {**model.parameters(), **model.buffers()}.items():
        dtype = "int64" if path.endswith("num_batches_tracked") else "float32"
        make.check(old.data, values[path].astype(dtype), dtype, rtol=0)


def test_loading_copies(make: Any) -> None:
    with make.use():
        layer = nn.Linear(2, 1, dtype="float64")
    host = {"weight": draw(1, 2), "bias": draw(1)}
    state = {path: make.array(values) for path, values in host.items()}
    layer.load_state_dict(state)
    assert not np.shares_memory(make.to_numpy(layer.weight.data), make.to_numpy(state["weight"]))
    layer.load_state_dict(host)
    host["weight"][:] = 0
    np.testing.assert_array_equal(make.to_numpy(layer.weight.data), draw(1, 2))


def misfit() -> dict[str, Any]:
    """A state in which one thing is missing, two are too many and two have wrong shapes."""
    state: dict[str, Any] = drawn_state(small_net())
    del state["block.conv2.bias"]
    state |= {"head.weight": np.zeros((5, 7)), "extra": np.zeros(2)}
    state["fc.weight"] = np.zeros((10, 12))
    state["bn1.running_var"] = np.zeros((1, 2))
    return state


def test_all_mismatches_in_one_error(make: Any) -> None:
    with make.use():
        model = small_net()
    before = make.snapshot(list(model.state_dict().values()))
    parts = [
        "Sequential",
        "missing: block.conv2.bias (4,)",
        "unexpected: head.weight (5, 7)",
        "unexpected: extra (2,)",
        "wrong shape: fc.weight is (10, 12) but the model has (3, 12)",
        "wrong shape: bn1.running_var is (1, 2) but the model has (2,)",
        "strict=False",
    ]
    with pytest.raises(errors.StateDictError, match=mentions(*parts)) as error:
        model.load_state_dict(misfit())
    assert len(str(error.value).splitlines()) == 2 + 5
    np.testing.assert_equal(make.snapshot(list(model.state_dict().values())), before)


def test_num_batches_tracked_is_optional(make: Any) -> None:
    with make.use():
        layer = nn.BatchNorm2d(2)
    state = drawn_state(layer)
    del state["num_batches_tracked"]
    assert layer.load_state_dict(state) == ([], [], [])
    assert int(layer.num_batches_tracked.data) == 0
    np.testing.assert_array_equal(
        make.to_numpy(layer.running_var.data), state["running_var"].astype("float32")
    )


def test_to_dtype(make: Any) -> None:
    model = build(make, small_net)
    expected = make.to_numpy(model(make.array(draw(*SMALL_NET_SHAPE))))
    assert model.to(dtype="float32") is model
    for path, old in {**model.parameters(), **model.buffers()}.items():
        make.check_kind(old.data, old.shape, "int64" if path.endswith("num_batches_tracked") else "float32")
    y = model(make.array(draw(*SMALL_NET_SHAPE, dtype="float32")))
    make.check(y, expected, "float32")
    model.to(dtype=make.xp.float64)
    make.check_kind(model.fc.weight.data, (3, 12), "float64")


@pytest.mark.parametrize("target", ["numpy", "torch", "array_api_strict"])
def test_to_backend(make: Any, target: str) -> None:
    if reason := xpcnn.available_backends()[target]:
        pytest.skip(reason)
    model = build(make, small_net)
    expected = make.to_numpy(model(make.array(draw(*SMALL_NET_SHAPE))))
    state = {path: np.array(make.to_numpy(data)) for path, data in model.state_dict().items()}
    model.to(backend=target)
    assert model.backend.name == target
    for path, data in model.state_dict().items():
        assert xpcnn.backend_of(data).name == target
        np.testing.assert_array_equal(xpcnn.to_numpy(data), state[path], err_msg=path)
    with xpcnn.use_backend(target):
        y = model(xpcnn.asarray(draw(*SMALL_NET_SHAPE)))
    np.testing.assert_allclose(xpcnn.to_numpy(y), expected, rtol=1e-11, atol=1e-12)
    model.to(backend=target, dtype="float32")
    assert xpcnn.to_numpy(model.fc.weight.data).dtype == np.float32


def test_backend_of_a_layer_without_state(make: Any) -> None:
    with make.use():
        assert nn.ReLU().backend.name == make.backend
    assert nn.Sequential(nn.ReLU()).backend is xpcnn.get_backend()


def test_parameter(make: Any) -> None:
    with make.use():
        parameter, buffer = nn.Parameter([[1, 2, 3]], dtype="float32"), nn.Buffer(draw(2))
    assert parameter.trainable
    assert not nn.Parameter([1.0], trainable=False).trainable
    make.check(parameter.data, [[1.0, 2.0, 3.0]], "float32", rtol=0)
    assert (parameter.shape, parameter.dtype) == ((1, 3), make.xp.float32)
    assert repr(parameter) == f"Parameter(shape=(1, 3), dtype={parameter.data.dtype})"
    assert repr(buffer).startswith("Buffer(shape=(2,)")


def test_parameter_leaves_autograd_behind() -> None:
    torch = pytest.importorskip("torch")
    with xpcnn.use_backend("torch"):
        parameter = nn.Parameter(torch.nn.Parameter(torch.ones(2)))
    assert not parameter.data.requires_grad


# -- freezing ----------------------------------------------------------------------------------


def trainable(model: nn.Layer) -> list[str]:
    return [path for path, parameter in model.parameters().items() if parameter.trainable]


ALL = list(small_net().parameters())


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ((), ALL),
        (("*",), ALL),
        (("conv1.weight",), ["conv1.weight"]),
        (("block.*",), [path for path in ALL if path.startswith("block.")]),
        (("*.bias",), [path for path in ALL if path.endswith(".bias")]),
        (("fc.*", "conv1.*"), ["conv1.weight", "fc.weight", "fc.bias"]),
        (("*.bias", "fc.*"), [path for path in ALL if path.endswith(".bias") or path == "fc.weight"]),
        (("conv?.weight", "mix.[0w]*"), ["conv1.weight", *(path for path in ALL if path.startswith("mix."))]),
    ],
    ids=str,
)
def test_patterns(patterns: tuple[str, ...], frozen: list[str]) -> None:
    """The paths that matched, in the model's order, each once."""
    model = small_net()
    assert model.freeze(*patterns) == frozen
    assert trainable(model) == [path for path in ALL if path not in frozen]
    assert model.freeze(*patterns) == frozen  # what is frozen already is still named
    assert model.unfreeze(*patterns) == frozen
    assert trainable(model) == ALL


def test_part_of_a_model() -> None:
    model = small_net()
    assert model.children()["block"].freeze("*.weight") == ["conv2.weight", "downsample.weight"]
    assert [path for path in ALL if path not in trainable(model)] == [
        "block.conv2.weight",
        "block.downsample.weight",
    ]


@pytest.mark.parametrize("method", ["freeze", "unfreeze"])
def test_pattern_that_matches_nothing(method: str) -> None:
    model = small_net()
    model.freeze("fc.bias")
    for patterns in (("conv9.*",), ("conv1.*", "conv9.*"), ("conv9.*", "fc.*"), ("",), ("bn1.running_mean",)):
        missing = next(pattern for pattern in patterns if pattern not in ("conv1.*", "fc.*"))
        told = mentions(f"Sequential.{method}", repr(missing), "conv1.weight", "fc.bias")
        with pytest.raises(errors.ArgumentError, match=told):
            getattr(model, method)(*patterns)
        assert trainable(model) == [path for path in ALL if path != "fc.bias"]  # nothing was done
