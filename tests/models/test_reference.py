"""`xpcnn.reference`: the textbook gives what the engine gives, and nothing of the engine runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.model_cases import FAMILIES, drawn_state, images, parametrize, tiny, tiny_shape
from xpcnn import Key, errors, nn, ops, optim
from xpcnn.backend import primitive
from xpcnn.backend._numpy import NumpyBackend
from xpcnn.backend.reference import in_reference
from xpcnn.backend.threads import parallel_for, parallel_map
from xpcnn.ops.conv.algorithms.im2col import Im2col

Array = np.ndarray[Any, Any]

CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in FAMILIES} | {
    "googlenet with heads": ("googlenet", {"aux": True}),
    "alexnet with response norm": ("alexnet", {"local_response_norm": True}),
}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    limit = xpcnn.get_workspace_limit()
    yield
    xpcnn.set_workspace_limit(limit)
    xpcnn.set_num_threads(None)


# The same results -------------------------------------------------------------------------------------


def results(make: Any, name: str, options: dict[str, Any]) -> dict[str, Array]:
    """Everything that a training pass and an evaluation of a fresh model give."""
    with make.use():
        model = tiny(name, **options)
    model.load_state_dict(drawn_state(model))
    x = make.array(images(5, *tiny_shape(name), seed=1))
    found = {"evaluated": model(x)}
    y, ctx = model.forward(x, train=True, key=Key(3))
    outputs = y if isinstance(y, tuple) else (y,)
    found |= {f"y{i}": output for i, output in enumerate(outputs)}
    dys = [make.array(images(*output.shape, seed=2)) for output in outputs]
    grads = nn.Gradients()
    found["dx"] = model.backward(ctx, type(y)(*dys) if isinstance(y, tuple) else dys[0], grads)
    found |= {f"gradient of {path}": grads[path] for path in model.parameters()}
    found |= model.state_dict()  # running statistics
    return {what: make.to_numpy(array) for what, array in found.items()}


@parametrize("name options", CASES)
def test_every_family(make: Any, name: str, options: dict[str, Any]) -> None:
    if make.name == "array_api_strict" and name not in ("simple_convnet", "lenet5", "resnet20"):
        pytest.skip("minutes, of the portable functions that the others run too")
    engine = results(make, name, options)
    with xpcnn.reference():
        textbook = results(make, name, options)
    assert engine.keys() == textbook.keys()
    for what, expected in textbook.items():
        # The gradient of a bias before a batch-norm is 0: a sum of terms as large as its weight's gradient.
        beside = textbook.get(what.removesuffix("bias") + "weight", expected)
        largest = max(float(np.abs(one).max()) for one in (expected, beside))
        np.testing.assert_allclose(engine[what], expected, rtol=0, atol=1e-8 * largest, err_msg=what)


# Nothing of the engine --------------------------------------------------------------------------------


def test_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            def refuse(*arguments: Any, **options: Any) -> Any:
                raise AssertionError(f"the kernel {name}")

            return refuse

    with xpcnn.use_backend("numpy") as backend:
        assert isinstance(backend, NumpyBackend)
        monkeypatch.setitem(vars(backend), "kernels", Forbidden())
        model = tiny("resnet18")
        optimizer = optim.Adam(model)
        x = images(3, *tiny_shape("resnet18"))
        with xpcnn.reference():
            y, ctx = model.forward(x, train=True, key=Key(0))
            loss, loss_ctx = ops.softmax_cross_entropy(y, np.array([0, 1, 2]))
            grads = nn.Gradients()
            model.backward(ctx, ops.softmax_cross_entropy.backward(loss_ctx), grads)
            optimizer.step(grads)
        assert np.isfinite(loss)
        with pytest.raises(AssertionError, match="the kernel"):
            model.forward(x, train=True, key=Key(0))


def test_a_primitive_is_its_portable_function(monkeypatch: pytest.MonkeyPatch) -> None:
    @primitive
    def answer(x: Any) -> str:
        return "portable"

    with xpcnn.use_backend("numpy") as backend:
        monkeypatch.setitem(vars(backend), "kernels", {"answer": lambda x: "kernel"})
        x = xpcnn.asarray([1.0])
        assert answer(x) == "kernel"
        with xpcnn.reference():
            assert answer(x) == "portable"
        assert answer(x) == "kernel"


def test_random_numbers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that draws is no faster version of the portable function, which draws others."""
    monkeypatch.setitem(vars(xpcnn.backend_of(np.ones(1))), "kernels", {"drop": lambda x, p, key: (x, p)})
    with xpcnn.reference():
        _, ctx = ops.dropout(np.ones(3), 0.25, Key(0))
    assert ctx.mask == 0.25


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The images and output rows of each call of im2col."""
    calls: list[tuple[int, int]] = []
    forward = Im2col.forward

    def watched(self: Im2col, x: Any, weight: Any, geometry: Any) -> Any:
        calls.append((geometry.n, geometry.oh))
        return forward(self, x, weight, geometry)

    monkeypatch.setattr(Im2col, "forward", watched)
    return calls


@pytest.mark.parametrize("groups", [1, 2])
def test_no_tiles(seen: list[tuple[int, int]], groups: int) -> None:
    x, w = images(6, 4, 9, 9), images(2, 4 // groups, 3, 3)
    xpcnn.set_workspace_limit(30_000)
    tiled, _ = ops.conv2d(x, w, groups=groups, algorithm="im2col")
    assert len(seen) > groups
    seen.clear()
    xpcnn.set_workspace_limit(100)
    with pytest.raises(errors.AlgorithmError, match="limit"):
        ops.conv2d(x, w, groups=groups, algorithm="im2col")
    with xpcnn.reference():
        whole, ctx = ops.conv2d(x, w, groups=groups)
        ops.conv2d.backward(ctx, whole)
    assert seen[:groups] == [(6, 7)] * groups  # where no tile would fit, too
    assert len({images for images, _ in seen}) == 1
    np.testing.assert_allclose(whole, tiled, rtol=0, atol=1e-12)


def test_no_threads() -> None:
    xpcnn.set_num_threads(3)
    here = threading.get_ident()
    with xpcnn.reference():
        assert set(parallel_map(lambda _: threading.get_ident(), range(20))) == {here}
        found: list[int] = []
        parallel_for(lambda _: found.append(threading.get_ident()), range(20))
    assert set(found) == {here}
    # The test can fail: two calls that wait for one another are on two threads.
    together = threading.Barrier(2)
    parallel_for(lambda _: together.wait(timeout=30), range(2))


# The algorithm ----------------------------------------------------------------------------------------


def test_the_algorithm() -> None:
    x, w = images(1, 2, 5, 5), images(3, 2, 3, 3)

    def used(**options: Any) -> str:
        name: str = ops.conv2d(x, w, **options)[1].algorithm
        return name

    with xpcnn.reference():
        assert (used(), used(algorithm="mec")) == ("im2col", "mec")
        with xpcnn.reference(algorithm="loop"):
            assert (used(), used(algorithm="mec")) == ("loop", "mec")
        with xpcnn.conv_algorithm("winograd"):
            assert used() == "winograd"
        assert (used(), in_reference()) == ("im2col", True)
    assert (used(), in_reference()) == ("auto", False)


def test_algorithms_that_cannot_be_used() -> None:
    with xpcnn.reference(), pytest.raises(errors.AlgorithmError, match="needs a 3x3 kernel"):
        ops.conv2d(images(1, 2, 5, 5), images(3, 2, 5, 5), algorithm="winograd")
    with (
        pytest.raises(errors.AlgorithmError, match="unknown algorithm 'textbook'"),
        xpcnn.reference("textbook"),
    ):
        raise AssertionError
    assert not in_reference()


def test_backward_is_as_the_place_of_its_own_call(
    seen: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[str] = []
    grad_weight = Im2col.grad_weight
    monkeypatch.setattr(
        Im2col,
        "grad_weight",
        lambda *given: weights.append("im2col") or grad_weight(*given),  # type: ignore[func-returns-value]
    )
    x, w = images(40, 32, 12, 12), images(32, 32, 3, 3)  # winograd, in the engine
    y, ctx = ops.conv2d(x, w)
    expected = ops.conv2d.backward(ctx, y)
    assert (seen, weights) == ([], [])
    with xpcnn.reference():
        gradients = ops.conv2d.backward(ctx, y)  # of a forward pass outside
    assert weights == ["im2col"]
    for got, one in zip(gradients[:2], expected[:2], strict=True):
        np.testing.assert_allclose(got, one, rtol=0, atol=1e-10 * np.abs(one).max())
    with xpcnn.reference():
        y, ctx = ops.conv2d(x, w)
    seen.clear()
    ops.conv2d.backward(ctx, y)  # outside, of a forward pass inside: the algorithm is kept, in tiles
    assert weights[1:] == ["im2col"] * (len(weights) - 1) != []
    assert len(seen) > 1


def test_nothing_is_measured(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XPCNN_CACHE_DIR", str(tmp_path / "cache"))
    with xpcnn.autotune(), xpcnn.reference():
        y, ctx = ops.conv2d(images(2, 3, 7, 6), images(4, 3, 3, 3))
        ops.conv2d.backward(ctx, y)
    assert not (tmp_path / "cache").exists()


def test_it_ends_nests_and_is_of_one_thread() -> None:
    answers: list[bool] = []
    with xpcnn.reference():
        thread = threading.Thread(target=lambda: answers.append(in_reference()))
        thread.start()
        thread.join()
        with xpcnn.reference():
            pass
        answers.append(in_reference())
    with pytest.raises(ZeroDivisionError), xpcnn.reference():
        raise ZeroDivisionError
    assert [*answers, in_reference()] == [False, True, False]
