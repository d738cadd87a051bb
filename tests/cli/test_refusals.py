"""Every refusal of every command: one line on stderr, the status, and nothing written."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.cli.conftest import TINY, Run
from xpcnn import Trainer, io, models
from xpcnn.cli.settings import Settings
from xpcnn.errors import CheckpointError


def rows(table: str) -> list[tuple[str, ...]]:
    """A command, and what the error says."""
    return [tuple(row.split(" => ")) for row in table.strip().splitlines()]


# -- bad usage ---------------------------------------------------------------------------
# "run" is a trained run, "file" a file.

USAGE = rows("""
fly => invalid choice: 'fly' (choose from 'train', 'evaluate', 'predict', 'search', 'plot', 'summary',
--fly => xpcnn: error: unrecognized arguments: --fly; see xpcnn --help
info --import => argument --import: expected one argument
train --model vgg => --model: invalid choice: 'vgg'
train --backend jax => --backend: invalid choice: 'jax'
train --epoch 3 => unrecognized arguments: --epoch 3
train --lr fast => --lr: 'fast' is not a number of at least 0
train --epochs 0 => --epochs: '0' is not a whole number of at least 1
train --warmup 0 => --warmup: '0' is not a number above 0
train --clip-norm inf => --clip-norm: 'inf' is not a number above 0
train --average 1 => --average: '1' is not a number of at least 0 and of at most 0.9999999999999999
train --label-smoothing 1.1 => --label-smoothing: '1.1' is not a number of at least 0 and of at most 1
train --augment sharpen=2 => --augment: no transform is called 'sharpen'; known: brightness,
train --augment '' => --augment: no transform is named
train --schedule linear => --schedule: invalid choice: 'linear' (choose from
train --out '' => argument --out: it is empty, and must be a path
train --import '' => argument --import: it is empty, and must be a path
summary '' => argument MODEL: it is empty, and must be a path
plot curves '' => argument RUN_OR_WHAT: it is empty, and must be a path
train --train-samples 2000 => --train-samples 2000: synthetic-digits has 1000 such
train --test-samples 301 => --test-samples 301: synthetic-digits has 300 such images
train --train-samples 50 --drop-last => no batch of --batch-size 100 is left of 50 images
train --momentum 0.5 => --momentum is for the optimizers momentum and nesterov, not
train --schedule cosine --lr-step 3 => --lr-step is for the schedules step and exponential, not for cos
train --lr-gamma 0.5 => --lr-gamma is for the schedules step and exponential, not for constant
train --warmup 1 --schedule one-cycle => --warmup is not for the schedule one-cycle, which begins with
train --warmup 2 --epochs 2 => --warmup 2: must be shorter than the 2 epochs of the run
train --model googlenet --model-option aux=true --label-smoothing 0.1 => --label-smoothing is not for auxi
train --model-option depth=3 => simple_convnet takes input_shape, filters,
train --model-option filters => expected NAME=VALUE
train --model-option input_shape={[]:1} => '{[]:1}' is no value for input_shape:
train --model-option input_shape=28 => '28' is no value for input_shape:
train --resume run --lr 1 => so --lr cannot be given with it
train --resume run --model-option a=1 => so --model-option cannot
train --resume run --autotune => so --autotune cannot be given with it
evaluate => the following arguments are required: RUN_OR_WEIGHTS
evaluate run --dataset cifar => argument --dataset: invalid choice: 'cifar'
evaluate run --vote geometric => --vote geometric: is for several models, and run is one
evaluate alone/w.npz => alone/w.npz is not in the folder of a run, so --dataset must name its data
evaluate odd => odd/run.json names no known dataset, so --dataset must
evaluate run other => several datasets (run on synthetic-digits, other on mnist), so --dataset must name
predict x.png --model run --vote mean => --vote mean: is for several models, and run is one
predict x.png --prepare stretch => argument --prepare: invalid choice: 'stretch'
summary lenet9000 => 'lenet9000' is no model (alexnet,
summary simple_convnet --input-shape 28 => '28' is not channels,height,width, such as 1,28,28
summary tiny_convnet --model-option bias=perhaps => 'perhaps' is no value for bias
summary run --model-option filters=3 => --model-option is for models by name
summary own.npz => own.npz does not say what images it takes, so --input-shape must
search --lr 1e-3 => argument --lr: '1e-3' is not LOW,HIGH with 0 < LOW <= HIGH
search --lr 1e-3,1e-4 => '1e-3,1e-4' is not LOW,HIGH
search --validation 0 => '0' is not a number above 0 and of at most 1
search --out file => --out file: is there already; name another file
plot curvs => curvs: no such run's folder or weight file, and not one of curves,
plot filters sobel => filters is drawn of a run: xpcnn plot RUN filters sobel
plot run . curves sobel => only be compared by their curves
plot run curves --image 1 => --image is only for features, sobel
plot run augmentations => augmentations needs --augment, such as
plot augmentations --augment fly=1 => no transform is called 'fly'; known:
plot run features --image 300 => --image 300: synthetic-digits has 300 test im
plot run/model.safetensors curves => curves are drawn of a run's folder
plot run --format bmp => invalid choice: 'bmp' (choose from 'png', 'svg')
bench => xpcnn bench: error: the following arguments are required: WHAT
bench fly => xpcnn bench: error: argument WHAT: invalid choice: 'fly'
bench conv --algorithms im2col,winogard => --algorithms: 'winogard' is unknown; there are auto,
bench conv --threads x => argument --threads: 'x' is not a whole number
bench model --geometries tiny => 'tiny' is unknown; there are simple_convnet,
""")

# -- what fails ----------------------------------------------------------------------------

CONFIG = json.dumps(Settings("numpy").to_config())
FAILURES = rows("""
train --resume absent => absent/run.json: no such file; is absent the folder of a
train --resume bad => bad/run.json: unreadable
train --resume begun => begun/checkpoint.safetensors: not a readable safetensors file
train --out run => run holds a run already; resume it, or name
train --out file => cannot make the folder file:
train --model-option input_shape=1,32,32 => flattened by nn.Flatten (in Sequential.fc1 (Linear))
train --model-option input_shape=1,4,4 => kernel 5x5 is larger than
train --device cuda => backend numpy has only the device 'cpu', got 'cuda'
train --import absent.py => --import absent.py: no such file
evaluate short.safetensors => short.safetensors: not a readable safetensors file
evaluate empty => empty/model.safetensors: no such file
evaluate file => weight files end in
evaluate run/checkpoint.safetensors => an xpcnn checkpoint, not the weights of a model
evaluate more.npz => do not fit this Sequential: missing: fc2.bias (10,); unexpected: extra (3,); strict=
evaluate run ruined.npz => ruined.npz: NaN or infinite numbers in fc.bias;
predict x.png --model ruined.npz => ruined.npz: NaN or infinite numbers in fc.bias;
predict x.png => no trained run in ./runs: `xpcnn train` makes one, or --model
predict x.png --model two.npz => the model takes images of 2 channels; pictures have 1 (grey) or 3
predict x.png --model own.npz => own.npz: the model does not say what size of images it takes
predict x.png --model run --model five.npz => Ensemble:
predict x.png --model run --model small.npz => different sizes: (1, 20, 20), (1, 28, 28)
predict x.png --model run --model crop.npz => differently (crop, mnist-digit): --prepare must name one
summary run --input-shape 1,32,32 => (in Sequential.fc1 (Linear))
summary noted.npz => noted.npz: the model's description is unreadable
search --validation 0.001 => leaves a part empty
search --model tiny_convnet --model-option input_shape=1,9,9 => in Sequential.
search --out file/s.csv => cannot make the folder file
plot begun => begun/history.jsonl: no such file; is begun the folder of a run?
plot run features --layers=fc9 => no layer to show fits layers='fc9'
plot run features --image=no.png => no.png:
plot run curves --out file/plots => cannot make the folder file/plots:
bench conv --json file/a.json => cannot make the folder file:
""")


@pytest.fixture(scope="module")
def scene(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the tables name."""
    folder = tmp_path_factory.mktemp("scene")
    shutil.copytree(trained, folder / "run")
    for name, config in {"other": {"dataset": "mnist"}, "odd": {"dataset": "cifar\x1b[2J"}}.items():
        shutil.copytree(trained, folder / name)
        (folder / name / "run.json").write_text(json.dumps(config))
    for name, text in {"bad": "{", "begun": CONFIG, "empty": None, "alone": None}.items():
        (folder / name).mkdir()
        if text is not None:
            (folder / name / "run.json").write_text(text)
    (folder / "begun/checkpoint.safetensors").write_text("garbage")
    (folder / "file").touch()
    picture = pytest.importorskip("PIL.Image").fromarray(np.eye(28, dtype=np.uint8) * 255)
    picture.save(folder / "x.png")
    whole = (trained / "model.safetensors").read_bytes()
    (folder / "short.safetensors").write_bytes(whole[: len(whole) // 2])
    arrays, metadata = io.load_arrays(trained / "model.safetensors")
    more = {name: array for name, array in arrays.items() if name != "fc2.bias"}
    io.save_arrays(folder / "more.npz", more | {"extra": np.zeros(3)}, metadata)
    io.save_arrays(folder / "alone/w.npz", arrays, metadata)
    spec = {**json.loads(metadata["spec"]), "input_shape": [28, 28]}
    io.save_arrays(folder / "noted.npz", arrays, {**metadata, "spec": json.dumps(spec)})
    ruined = models.tiny_convnet()
    ruined.fc.bias.data = ruined.fc.bias.data * np.float32("nan")
    ruined.save(folder / "ruined.npz")
    models.tiny_convnet(input_shape=(2, 28, 28)).save(folder / "two.npz")
    models.simple_convnet(classes=5).save(folder / "five.npz")
    models.simple_convnet((1, 20, 20)).save(folder / "small.npz")
    crop = models.simple_convnet()
    crop.spec = crop.spec._replace(preparation="crop")
    crop.save(folder / "crop.npz")
    xpcnn.nn.Sequential(flatten=xpcnn.nn.Flatten()).save(folder / "own.npz")
    return folder


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("status", "line", "message"),
    [(2, *case) for case in USAGE] + [(1, *case) for case in FAILURES],
    ids=lambda value: value if isinstance(value, str) and len(value) < 70 else "",
)
def test_refused(
    xpcnn_command: Run, scene: Path, monkeypatch: pytest.MonkeyPatch, status: int, line: str, message: str
) -> None:
    monkeypatch.chdir(scene)
    before = files_in(scene)
    words = ["" if word == "''" else word for word in line.split()]
    result = xpcnn_command(*words)
    assert (result.status, result.out, result.err.count("\n")) == (status, "", 1), result.err
    assert message in result.err
    assert result.err.isprintable() or result.err[:-1].isprintable()
    if status == 2:
        assert re.fullmatch(r"xpcnn[ \w]*: error: .*; see xpcnn[ \w]* --help\n", result.err)
    else:
        assert result.err.startswith("xpcnn: error: ")
    assert files_in(scene) - {"run/lock", "begun/lock"} == before - {"run/lock", "begun/lock"}


def test_no_command(xpcnn_command: Run) -> None:
    status, out, err = xpcnn_command()
    assert (status, out) == (2, "")
    assert err == xpcnn_command("--help").out


# -- in other ways -----------------------------------------------------------------------


def test_a_backend_that_is_not_there(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := xpcnn.available_backends()["cupy"]) is None:
        pytest.skip("CuPy works here")
    assert xpcnn_command("train", "--backend", "cupy") == (
        1,
        "",
        f"xpcnn: error: backend cupy cannot be used: {reason}\n",
    )
    monkeypatch.setenv("XPCNN_BACKEND", "jax")
    status, _, err = xpcnn_command("train")
    assert (status, err.count("\n")) == (1, 1)
    assert "error: $XPCNN_BACKEND=jax: unknown backend 'jax'; known: numpy, " in err


def test_data_that_is_damaged(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    os.makedirs("data/mnist")
    Path("data/mnist/train-images-idx3-ubyte").write_text("garbage")
    monkeypatch.setenv("XPCNN_DATA_DIR", "data")
    status, _, err = xpcnn_command("train", "--dataset", "mnist")
    assert (status, err.count("\n")) == (1, 1)
    assert "train-images-idx3-ubyte: wrong content" in err


def test_divergence(xpcnn_command: Run) -> None:
    status, _, err = xpcnn_command(*TINY, "--optimizer", "sgd", "--lr", 1e30, "--out", "run")
    assert status == 1
    assert re.fullmatch(r"xpcnn: error: the loss became \w+ at step \d \(epoch 1\) with .*\n", err)
    assert sorted(os.listdir("run")) == ["history.jsonl", "run.json"]


def test_without_matplotlib(xpcnn_command: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    line = "xpcnn: error: drawing needs matplotlib: pip install 'xpcnn[plot]'\n"
    assert xpcnn_command("plot", trained) == (1, "", line)


def test_os_errors_name_the_file(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", "secret.npz")

    monkeypatch.setattr("xpcnn.cli.models.load_model", denied)
    assert xpcnn_command("evaluate", "x.npz") == (1, "", "xpcnn: error: secret.npz: Permission denied\n")


def test_unexpected_errors_keep_their_traceback(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Trainer, x: Any, t: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Trainer, "step", wrong)
    with pytest.raises(RuntimeError, match="a bug"):
        xpcnn_command(*TINY)


# -- settings of a run, field by field -----------------------------------------------------

STEPWISE = Settings(
    "numpy", model_options={"filters": 4}, schedule="step", lr_step=2, lr_gamma=0.1
).to_config()

ODD_SETTINGS: dict[str, tuple[Any, str]] = {
    "dataset": ("cifar", "unknown dataset 'cifar'; --import FILE.py brings one of your own"),
    "model": ("vgg", "unknown model 'vgg'"),
    "model_options": ({"filters": "4"}, "model_options: filters: expected a whole number, got '4'"),
    "epochs": (2.5, "epochs: expected a whole number, got 2.5"),
    "schedule": ("linear", "schedule: expected one of 'constant', 'step', "),
    "lr_step": (None, "the schedule step needs lr_step and lr_gamma"),
    "augment": ("bogus=3", "augment.parse: no transform is called 'bogus'"),
    "average": (2, "average: expected a number of at least 0 and of at most 0.99"),
}


@pytest.mark.parametrize("name", ODD_SETTINGS)
def test_settings_are_checked_field_by_field(name: str) -> None:
    value, told = ODD_SETTINGS[name]
    with pytest.raises(CheckpointError) as caught:
        Settings.of_run({**STEPWISE, name: value}, "r/run.json")
    assert str(caught.value).startswith(f"r/run.json: {told}")


def test_settings_that_were_written_are_read() -> None:
    settings = Settings.of_run(json.loads(json.dumps(STEPWISE)), "r/run.json")
    assert settings.to_config() == STEPWISE
    options = {"filters": [4, 4, 8]}  # JSON has no tuples
    deep = Settings.of_run({**STEPWISE, "model": "deep_convnet", "model_options": options}, "r/run.json")
    assert deep.model_options == {"filters": (4, 4, 8)}
    with pytest.raises(CheckpointError, match="simple_convnet has no argument 'depth'; it has"):
        Settings.of_run({**STEPWISE, "model_options": {"depth": 3}}, "r/run.json")
    with pytest.raises(CheckpointError, match=r"lacks backend, batch_size, .*; is this a run of"):
        Settings.of_run({}, "r/run.json")
