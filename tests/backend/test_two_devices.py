"""CuPy computes on the calling thread's current device; copying works from any. In a process that has two."""

from __future__ import annotations

import pytest

import xpcnn
from tests.support.backend import need, run_python

SCRIPT = """
import numpy as np, xpcnn
from xpcnn import Trainer, data, errors, models, optim

digits = data.synthetic_digits(16)
with xpcnn.use_backend("cupy", 1):
    model = models.tiny_convnet()
    elsewhere = xpcnn.asarray([1.0, 2.0])
assert str(model.backend) == "cupy (1)"
assert xpcnn.to_numpy(elsewhere).tolist() == [1.0, 2.0]
with xpcnn.use_backend("cupy", 0):
    assert int(xpcnn.asarray(elsewhere).device.id) == 0
before = {path: xpcnn.to_numpy(array) for path, array in model.state_dict().items()}


def same(state):
    return all(np.array_equal(xpcnn.to_numpy(array), before[path]) for path, array in state.items())


state = model.state_dict()
assert same(state) and {int(array.device.id) for array in state.values()} == {1}
model.load_state_dict(before)
assert str(model.backend) == "cupy (1)"
for device in (0, 1, 0):
    model.to(device=device)
    assert str(model.backend) == f"cupy ({device})" and same(model.state_dict())
model.to(device=1).to(dtype="float64")
assert str(model.backend) == "cupy (1)" and same(model.state_dict())
model.to("numpy", dtype="float32").to("cupy", 1)
assert str(model.backend) == "cupy (1)" and same(model.state_dict())

trainer = Trainer(model, optim.Adam(model))
trainer.step(*digits[:8])
trainer.optimizer.load_state_dict(trainer.optimizer.state_dict())

try:
    xpcnn.ops.relu(elsewhere)
except errors.BackendError as error:
    assert "device 1" in str(error) and "current device is 0" in str(error)
else:
    raise AssertionError("computed on a device that is not current")
"""


@pytest.mark.gpu
@pytest.mark.process
def test_a_model_on_the_second_device() -> None:
    need("cupy")
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one CUDA device")
    done = run_python(SCRIPT)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_backend_says_where_an_array_lives() -> None:
    for name, reason in xpcnn.available_backends().items():
        if reason is None:
            with xpcnn.use_backend(name) as backend:
                assert xpcnn.backend.home_of(xpcnn.asarray([1.0])) is backend
