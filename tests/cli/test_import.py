"""``--import FILE.py``: own models and datasets on the command line, and files that cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import xpcnn
from tests.cli.conftest import Run
from xpcnn import data, models, nn, plugins
from xpcnn.cli.imports import import_file
from xpcnn.errors import ArgumentError, DatasetError, PluginError
from xpcnn.train import load_model

OWN = """
from xpcnn import data, models, nn

@nn.registered("{name}.Double")
class Double(nn.Layer):
    batch_independent = True

    def __init__(self, factor: float = 2.0):
        self.factor = factor

    def forward(self, x, *, train=False, key=None):
        return x * self.factor, None

    def backward(self, ctx, dy, grads=None, *, need_dx=True):
        return dy * self.factor if need_dx else None

@models.register_model("{name}")
def net(classes: int = 10, in_channels: int = 1, width=4, seed=0):
    return nn.Sequential(
        conv=nn.Conv2d(in_channels, width, 3, seed=seed),
        double=Double(0.5),
        pool=nn.AdaptiveAvgPool2d(2),
        flatten=nn.Flatten(),
        fc=nn.Linear(4 * width, classes, seed=seed),
    )

@data.register_dataset("{name}-data")
def digits():
    digits = data.synthetic_digits(60, seed=3)
    return digits[:40], digits[40:]
"""


def own_file(folder: Path, name: str) -> Path:
    path = folder / f"{name}_file.py"
    path.write_text(OWN.replace("{name}", name))
    return path


@pytest.mark.slow
def test_an_own_model_on_an_own_dataset(xpcnn_command: Run, tmp_path: Path) -> None:
    file = own_file(tmp_path, "import_a")
    options = ("--model", "import_a", "--dataset", "import_a-data", "--model-option", "width=3")
    result = xpcnn_command("train", "--import", file, *options, "--epochs", 1, "--out", "run")
    assert result.status == 0, result.err
    assert f"xpcnn evaluate --import {file} run" in result.out
    assert load_model("run").double.factor == 0.5  # type: ignore[attr-defined]
    assert load_model("run").conv.weight.shape == (3, 1, 3, 3)  # type: ignore[attr-defined]
    again = xpcnn_command("train", f"--import={file}", "--resume", "run", "--epochs", 2)
    assert again.status == 0, again.err
    for words in ("evaluate run", "summary run", "summary import_a", "plot run curves"):
        result = xpcnn_command(*words.split(), "--import", file)
        assert result.status == 0, result.err
    assert xpcnn_command("summary", "--", "--import", file).status == 2


@pytest.mark.process
def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """What other tests register is not there."""
    file = own_file(tmp_path, "import_b")
    (tmp_path / "beside.py").write_text("WIDTH = 5\n")
    file.write_text(file.read_text().replace("from xpcnn import", "import beside\nfrom xpcnn import", 1))

    def command(words: str, status: int, *messages: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "xpcnn", *words.split()], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr
        assert done.stderr.count("\n") == bool(status)
        assert all(message in done.stderr for message in messages), done.stderr

    train = "train --model import_b --dataset import_b-data --epochs 1 --out run"
    command(f"{train} --import {file}", 0)
    command(train, 2, "invalid choice: 'import_b'")
    hint = "--import FILE.py"
    command("train --resume run", 1, f"unknown dataset 'import_b-data'; {hint} brings one of your own")
    command("evaluate run --dataset synthetic-digits", 1, "model 'import_b'", hint)


BROKEN = {
    "x = 1\n\n1 / 0\n": "line 3: ZeroDivisionError: division by zero",
    "import json\njson.loads('x')\n": "line 2: JSONDecodeError: Expecting value",
    "x = 1\ndef (:\n": "SyntaxError: invalid syntax (broken.py, line 2)",
    "import sys\nsys.exit(0)\n": "line 2: SystemExit: 0",
    "raise RuntimeError\n": "line 1: RuntimeError\n",
    "x = '\0'\n": "SyntaxError: ",
    "from xpcnn import nn\nnn.registered('Linear')(type('L', (nn.Layer,), {}))\n": (
        "line 2: ArgumentError: registered: the name 'Linear' is that of xpcnn.nn.linear.Linear"
    ),
}


@pytest.mark.parametrize("code", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_is_one_line(xpcnn_command: Run, tmp_path: Path, code: str) -> None:
    (tmp_path / "broken.py").write_text(code)
    status, out, err = xpcnn_command("info", "--import", "broken.py")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("xpcnn: error: --import broken.py: ")
    assert BROKEN[code] in err
    assert "broken" not in sys.modules


def test_names_of_modules(tmp_path: Path) -> None:
    """A file named as a module of Python's is not that module; each is run once."""
    import json

    names = []
    for name in ("json", "no identifier", "statistics_of_mine", "statistics_of_mine"):
        (tmp_path / f"{name}.py").write_text("from xpcnn.data import catalog\ncatalog.seen = __name__\n")
        import_file(str(tmp_path / f"{name}.py"))
        names.append(data.catalog.__dict__.pop("seen", None))
    assert names == ["xpcnn_import_json", "no identifier", "statistics_of_mine", None]
    assert sys.modules["json"] is json
    for wrong, message in {str(tmp_path): "is a folder", "absent.py": "no such file"}.items():
        with pytest.raises(PluginError, match=message):
            import_file(wrong)
    (tmp_path / "a.txt").touch()
    with pytest.raises(PluginError, match=r"ends in \.py"):
        import_file(str(tmp_path / "a.txt"))


