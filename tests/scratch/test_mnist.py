"""load_mnist: its arguments, the backend it loads to, and mirrors that refuse."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import data
from xpcnn.data import fetch
from xpcnn.data.fetch import Source
from xpcnn.errors import DatasetError
from xpcnn.scratch.mnist import load_mnist


def parts() -> tuple[data.Dataset, data.Dataset]:
    return data.mnist()


@pytest.mark.usefixtures("small_mnist")
def test_the_defaults_are_the_books() -> None:
    (x_train, t_train), (x_test, t_test) = load_mnist()
    train, test = parts()
    assert (x_train.shape, x_test.shape) == ((300, 784), (100, 784))
    assert (x_train.dtype, t_train.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(x_train, train.images.reshape(300, 784).astype(np.float32) / 255)
    np.testing.assert_array_equal(t_test, test.labels)
    assert x_train.max() == 1.0


@pytest.mark.usefixtures("small_mnist")
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("one_hot", [True, False])
def test_every_combination(make: Any, normalize: bool, flatten: bool, one_hot: bool) -> None:
    with make.use():
        found = load_mnist(normalize, flatten, one_hot)
    for (x, t), part in zip(found, parts(), strict=True):
        n = len(part)
        pixels = part.images.reshape(n, 784) if flatten else part.images
        make.check_kind(x, pixels.shape, "float32" if normalize else "uint8")
        np.testing.assert_array_equal(
            make.to_numpy(x), pixels.astype(np.float32) / 255 if normalize else pixels
        )
        make.check_kind(t, (n, 10) if one_hot else (n,), "float32" if one_hot else "int64")
        rows = make.to_numpy(t)
        np.testing.assert_array_equal(rows.argmax(axis=1) if one_hot else rows, part.labels)
        if one_hot:
            np.testing.assert_array_equal(rows.sum(axis=1), np.ones(n))


@pytest.mark.usefixtures("small_mnist")
def test_the_arrays_are_the_scripts_own() -> None:
    for normalize in (True, False):
        (x, t), _ = load_mnist(normalize)
        x[...] = 0
        t[...] = 0
    assert load_mnist()[0][0].any()


@pytest.fixture
def mirrors(mnist_folder: Path) -> Iterator[str]:
    """A server whose ``refuses/`` answers 403, as the book's does by now; ``serves/`` has the files."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror, file = self.path.strip("/").split("/")
            if mirror == "refuses":
                self.send_error(403)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write((mnist_folder / "mnist" / file.removesuffix(".gz")).read_bytes())

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_mirror_that_answers_403(
    small_mnist: Source, mirrors: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mended: the book knows one address and ends there; here the next mirror is asked."""
    monkeypatch.delenv("XPCNN_DATA_DIR")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    monkeypatch.setattr(fetch, "cache_dir", lambda: tmp_path / "cache")

    def known(*names: str) -> None:
        urls = tuple(f"{mirrors}/{name}/" for name in names)
        monkeypatch.setattr(
            sys.modules["xpcnn.data.mnist"], "MNIST", Source("mnist", urls, small_mnist.sha256)
        )

    known("refuses")
    with pytest.raises(DatasetError, match="HTTP 403 Forbidden; to provide the files by hand"):
        load_mnist()
    known("refuses", "serves")
    (x_train, _), _ = load_mnist()
    assert x_train.shape == (300, 784)
    known("refuses")  # from the cache now
    np.testing.assert_array_equal(load_mnist()[0][0], x_train)
