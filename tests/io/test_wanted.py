"""Of another tool's file, only the entries that a model may take are read."""

from __future__ import annotations

import tracemalloc
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from xpcnn import io, load_model, nn
from xpcnn.errors import CheckpointError, NonFiniteWarning, StateDictError
from xpcnn.scratch.simple_convnet import SimpleConvNet

MIB = 1 << 20
HUGE = 1 << 27  # numbers: more than the 256 MiB that any archive may unpack to


@contextmanager
def at_most_mib(most: float) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most * MIB, peak / MIB


def layer(**settings: Any) -> nn.Linear:
    return nn.Linear(512, 512, **settings)  # a weight of 1 MiB


def weights(prefix: str = "") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        f"{prefix}weight": rng.standard_normal((512, 512)).astype(np.float32),
        f"{prefix}bias": np.arange(512, dtype=np.float32),
    }


def zeros_entry(shape: tuple[int, ...], written: int) -> bytes:
    """The bytes of an npy file of float32 zeros whose header says `shape`."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117) + "\n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin-1")
    return start + bytes(written)


@pytest.fixture(scope="module")
def zeros(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return zeros_entry((HUGE,), 4 * HUGE)


def write(path: Path, arrays: dict[str, np.ndarray], **more: bytes) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, content in more.items():
            archive.writestr(f"{name}.npy", content)


def test_a_huge_entry_that_no_model_asks_for(tmp_path: Path, zeros: bytes) -> None:
    path = tmp_path / "w.npz"
    write(path, weights(), optimizer=zeros)
    assert path.stat().st_size < 3 * MIB
    model = layer()
    with at_most_mib(6):
        report = model.load(path, strict=False)
    assert report.unexpected == ["optimizer"]
    assert (model.weight.data == weights()["weight"]).all()
    with at_most_mib(6), pytest.raises(StateDictError, match=rf"unexpected: optimizer \({HUGE},\)"):
        layer().load(path)
    # Who asks for all entries is refused.
    with at_most_mib(6), pytest.raises(CheckpointError, match="more than 100 times as many"):
        io.load_arrays(path)


def test_a_wanted_entry_that_unpacks_to_a_gigabyte_is_refused(tmp_path: Path, zeros: bytes) -> None:
    path = tmp_path / "w.npz"
    write(path, {}, weight=zeros)
    with at_most_mib(4), pytest.raises(CheckpointError, match=r"w\.npz: .* more than 100 times as many"):
        io.load_arrays(path, wanted={"weight": (HUGE,)})


def test_an_entry_of_another_shape_is_not_unpacked(tmp_path: Path, zeros: bytes) -> None:
    path = tmp_path / "w.npz"
    write(path, {"bias": weights()["bias"]}, weight=zeros)
    model = layer()
    with at_most_mib(4):
        report = model.load(path, strict=False)
    assert (report.mismatched, report.missing, report.unexpected) == (["weight"], [], [])
    with at_most_mib(4), pytest.raises(StateDictError, match=rf"weight is \({HUGE},\) but .* \(512, 512\)"):
        layer().load(path)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module.model."])
def test_prefixes(tmp_path: Path, prefix: str, ending: str) -> None:
    arrays = {**weights(prefix), f"{prefix}head.weight": np.ones((3, 512), np.float32)}
    path = tmp_path / f"w{ending}"
    if ending == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    else:
        safetensors.numpy.save_file(arrays, path)
    model = layer()
    assert model.load(path, strict=False).unexpected == ["head.weight"]
    assert (model.weight.data == weights()["weight"]).all()


def test_what_is_not_read_of_safetensors_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    others = {"other": np.zeros(16 * MIB, np.float32), "narrow": np.zeros(3, np.float16)}
    safetensors.numpy.save_file({**weights(), **others}, path)
    model = layer()
    with at_most_mib(6):
        assert sorted(model.load(path, strict=False).unexpected) == ["narrow", "other"]
    assert (model.weight.data == weights()["weight"]).all()
    found, _ = io.load_arrays(path, wanted={})
    assert {name: (array.shape, str(array.dtype)) for name, array in found.items()} == {
        "weight": ((512, 512), "float32"),
        "bias": ((512,), "float32"),
        "other": ((16 * MIB,), "float32"),
        "narrow": ((3,), "float16"),
    }


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_only_what_was_read_is_looked_at_for_nan(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"w{ending}"
    arrays = {**weights(), "ema": np.full(4, np.nan, np.float32), "odd.bias": np.full(4, np.inf, np.float32)}
    if ending == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    else:
        safetensors.numpy.save_file(arrays, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer().load(path, strict=False)
    with pytest.warns(NonFiniteWarning, match=r"numbers in ema, odd\.bias;"):
        io.load_weights(path)
    arrays["bias"][7] = np.nan
    if ending == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    else:
        safetensors.numpy.save_file(arrays, path)
    with pytest.warns(NonFiniteWarning, match="numbers in bias;"):
        layer().load(path, strict=False)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_files_of_ours_are_read_whole(tmp_path: Path, ending: str) -> None:
    """Their digest is that of all entries."""
    path = tmp_path / f"w{ending}"
    io.save_arrays(path, weights(), {})
    found, _ = io.load_arrays(path, wanted={})
    assert all((found[name] == array).all() for name, array in weights().items())


def test_load_model_reads_nothing_of_a_file_that_describes_none(tmp_path: Path, zeros: bytes) -> None:
    write(tmp_path / "w.npz", weights(), zeros=zeros)
    with at_most_mib(1), pytest.raises(CheckpointError, match=r"w\.npz: does not say"):
        load_model(tmp_path / "w.npz")


def test_the_book_s_parameters(tmp_path: Path, zeros: bytes) -> None:
    network = SimpleConvNet(input_dim=(1, 8, 8), hidden_size=4)
    write(tmp_path / "p.npz", {key: np.asarray(value) for key, value in network.params.items()}, more=zeros)
    with at_most_mib(2), pytest.raises(StateDictError, match="unexpected: 'more'"):
        network.load_params(tmp_path / "p.npz")


ODD = {
    "bzip2": (zipfile.ZIP_BZIP2, bytes(32 * MIB), "another method"),
    "lzma": (zipfile.ZIP_LZMA, bytes(32 * MIB), "another method"),
    "a long header": (zipfile.ZIP_DEFLATED, b"\x93NUMPY\x02\x00" + (1 << 25).to_bytes(4, "little"), "EOF"),
}


@pytest.mark.parametrize(("method", "content", "message"), ODD.values(), ids=ODD.keys())
def test_headers_take_little_memory(tmp_path: Path, method: int, content: bytes, message: str) -> None:
    """They are read of every entry, before any is refused."""
    with zipfile.ZipFile(tmp_path / "w.npz", "w", method) as archive:
        archive.writestr("x.npy", content + bytes(1 << 25))
    model = layer()
    with at_most_mib(2), pytest.raises(CheckpointError, match=rf"w\.npz: .*{message}"):
        model.load(tmp_path / "w.npz")