# -- what is registered ------------------------------------------------------------------


def stars(*sizes: int) -> nn.Layer:
    return nn.Identity()


ODD: list[tuple[Any, Any, Any, str]] = [
    (models.register_model, "import_bad", 3, "must be a function that returns a model, got 3"),
    (models.register_model, "import_bad", nn.ReLU, "must be a function"),
    (models.register_model, "import_bad", stars, r"stars takes \*sizes"),
    (models.register_model, "lenet5", lambda: nn.Identity(), "register_model: the name 'lenet5' is taken"),
    (models.register_model, stars, None, r'its name is missing; write @register_model\("my_name"\)'),
    (models.register_model, "a b", stars, "a name must be a letter followed by"),
    (data.register_dataset, "mnist", lambda: None, "the name 'mnist' is taken"),
    (data.register_dataset, "import-three", 3, "a function that returns a training and a test set"),
    (data.register_dataset, stars, None, "its name is missing"),
    (data.register_dataset, "import-four", lambda path: None, r"is called without arguments: .*'path'"),
]


@pytest.mark.parametrize(("register", "name", "function", "message"), ODD)
def test_what_cannot_be_registered(register: Any, name: Any, function: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        register(name)(function)


def test_what_functions_return() -> None:
    models.register_model("import_none")(lambda: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ArgumentError, match="import_none: its function must return a layer, got NoneType"):
        models.build("import_none")
    data.register_dataset("import-odd")(lambda: [1, 2])  # type: ignore[arg-type, return-value]
    with pytest.raises(DatasetError, match=r"'import-odd' must be two, .* its function returned list"):
        data.load_dataset("import-odd")
    for name, message in (
        (["mnist"], r"unknown dataset \['mnist'\]; known: "),
        ("nowhere", "known: synthetic-digits, mnist"),
    ):
        with pytest.raises(ArgumentError, match=message):
            data.load_dataset(name)  # type: ignore[arg-type]


# -- other distributions -----------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed distributions."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    plugins._found.cache_clear()
    yield folder
    plugins._found.cache_clear()


def install(site: Path, name: str, **points: str) -> None:
    info = site / f"{name}-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
    lines = [f"[xpcnn.{group}]\n{point}\n" for group, point in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))


def test_entry_points(xpcnn_command: Run, site: Path) -> None:
    own_file(site, "import_c")
    install(
        site, "acme", models="import_c = import_c_file:net", datasets="import_c-data = import_c_file:digits"
    )
    install(site, "broken", models="import_d = nowhere_at_all:net")
    assert {"import_c", "import_d"} <= set(models.model_names())
    assert "import_c_file" not in sys.modules
    options = ("--model", "import_c", "--dataset", "import_c-data", "--epochs", 1, "--out", "run")
    result = xpcnn_command("train", *options)
    assert result.status == 0, result.err
    assert "import_d" in xpcnn_command("train", "--help").out
    with pytest.raises(PluginError, match=r"'import_d' of the distribution broken 2\.0 cannot be imported"):
        models.build("import_d")
    failed = xpcnn_command("train", "--model", "import_d")
    assert failed.status == 1
    assert "xpcnn: error: xpcnn.models: 'import_d' of the distribution broken 2.0" in failed.err


def test_a_plain_function_and_another_name(site: Path) -> None:
    (site / "import_e_file.py").write_text(
        "from xpcnn import models, nn\ndef plain(width=2):\n    return nn.Linear(width, 1)\n"
        "@models.register_model('import_f')\ndef other():\n    return nn.ReLU()\nnumber = 3\n"
    )
    names = {"import_e": "plain", "import_g": "other", "import_h": "number"}
    points = "\n".join(f"{name} = import_e_file:{function}" for name, function in names.items())
    install(site, "acme", models=points)
    assert models.build("import_e", width=3).weight.shape == (1, 3)  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match="'import_g': the model is registered as 'import_f'"):
        models.build("import_g")
    with pytest.raises(PluginError, match=r"'import_h': .*must be a function"):
        models.build("import_h")


@pytest.mark.process
def test_layers_of_distributions_are_found(site: Path) -> None:
    """By `load_model` alone, in a process that has not heard of them; a broken one is only told of."""
    own_file(site, "import_i")
    install(site, "acme", models="import_i = import_i_file:net")
    install(site, "broken", models="import_j = nowhere_at_all:net")
    save = "model = models.build('import_i'); model['more'] = nn.ReLU(); model.save('m.npz')"
    python(site, f"from xpcnn import models, nn; {save}")
    read = "import logging; logging.basicConfig(); import xpcnn; print(xpcnn.load_model('m.npz'))"
    done = python(site, read)
    assert "(double): Double(" in done.stdout
    assert "(more): ReLU()" in done.stdout
    assert "'import_j' of the distribution broken 2.0 cannot be imported" in done.stderr


def python(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(Path(xpcnn.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True, check=True)
