"""PyTorch on one thread: a thread pool only slows tensors as small as these."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import xpcnn


@pytest.fixture(scope="package", autouse=True)
def one_torch_thread() -> Iterator[None]:
    if xpcnn.available_backends()["torch"] is not None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
