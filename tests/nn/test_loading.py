"""Checkpoints of other programs: nested, with prefixes, of other models; and errors that can be read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.nn import mentions
from xpcnn import errors, io, load_model, models, nn

State = dict[str, Any]


def saved() -> State:
    return models.tiny_convnet(seed=3).state_dict()


def prefixed(prefix: str) -> State:
    return {f"{prefix}{path}": values for path, values in saved().items()}


FORMS: dict[str, tuple[Any, list[str]]] = {
    "as they are": (saved, []),
    "DataParallel": (lambda: prefixed("module."), ["'module.'"]),
    "torch.compile": (lambda: prefixed("_orig_mod."), ["'_orig_mod.'"]),
    "Lightning": (lambda: prefixed("model."), ["'model.'"]),
    "both": (lambda: prefixed("module._orig_mod."), ["'module._orig_mod.'"]),
    "the other way round": (lambda: prefixed("_orig_mod.module."), ["'_orig_mod.module.'"]),
    "three": (lambda: prefixed("model._orig_mod.module."), ["'model._orig_mod.module.'"]),
    "state_dict": (lambda: {"epoch": 3, "state_dict": saved()}, ["['state_dict']", "'epoch'"]),
    "model": (lambda: {"model": saved(), "optimizer": {"state": {0: 1}}}, ["['model']", "'optimizer'"]),
    "model_state_dict": (lambda: {"model_state_dict": saved(), "lr": 0.1}, ["['model_state_dict']"]),
    "net": (lambda: {"net": saved()}, ["['net']"]),
    "params": (lambda: {"params": saved()}, ["['params']"]),
    "another name": (lambda: {"generator": saved(), "note": "x"}, ["['generator']"]),
    "nested, with a prefix": (lambda: {"state_dict": prefixed("model.")}, ["['state_dict']", "'model.'"]),
    "twice": (lambda: {"checkpoint": {"model": prefixed("module.")}}, ["['checkpoint']", "['model']"]),
    "beside its average": (lambda: {"ema": prefixed(""), "state_dict": saved()}, ["['state_dict']", "'ema'"]),
    "numbers as keys": (lambda: {0: "x", "state_dict": saved()}, ["['state_dict']"]),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("state", "told"), FORMS.values(), ids=FORMS.keys())
def test_what_is_found_is_loaded_and_told(
    state: Any, told: list[str], strict: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = models.tiny_convnet(seed=1)
    with caplog.at_level(logging.INFO, "xpcnn"):
        report = model.load_state_dict(state(), strict=strict)
    assert report == ([], [], [])
    for path, values in saved().items():
        np.testing.assert_array_equal(model.state_dict()[path], values)
    assert all(part in " ".join(report.notes) for part in told)
    assert bool(report.notes) == bool(told)
    assert [record.message for record in caplog.records] == [f"load_state_dict: {n}" for n in report.notes]


def test_a_path_of_the_models_own_is_no_prefix() -> None:
    model = nn.Sequential(module=nn.Linear(2, 2, seed=0))
    state = nn.Sequential(module=nn.Linear(2, 2, seed=1)).state_dict()
    assert model.load_state_dict(state).notes == ()
    np.testing.assert_array_equal(model.module.weight.data, state["module.weight"])


def test_a_prefix_that_only_some_entries_have(caplog: pytest.LogCaptureFixture) -> None:
    state = {**prefixed("model."), "criterion.weight": np.ones(10)}
    model = models.tiny_convnet(seed=1)
    with pytest.raises(errors.StateDictError, match=mentions("unexpected: criterion.weight (10,)")):
        model.load_state_dict(state)
    assert model.load_state_dict(state, strict=False).unexpected == ["criterion.weight"]


def test_the_entries_of_one_layer_are_not_picked_out_of_another_model() -> None:
    """`fc.` is no prefix that a program puts before all paths."""
    with pytest.raises(
        errors.StateDictError, match=mentions("missing: weight", "unexpected: fc.weight", "nothing to load")
    ):
        nn.Linear(1352, 10).load_state_dict(saved(), strict=False)


@pytest.mark.parametrize("value", [None, "text", object, {"a": 1}], ids=repr)
def test_an_entry_that_is_no_array(value: Any) -> None:
    layer = nn.Linear(2, 3, seed=0)
    before = layer.state_dict()
    state = {"weight": value, "bias": np.ones(3)}
    with pytest.raises(errors.StateDictError, match=r"wrong shape: weight is \(\w+, no array\)"):
        layer.load_state_dict(state)
    assert layer.load_state_dict(state, strict=False).mismatched == ["weight"]
    np.testing.assert_array_equal(layer.weight.data, before["weight"])


@pytest.mark.parametrize("state", [None, [1], "x", 3], ids=repr)
def test_what_is_no_mapping(state: Any) -> None:
    with pytest.raises(errors.StateDictError, match=mentions("must be a mapping", type(state).__name__)):
        nn.Linear(2, 3).load_state_dict(state)


NOTHING: dict[str, Any] = {
    "nothing at all": dict,
    "another model": lambda: models.simple_convnet(filters=2).state_dict(),
    "shapes": lambda: {"weight": np.ones((5, 5)), "bias": np.ones(5)},
    "an optimiser": lambda: {"state": {0: {"momentum": np.ones(3)}}, "param_groups": [{"lr": 0.1}]},
}


@pytest.mark.parametrize("state", NOTHING.values(), ids=NOTHING.keys())
def test_loading_nothing_is_an_error(state: Any) -> None:
    layer = nn.Linear(2, 3, seed=0)
    before = layer.state_dict()
    with pytest.raises(errors.StateDictError, match="none of them fits, so there is nothing to load"):
        layer.load_state_dict(state(), strict=False)
    np.testing.assert_array_equal(layer.weight.data, before["weight"])


def test_a_model_without_state_has_nothing_to_miss() -> None:
    assert nn.ReLU().load_state_dict({}) == ([], [], [])
    assert nn.ReLU().load_state_dict({"weight": np.ones(2)}, strict=False).unexpected == ["weight"]


def test_ten_lines_are_enough() -> None:
    state = models.resnet20(classes=7).state_dict()
    state = {path.replace("layer2", "stage2"): values for path, values in state.items()}
    with pytest.raises(errors.StateDictError) as caught:
        models.resnet20().load_state_dict(state)
    lines = str(caught.value).splitlines()
    missing = [path for path in models.resnet20().state_dict() if path.startswith("layer2")]
    counted = [path for path in missing if not path.endswith("num_batches_tracked")]
    assert len(lines) <= 10
    assert f"({len(counted)} missing, {len(missing)} unexpected, 2 wrong shape)" in lines[0]
    assert f"  missing: {counted[0]} (32, 16, 3, 3)" in lines
    assert lines[2].endswith(f" and {len(counted) - 2} more")
    assert "  wrong shape: fc.weight is (7, 64) but the model has (10, 64)" in lines
    assert max(map(len, lines)) < 120


REASONS: dict[str, tuple[Any, Any, str]] = {
    "another number of classes": (
        lambda: models.tiny_convnet(classes=7).state_dict(),
        models.tiny_convnet,
        "likely: saved with 7 outputs (classes), not 10",
    ),
    "a prefix that is not known": (
        lambda: prefixed("backbone."),
        models.tiny_convnet,
        "likely: all saved paths begin with 'backbone.'; take this prefix off",
    ),
    "a prefix of the model's": (
        saved,
        lambda: nn.Sequential(body=models.tiny_convnet()),
        "likely: the entries are those of the child 'body'; load them into it",
    ),
    "another model": (
        lambda: models.lenet5().state_dict(),
        models.tiny_convnet,
        "likely: the entries are those of another model",
    ),
}


@pytest.mark.parametrize(("state", "model", "told"), REASONS.values(), ids=REASONS.keys())
def test_the_likely_reason(state: Any, model: Any, told: str) -> None:
    with pytest.raises(errors.StateDictError) as caught:
        model().load_state_dict(state())
    lines = str(caught.value).splitlines()
    assert told in lines
    assert len(lines) <= 10


def test_counters_alone_are_nothing() -> None:
    """Every batch-norm has one of the same shape: those of another model fit, and load nothing."""
    saved_state = models.resnet20().state_dict()
    counters = {path: values for path, values in saved_state.items() if path.endswith("num_batches_tracked")}
    wide = {path: np.ones((7, *values.shape)) for path, values in saved_state.items() if path not in counters}
    for state in (counters, {**counters, **wide}):
        with pytest.raises(errors.StateDictError, match=mentions("nothing to load")):
            models.resnet20().load_state_dict(state, strict=False)


@pytest.mark.parametrize(
    "path", ["a\nb\nc.weight", "\x1b[2Jweight", "n" * 5000], ids=["lines", "escape", "long"]
)
def test_odd_paths_stay_on_their_lines(path: str) -> None:
    with pytest.raises(errors.StateDictError) as caught:
        nn.Linear(2, 3).load_state_dict({f"{path}{i}": np.ones(3) for i in range(1000)})
    lines = str(caught.value).split("\n")
    assert len(lines) <= 10
    assert all(line.isprintable() and len(line) < 300 for line in lines)


def test_prefixes_that_are_not_taken_off() -> None:
    """Of two entries that would get one path; and of very many, one after the other."""
    ones = np.ones((3, 2))
    two = {"module.weight": ones, "weight": 2 * ones, "module.bias": np.ones(3)}
    with pytest.raises(errors.StateDictError, match="missing: bias"):
        nn.Linear(2, 3).load_state_dict(two)
    with pytest.raises(errors.StateDictError, match="nothing to load"):
        nn.Linear(2, 3).load_state_dict({"model." * 100_000 + "weight": ones})


def test_a_counter_of_another_shape() -> None:
    """As programs write it that make a 1-d array of every entry."""
    model = nn.Sequential(conv=nn.Conv2d(1, 2, 3), bn=nn.BatchNorm2d(2))
    state = {**model.state_dict(), "bn.num_batches_tracked": np.array([3])}
    told = mentions("bn.num_batches_tracked is (1,) but the model has ()", "strict=False")
    with pytest.raises(errors.StateDictError, match=told):
        model.load_state_dict(state)
    assert model.load_state_dict(state, strict=False).mismatched == ["bn.num_batches_tracked"]


def test_the_file_is_named(tmp_path: Path) -> None:
    """Where several are read, nobody else can tell which of them does not fit."""
    path = tmp_path / "other.npz"
    models.tiny_convnet(filters=4).save(path)
    with pytest.raises(errors.StateDictError, match=r"other\.npz: load_state_dict: the saved entries do not"):
        models.lenet5().load(path)
    arrays, metadata = io.load_arrays(path)
    io.save_arrays(path, {"x": arrays.pop("fc.bias"), **arrays}, metadata)
    with pytest.raises(errors.StateDictError, match=r"other\.npz: load_state_dict: the saved entries do not"):
        load_model(path)
