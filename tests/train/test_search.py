"""Random search: what is drawn, what is kept, and going on after any end."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import Trainer, models, optim
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, CheckpointError
from xpcnn.train import Callback, LogUniform, SearchResults, Trial, random_search, split
from xpcnn.train.search import draw_sample

SPACE = {"lr": LogUniform(1e-4, 1e-1), "weight_decay": LogUniform(1e-8, 1e-4)}


class Built:
    """Builds trainers of a small model, and notes with what; `before` is called for each first."""

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        self.calls: list[dict[str, float]] = []
        self._before = before

    def __call__(self, lr: float, weight_decay: float, seed: int) -> Trainer:
        self._before(len(self.calls) + 1)
        self.calls.append({"lr": lr, "weight_decay": weight_decay, "seed": seed})
        model = models.tiny_convnet(filters=2, seed=seed)
        return Trainer(model, optim.SGD(model, lr=lr, weight_decay=weight_decay), seed=seed)


@pytest.fixture(scope="module")
def parts(digits: Dataset) -> tuple[Dataset, Dataset]:
    return split(digits[:50], 0.2)


def search(parts: tuple[Dataset, Dataset], build: Any = None, **options: Any) -> SearchResults:
    given = {"trials": 4, "epochs": 2, "batch_size": 20, "progress": None, **options}
    return random_search(build or Built(), given.pop("space", SPACE), *parts, **given)


def found(results: SearchResults) -> list[Any]:
    """Everything but the seconds."""
    return [
        (trial.number, trial.sample, trial.train_accuracy, trial.validation_accuracy, trial.failure)
        for trial in results.trials
    ]


# -- what is drawn ------------------------------------------------------------------------


def test_logarithms_are_spread_evenly() -> None:
    kind = LogUniform(1e-6, 1e-2)
    values = [draw_sample({"lr": kind}, 0, number)["lr"] for number in range(2000)]
    assert min(values) >= 1e-6
    assert max(values) <= 1e-2
    counts, _ = np.histogram(np.log10(values), bins=8, range=(-6, -2))
    assert (np.abs(counts - 250) < 5 * math.sqrt(250)).all()
    assert [kind.at(share) for share in (0.0, 0.25, 1.0)] == pytest.approx([1e-6, 1e-5, 1e-2], rel=1e-12)
    assert LogUniform(0.3, 0.3).at(0.7) == 0.3


@pytest.mark.parametrize("bounds", [(0, 1), (-1, 1), (1, 0.1), (1, math.inf), (math.nan, 1), (1, math.nan)])
def test_ranges_without_logarithms(bounds: tuple[float, float]) -> None:
    with pytest.raises(ArgumentError, match="LogUniform: expected 0 < low <= high, got"):
        LogUniform(*bounds)


def test_a_sample_is_a_function_of_seed_trial_and_name() -> None:
    first = draw_sample(SPACE, seed=3, trial=5)
    assert draw_sample(dict(reversed(SPACE.items())), 3, 5) == first
    assert draw_sample({"lr": SPACE["lr"]}, 3, 5) == {"lr": first["lr"]}
    others = [draw_sample(SPACE, 3, 6), draw_sample(SPACE, 4, 5)]
    assert all(other[name] != first[name] for other in others for name in SPACE)
    shares = [math.log10(first["lr"] / 1e-4) / 3, math.log10(first["weight_decay"] / 1e-8) / 4]
    assert abs(shares[0] - shares[1]) > 1e-6
    # Kept results are gone on with only if this stays so, whatever the machine and the library's version.
    assert first == pytest.approx({"lr": 0.004863371533030632, "weight_decay": 3.3623633634654997e-07})


def test_the_validation_set(digits: Dataset) -> None:
    train, validation = split(digits, 0.1, seed=2)
    assert (len(train), len(validation)) == (207, 23)
    rows = [image.tobytes() for part in (train, validation) for image in part.images]
    assert sorted(rows) == sorted(image.tobytes() for image in digits.images)
    assert (train.classes, train.name) == (digits.classes, digits.name)
    again, other = split(digits, 0.1, seed=2)[1], split(digits, 0.1, seed=3)[1]
    np.testing.assert_array_equal(again.images, validation.images)
    assert (other.images != validation.images).any()
    for share in (0.0, 1.0, -0.1, 0.001, 0.999, math.nan):
        with pytest.raises(ArgumentError, match=r"split: share .* of 230 samples leaves a part empty"):
            split(digits, share)


# -- what is found ------------------------------------------------------------------------


def test_each_trial_is_a_training_of_its_own(parts: tuple[Dataset, Dataset]) -> None:
    build = Built()
    results = search(parts, build, seed=7)
    assert build.calls == [{**draw_sample(SPACE, 7, number), "seed": 7} for number in (1, 2, 3, 4)]
    for call, trial in zip(build.calls, results.trials, strict=True):
        trainer = Built()(**call)  # type: ignore[arg-type]
        history = trainer.fit(*parts, epochs=2, batch_size=20, progress=None)
        assert trial.train_accuracy == history.train_accuracy
        assert trial.validation_accuracy == history.test_accuracy
        assert trial.accuracy == history.test_accuracy[-1]
        assert trial.seconds > 0
    assert not results.interrupted
    assert found(search(parts, seed=7)) == found(results)


def test_a_training_that_diverges_is_kept(parts: tuple[Dataset, Dataset]) -> None:
    space = {**SPACE, "lr": LogUniform(1e-20, 1e20)}
    results = search(parts, space=space, trials=6)
    failed = [trial for trial in results.trials if trial.failure is not None]
    assert 0 < len(failed) < 6
    for trial in failed:
        assert re.match(r"the loss became (nan|inf) at step \d+", str(trial.failure))
        assert trial.accuracy is None
        assert len(trial.validation_accuracy) < 2
    assert [trial.failure is None for trial in results.ranked] == [True] * (6 - len(failed)) + [False] * len(
        failed
    )
    assert str(results).splitlines()[-1].endswith(str(failed[-1].failure))


def made(number: int, accuracy: float | None, **sample: float) -> Trial:
    failure = None if accuracy is not None else "the loss became nan at step 3"
    accuracies = [0.9 if accuracy is None else accuracy]
    return Trial(number, sample or {"lr": 10.0**-number}, [0.5], accuracies, 1.25, failure)


def test_ranks_and_the_table() -> None:
    results = SearchResults([made(1, 0.5), made(2, None), made(3, 0.75), made(4, 0.5), made(5, 0.0)])
    assert [trial.number for trial in results.ranked] == [3, 1, 4, 5, 2]
    assert results.best is results.trials[2]
    assert str(results).splitlines() == [
        "rank  trial  accuracy        lr  seconds",
        "----------------------------------------",
        "   1      3    75.00%  1.00e-03      1.2",
        "   2      1    50.00%  1.00e-01      1.2",
        "   3      4    50.00%  1.00e-04      1.2",
        "   4      5     0.00%  1.00e-05      1.2",
        "   -      2  diverged  1.00e-02      1.2  the loss became nan at step 3",
    ]
    assert results.table(best=2).splitlines() == str(results).splitlines()[:4]
    assert SearchResults([made(1, None)]).best is None
    assert str(SearchResults()).splitlines()[0].split() == ["rank", "trial", "accuracy", "seconds"]


def test_progress(parts: tuple[Dataset, Dataset], capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    results = search(parts, trials=12, epochs=1, progress=stream)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 12
    pattern = r"trial  3 of 12  [ \d]{3}\.\d\d%  lr \d\.\d\de-\d\d  weight_decay \d\.\d\de-\d\d  \d\.\d s.*"
    assert re.fullmatch(pattern, lines[2])
    assert results.best is not None
    best = [line for line in lines if line.endswith("the best so far")]
    assert best[0] == lines[0]
    assert best[-1] == lines[results.best.number - 1]
    assert capsys.readouterr() == ("", "")
    search(parts, trials=1, epochs=1, progress="auto")
    assert capsys.readouterr().err.startswith("trial 1 of 1  ")


# -- going on -----------------------------------------------------------------------------


def test_the_file_and_going_on(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    path, whole = tmp_path / "s.jsonl", search(parts)
    search(parts, trials=3, path=path)
    build, stream = Built(), io.StringIO()
    results = search(parts, build, path=path, progress=stream)
    assert len(build.calls) == 1
    assert found(results) == found(whole)
    assert stream.getvalue().startswith(f"3 trials were done before, in {path}\n")
    header, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["space"]["lr"] == {"log-uniform": [1e-4, 0.1]}
    assert [line["number"] for line in lines] == [1, 2, 3, 4]
    assert [Trial(**line) for line in lines] == results.trials
    never = Built(lambda number: pytest.fail("nothing is left to do"))
    assert search(parts, never, path=path).trials == results.trials
    assert len(search(parts, never, path=path, trials=2).trials) == 4


def test_failures_are_in_the_file(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    options = {"space": {**SPACE, "lr": LogUniform(1e29, 1e30)}, "trials": 2, "path": tmp_path / "s.jsonl"}
    first = search(parts, **options)
    assert all(trial.failure for trial in first.trials)
    assert search(parts, **options).trials == first.trials
    assert first.best is None


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_last_line_that_was_cut_short(parts: tuple[Dataset, Dataset], tmp_path: Path, cut: int) -> None:
    path = tmp_path / "s.jsonl"
    whole = search(parts, path=path)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    build = Built()
    assert found(search(parts, build, path=path)) == found(whole)
    assert len(build.calls) == 1
    assert path.read_bytes().count(b"\n") == content.count(b"\n")
    assert found(search(parts, path=path)) == found(whole)


def test_ctrl_c_keeps_what_is_done(parts: tuple[Dataset, Dataset], tmp_path: Path, ctrl_c: Any) -> None:
    class Press(Callback):
        def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
            ctrl_c()

    class Pressing(Built):
        def __call__(self, **sample: Any) -> Trainer:
            trainer = super().__call__(**sample)
            if len(self.calls) == 3:
                fit = trainer.fit
                trainer.fit = lambda *a, **k: fit(*a, **k, callbacks=[Press()])  # type: ignore[method-assign]
            return trainer

    path = tmp_path / "s.jsonl"
    whole = search(parts)
    for options in ({}, {"path": path}):
        results = search(parts, Pressing(), **options)
        assert results.interrupted
        assert found(results) == found(whole)[:2]
    assert found(search(parts, path=path)) == found(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0 there, 1 here"),
        ({"epochs": 3}, "epochs 2 there, 3 here"),
        ({"batch_size": 25}, "batch_size 20 there, 25 here"),
        ({"space": {**SPACE, "lr": LogUniform(1e-4, 1)}}, r'"lr": {"log-uniform": [0.0001, 1]}'),
        ({"space": {"lr": SPACE["lr"]}}, "space"),
        ({"settings": {"model": "lenet5"}}, 'settings {} there, {"model": "lenet5"} here'),
    ],
)
def test_another_search_is_refused(
    parts: tuple[Dataset, Dataset], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "s.jsonl"
    search(parts, path=path, trials=1, epochs=2)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"s\.jsonl: is of another search: .*; name another") as caught:
        search(parts, path=path, **change)
    assert message in str(caught.value)
    assert path.read_bytes() == before
    with pytest.raises(CheckpointError, match=r'training set \["synthetic-digits", 40\] there'):
        search((parts[0][:39], parts[1]), path=path)


def replaced(line: int, old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        lines = text.splitlines(keepends=True)
        assert old in lines[line]
        return "".join([*lines[:line], lines[line].replace(old, new), *lines[line + 1 :]])

    return change


DAMAGES: dict[str, tuple[Callable[[str], str], str]] = {
    "other text": (lambda text: "notes\n", "is not the file of a random search"),
    "text of one line": (lambda text: "notes", "is not the file of a random search"),
    "other JSON": (lambda text: "[1]\n", "is not the file of a random search"),
    "a line that is no JSON": (lambda text: text.replace('"number": 1', "number"), "line 2: no readable"),
    "a newer format": (replaced(0, '"format_version": 1', '"format_version": 2'), "format_version 2 there"),
    "another field": (replaced(1, '"seconds"', '"minutes"'), "line 2: no readable trial"),
    "no accuracies": (replaced(2, '"validation_accuracy": [', '"validation_accuracy": [], "x": ['), "line 3"),
    "a text for a number": (replaced(1, '"seconds": ', '"seconds": "a", "x": '), "line 2: no readable trial"),
    "a trial twice": (lambda text: text + text.splitlines()[-1] + "\n", "line 4: trial 2 is there twice"),
    "another sample": (replaced(2, '"lr": ', '"lr": 1'), "line 3: trial 2 was done with .*is drawn for it"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_cannot_be_gone_on_with(
    parts: tuple[Dataset, Dataset], tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "s.jsonl"
    search(parts, path=path, trials=2)
    change, message = DAMAGES[damage]
    path.write_text(change(path.read_text()))
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=rf"s\.jsonl.*{message}"):
        search(parts, path=path)
    assert path.read_bytes() == before


def test_files_that_cannot_be_read_or_written(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        search(parts, path=tmp_path)
    with pytest.raises(CheckpointError, match="cannot write"):
        search(parts, path=tmp_path / "absent" / "s.jsonl")
    (tmp_path / "empty.jsonl").touch()
    assert len(search(parts, trials=1, path=tmp_path / "empty.jsonl").trials) == 1


def test_arguments(parts: tuple[Dataset, Dataset]) -> None:
    for option in ("trials", "epochs", "batch_size"):
        with pytest.raises(ArgumentError, match=r"trials, epochs and batch_size must be at least 1"):
            search(parts, **{option: 0})
    for space in ({}, {**SPACE, "seed": SPACE["lr"]}):
        with pytest.raises(ArgumentError, match="space must name what is drawn, and not 'seed'"):
            search(parts, space=space)
    with pytest.raises(ArgumentError, match="progress must be 'auto', a stream or None, got 'bar'"):
        search(parts, progress="bar")
    with pytest.raises(ArgumentError, match="build must return a Trainer, got NoneType"):
        search(parts, lambda **sample: None)
