"""The command line in this process, in an empty folder, and the data it is tried on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from xpcnn.backend import current
from xpcnn.cli import datasets, main, session
from xpcnn.data import Dataset, synthetic_digits


class Result(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(scope="session")
def digits() -> tuple[Dataset, Dataset]:
    """The beginnings of the two sets that the command line trains on."""
    whole = synthetic_digits(12_000)
    return whole[:1000], whole[10_000:10_300]


@pytest.fixture
def real_curves() -> None:
    """Lets `xpcnn_command` draw."""


@pytest.fixture
def xpcnn_command(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    digits: tuple[Dataset, Dataset],
) -> Iterator[Run]:
    """Runs the command in an empty folder; Ctrl-C is handled as in a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(datasets.DATASETS, "synthetic-digits", lambda: digits)
    monkeypatch.setattr(current, "_default", None)  # --backend sets it for the whole process
    for name in ("XPCNN_BACKEND", "XPCNN_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    if "real_curves" not in request.fixturenames:  # drawing takes longer than the tests' trainings
        monkeypatch.setattr(session, "plot_curves", lambda history, path: path.touch())
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
def trained(tmp_path_factory: pytest.TempPathFactory, digits: tuple[Dataset, Dataset]) -> Path:
    """A run's folder, not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.DATASETS, "synthetic-digits", lambda: digits)
        options = ["--epochs", "4", "--lr", "0.003", "--model-option", "filters=8"]
        assert main(["train", *options, "--out", str(folder)]) == 0
    return folder
