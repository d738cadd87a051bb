"""Random numbers as a function of a key, and the host generator initial weights are drawn from."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np

from xpcnn.arguments import plain, whole
from xpcnn.errors import ArgumentError

__all__ = ["Key", "host_generator", "key_of_child"]

_DIGEST_BYTES = 16


class Key:
    """An immutable key from which random numbers are derived.

    A key never changes and holds no generator: the same key always gives the same
    numbers, whatever was drawn before and on whichever thread. New keys are made by
    folding in names and numbers (a step, a layer's path, a shard's first sample).

    Parameters
    ----------
    seed : int
        Any Python integer.

    Examples
    --------
    >>> key = Key(0).fold("step").fold(3)
    >>> key == Key(0).fold("step").fold(3), key == Key(1).fold("step").fold(3)
    (True, False)
    """

    __slots__ = ("_state",)
    _state: bytes

    def __init__(self, seed: int) -> None:
        object.__setattr__(self, "_state", _digest(b"seed", str(whole("Key: seed", seed)).encode()))

    @classmethod
    def fresh(cls) -> Key:
        """Return a key drawn from the operating system's entropy."""
        return cls(int.from_bytes(os.urandom(_DIGEST_BYTES), "little"))

    @classmethod
    def of(cls, key: Key | int) -> Key:
        """Return `key` itself, or the key of that integer seed."""
        return key if isinstance(key, Key) else cls(key)

    def fold(self, data: str | int) -> Key:
        """Return the key derived from this one and a name or a number."""
        if not isinstance(data, str) and (isinstance(data, bool) or not hasattr(data, "__index__")):
            raise ArgumentError(f"Key.fold: expected a name or an integer, got {data!r}")
        tag = b"name" if isinstance(data, str) else b"number"
        return _restore(_digest(self._state, tag, str(data).encode()))

    @property
    def seed64(self) -> int:
        """A 63-bit seed for generators that take one integer."""
        return int.from_bytes(self._state[:8], "little") >> 1

    def generator(self) -> np.random.Generator:
        """Return a fresh host generator that starts at this key."""
        return np.random.Generator(np.random.Philox(key=int.from_bytes(self._state, "little")))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Key is immutable; key.fold(...) returns a new one")

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        return _restore, (self._state,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._state == other._state

    def __hash__(self) -> int:
        return hash(self._state)

    def __repr__(self) -> str:
        return f"Key({self._state.hex()})"


def key_of_child(key: Key | int | None, name: str) -> Key | None:
    """Return the key of a part of that name, if there is one of the whole."""
    return None if key is None else Key.of(key).fold(name)


def _digest(*parts: bytes) -> bytes:
    # Lengths keep fold("ab").fold("c") and fold("a").fold("bc") apart.
    joined = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return hashlib.blake2b(joined, digest_size=_DIGEST_BYTES).digest()


def _restore(state: bytes) -> Key:
    key = object.__new__(Key)
    object.__setattr__(key, "_state", state)
    return key


def host_generator(seed: int | np.random.Generator | None = None) -> np.random.Generator:
    """Return a NumPy generator for host draws; an existing generator passes through.

    Initial weights come from it on every backend, so a seed starts all of them from the
    same bits.

    Raises
    ------
    ArgumentError
        For anything but a generator, None, or integers of at least 0.
    """
    generators = np.random.Generator, np.random.BitGenerator, np.random.SeedSequence
    if seed is None or isinstance(seed, generators):
        return np.random.default_rng(seed)
    numbers: Any = plain(seed) or seed
    one = not isinstance(numbers, tuple)
    return np.random.default_rng(whole("seed", seed, 0) if one else [whole("seed", n, 0) for n in numbers])
