"""Layer.freeze and unfreeze: parameters by patterns of their paths."""

from __future__ import annotations

import pytest

from tests.support.nn import mentions
from tests.support.nn_cases import small_net
from xpcnn import errors, nn


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
