"""The command line in this process, in an empty folder, and the data it is tried on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from xpcnn import Trainer, io
from xpcnn.backend import current
from xpcnn.cli import main, train
from xpcnn.data import Dataset, synthetic_digits
from xpcnn.data.catalog import DATASETS
from xpcnn.train import RunDirectory

QUICK = ("--train-samples", 100, "--test-samples", 20, "--epochs", 2, "--batch-size", 20)
TINY = ("train", "--model", "tiny_convnet", *QUICK)
"""A run of two epochs of five steps."""

Digits = tuple[Dataset, Dataset]


class Result(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Result]


def weights(run: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    return io.load_weights(RunDirectory(run).weights_file).arrays


def same_weights(a: str | Path, b: str | Path) -> bool:
    first, second = weights(a), weights(b)
    assert list(first) == list(second)
    return all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.fixture(scope="session")
def digits() -> Digits:
    """Stands for the two sets that the command line trains on."""
    whole = synthetic_digits(1300)
    return whole[:1000], whole[1000:]


@pytest.fixture
def real_curves() -> None:
    """Lets `xpcnn_command` draw."""


def prepare(patch: pytest.MonkeyPatch, digits: Digits, draws: bool = False) -> None:
    patch.setitem(DATASETS, "synthetic-digits", lambda: digits)
    if not draws:  # which takes longer than the tests' trainings
        patch.setattr(train, "plot_curves", lambda history, path: path.touch())


@pytest.fixture
def xpcnn_command(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    digits: Digits,
) -> Iterator[Run]:
    """Runs the command in an empty folder; Ctrl-C is handled as in a terminal."""
    monkeypatch.chdir(tmp_path)
    prepare(monkeypatch, digits, draws="real_curves" in request.fixturenames)
    monkeypatch.setattr(current, "_default", None)  # --backend sets it for the whole process
    for name in ("XPCNN_BACKEND", "XPCNN_DATA_DIR", "XPCNN_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(*arguments: Any) -> Result:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(str(end.code))
        return Result(status, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    """A run's folder, not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch, digits)
        options = ["--epochs", "6", "--lr", "0.003", "--model-option", "filters=8"]
        assert main(["train", *options, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def press_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Arranges for Ctrl-C to be pressed in one step of the next trainings; None for not at all."""
    step, pressed = Trainer.step, set[int | None]()

    def pressing(self: Trainer, x: Any, t: Any) -> Any:
        if self.steps + 1 in pressed:
            signal.raise_signal(signal.SIGINT)
        return step(self, x, t)

    def arrange(number: int | None) -> None:
        pressed.clear()
        pressed.add(number)

    monkeypatch.setattr(Trainer, "step", pressing)
    return arrange
