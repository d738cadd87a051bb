"""The host's launcher catches what a GPU would not forgive; the divisions and conversions both share."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from tests.support.cuda_emulator import HostLauncher, build, compiler
from tests.support.ops import Array
from xpcnn.backend.cuda.launch import PointerTable, dividers, launch, launched_by, record
from xpcnn.backend.cuda.source import Family, stand_alone

pytestmark = [pytest.mark.slow, pytest.mark.skipif(compiler() is None, reason="no C++ compiler")]


class Written(Family):
    """A family whose source is given here."""

    text = ""

    def source(self) -> str:
        return stand_alone('#include "common.cuh"\n' + self.text)


def family(name: str, body: str, parameters: str = "float *x, long long step") -> Written:
    """A family of one kernel ``f<float>(count, parameters)``."""
    found = Written(name, ("f<float>",))
    found.text = f"template <typename T> __global__ void f(long long count, {parameters}) {{ {body} }}"
    return found


def run(host: HostLauncher, body: str, count: int = 200, x: Array | None = None, step: Any = 1) -> Array:
    """What the kernel makes of x, by default 0 to 199."""
    x = np.arange(200, dtype=np.float32) if x is None else x
    with launched_by(host):
        launch(family(f"written{abs(hash(body))}", body), "f<float>", count, x, step)
    return x


def test_every_work_item_is_done_once_where_it_lies(host_launcher: HostLauncher) -> None:
    x = run(host_launcher, "FOR_EACH(unsigned, i, count) x[i] += step;", step=2)
    np.testing.assert_array_equal(x, np.arange(200) + 2)
    memory = np.zeros(400, dtype=np.float32)
    run(host_launcher, "FOR_EACH(long long, i, count) x[i * step] = i;", x=memory[::-2], step=-2)
    np.testing.assert_array_equal(memory[::-2], np.arange(200))
    assert not memory[::2].any()


EACH = "FOR_EACH(unsigned, i, count) "
WRONG = {
    "before the array": ("x[i - step] = 0;", 1, "wrote outside"),
    "past the array": ("x[i + step] = 0;", 1, "wrote outside"),
    "a race": ("x[0] = i * step;", 1, "order of its threads"),
    "reading what others write": ("x[i] = x[(i + step) % 200];", 1, "order of its threads"),
    "adding up in one place": ("x[0] += 0.1f * i * step;", 1, "order of its threads"),
    "too narrow an argument": ("x[i] += step;", np.int32(1), "do not fit"),
    "too wide an argument": ("x[i] += step;", record(1, 2), "do not fit"),
}


@pytest.mark.parametrize(("body", "step", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_kernels_are_caught(host_launcher: HostLauncher, body: str, step: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        run(host_launcher, EACH + body, step=step)


def test_reading_past_an_array_gives_nan(host_launcher: HostLauncher) -> None:
    body = "FOR_EACH(unsigned, i, count) if (i == 0) x[0] = x[199 + step];"
    assert np.isnan(run(host_launcher, body)[0])


def test_read_only_arrays_stay_so(host_launcher: HostLauncher) -> None:
    x = np.zeros(200, dtype=np.float32)
    x.flags.writeable = False
    with pytest.raises(AssertionError, match="read-only"):
        run(host_launcher, "FOR_EACH(unsigned, i, count) x[i] = i * step;", x=x)


UNDEFINED = {
    "overflow": "FOR_EACH(int, i, count) x[i] = (i + 2000000000) * static_cast<int>(step);",
    "misaligned": "FOR_EACH(unsigned, i, count) "
    "if (i == 0) reinterpret_cast<Vector<float, 4> *>(x + step)->at[0] = 0;",
}


@pytest.mark.parametrize("body", UNDEFINED.values(), ids=UNDEFINED.keys())
def test_undefined_behaviour_is_reported(host_launcher: HostLauncher, body: str, capfd: Any) -> None:
    if not host_launcher.options:
        pytest.skip("the compiler has no sanitizer of undefined behaviour")
    run(host_launcher, body, step=3)
    assert "runtime error" in capfd.readouterr().err


def test_tables_of_pointers_and_records(host_launcher: HostLauncher) -> None:
    source = family(
        "tables",
        "FOR_EACH(unsigned, i, count) for (int k = 0; k < 3; ++k) if (at[k]) at[k][i] = n.factor[k];",
        "float *const *at, Numbers n",
    )
    source.text = "struct Numbers { long long factor[3]; };\n" + source.text
    arrays = tuple(np.zeros(50, dtype=np.float32) for _ in range(2))
    with launched_by(host_launcher):
        launch(source, "f<float>", 50, PointerTable((arrays[0], None, arrays[1])), record(5, 1, -7))
    assert (arrays[0] == 5).all()
    assert (arrays[1] == -7).all()


# What common.cuh computes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Functions of the header, one number at a time."""
    library = tmp_path_factory.mktemp("common") / "common.so"
    functions = """
        extern "C" unsigned quotient(unsigned n, const Divider *d) { return n / *d; }
        extern "C" long long long_quotient(long long n, const Divider *d) { return n / *d; }
    """
    build('#include "device.h"\n' + stand_alone('#include "common.cuh"\n') + functions, library)
    loaded = ctypes.CDLL(str(library))
    loaded.quotient.restype, loaded.long_quotient.restype = ctypes.c_uint, ctypes.c_longlong
    return loaded


def test_division(common: ctypes.CDLL) -> None:
    largest = (1 << 31) - 1
    generator = np.random.default_rng(0)
    divisors = {1, 2, 3, 5, 7, 9, 224, 641, 65535, 65536, 65537, largest - 1, largest}
    divisors |= {1 << bit for bit in range(31)} | {(1 << bit) - 1 for bit in range(2, 31)}
    for d in sorted(divisors | set(generator.integers(1, largest, 50).tolist())):
        fields = (ctypes.c_longlong * 3)(*dividers(d))
        near = [k * d + offset for k in (1, largest // d // 2, largest // d) for offset in (-1, 0, 1)]
        for n in [0, 1, largest, *near, *generator.integers(0, largest, 50).tolist()]:
            if 0 <= n <= largest:
                assert common.quotient(ctypes.c_uint(n), fields) == n // d, (n, d)
                assert common.long_quotient(ctypes.c_longlong(n << 20), fields) == (n << 20) // d, (n, d)
