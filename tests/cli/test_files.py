"""What the commands make of files that hold something else than they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xpcnn import models
from xpcnn.cli.settings import Settings
from xpcnn.errors import CheckpointError


@pytest.fixture
def ruined(tmp_path: Path) -> Path:
    """The weights of a model that training has ruined."""
    model = models.tiny_convnet(filters=2)
    model.fc.bias.data = model.fc.bias.data * np.float32("nan")
    model.save(tmp_path / "ruined.safetensors")
    return tmp_path / "ruined.safetensors"


def test_evaluate_and_predict_refuse_ruined_weights(xpcnn_command: Any, ruined: Path) -> None:
    Image.fromarray(np.zeros((28, 28), np.uint8)).save("digit.png")
    models.tiny_convnet(filters=2).save("whole.safetensors")
    for command in (
        ("evaluate", ruined, "--dataset", "synthetic-digits"),
        ("evaluate", "whole.safetensors", ruined, "--dataset", "synthetic-digits"),
        ("predict", "--model", ruined, "digit.png"),
    ):
        status, out, err = xpcnn_command(*map(str, command))
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(f"xpcnn: error: {ruined}: NaN or infinite numbers in fc.bias; ")


CONFIG = Settings("numpy", model_options={"filters": 4}, schedule="step", lr_step=2, lr_gamma=0.1).to_config()

ODD_SETTINGS: dict[str, tuple[Any, str]] = {
    "backend": (3, "backend: expected text, got 3"),
    "dataset": ([], "dataset: expected text, got a list of 0"),
    "train_samples": (0, "train_samples: expected a whole number of at least 1, got 0"),
    "model": ("vgg", "unknown model 'vgg'"),
    "model_options": ({"filters": "4"}, "model_options: filters: expected a whole number, got '4'"),
    "optimizer": ({}, "optimizer: expected text, got a mapping of 0"),
    "lr": (-1, "lr: expected a number of at least 0, got -1"),
    "epochs": (2.5, "epochs: expected a whole number, got 2.5"),
    "batch_size": (None, "batch_size: expected a whole number, got None"),
    "drop_last": ("no", "drop_last: expected true or false, got 'no'"),
    "seed": (-1, "seed: expected a whole number of at least 0, got -1"),
    "dtype": ("int8", "dtype: expected one of 'float16', "),
    "schedule": ("exponential\n", "unknown schedule 'exponential"),
    "lr_step": (None, "the schedule step needs lr_step and lr_gamma"),
    "average": (2, "average: expected a number of at least 0 and of at most 1, got 2"),
    "augment": (["shift"], "augment: expected text, got a list of 1"),
    "patience": (True, "patience: expected a whole number, got True"),
    "autotune": (1, "autotune: expected true or false, got 1"),
}


@pytest.mark.parametrize("name", ODD_SETTINGS)
def test_settings_are_checked_field_by_field(name: str) -> None:
    value, told = ODD_SETTINGS[name]
    with pytest.raises(CheckpointError) as caught:
        Settings.of_run({**CONFIG, name: value}, "r/run.json")
    assert str(caught.value).startswith(f"r/run.json: {told}")


def test_settings_that_were_written_are_read() -> None:
    settings = Settings.of_run(json.loads(json.dumps(CONFIG)), "r/run.json")
    assert settings.to_config() == CONFIG
    options = {"filters": [4, 4, 8]}  # JSON has no tuples
    deep = Settings.of_run({**CONFIG, "model": "deep_convnet", "model_options": options}, "r/run.json")
    assert deep.model_options == {"filters": (4, 4, 8)}
    with pytest.raises(CheckpointError, match="simple_convnet has no argument 'depth'; it has"):
        Settings.of_run({**CONFIG, "model_options": {"depth": 3}}, "r/run.json")


@pytest.mark.parametrize("name", [[], {}, 3, None, "cifar\x1b[2J"])
def test_a_dataset_that_is_no_name(xpcnn_command: Any, name: Any) -> None:
    """Of a run whose settings were changed by hand."""
    Path("run").mkdir()
    models.tiny_convnet(filters=2).save("run/model.safetensors")
    Path("run/config.json").write_text(json.dumps({"dataset": name}))
    status, out, err = xpcnn_command("evaluate", "run")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "names no known dataset" in err
