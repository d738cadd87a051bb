"""A digest of what a weight file says, by which a flipped bit is found.

It is the SHA-256 of a description and the arrays' bytes, one after the other. The description is JSON in
ASCII without spaces, of two lists: the metadata ``[name, text]``, and the arrays ``[name, dtype, shape]``,
each sorted by name. The bytes follow in that order: little-endian, the last dimension fastest.
It stands in the metadata, under the name "digest", as ``xpcnn-sha256:`` and 64 hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

import numpy as np

__all__ = ["check_digest", "digest_of", "holds_digest", "is_ours"]

_NAME = "digest"
_FORM = re.compile("xpcnn-sha256:[0-9a-f]{64}")
_OUR_MARKS = ('"digest"', '"format_version"')  # of these, damage to one bit spares one
DAMAGED = "damaged: its content does not match the digest (SHA-256) in it"


def digest_of(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the entry that a file's metadata get: the digest of the arrays and of all other metadata."""
    names = sorted(arrays)
    described = [
        sorted(metadata.items()),
        [(name, arrays[name].dtype.name, arrays[name].shape) for name in names],
    ]
    digest = hashlib.sha256(json.dumps(described, separators=(",", ":")).encode("ascii"))
    for name in names:
        array = arrays[name]
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(little.reshape(-1).view(np.uint8).data)
    return {_NAME: f"xpcnn-sha256:{digest.hexdigest()}"}


def check_digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata without their digest. Without one, as in files of others, nothing is checked.

    Raises
    ------
    ValueError
        When it is not the digest of what was read.
    """
    rest = {name: text for name, text in metadata.items() if name != _NAME}
    # A digest under another name is one whose name was damaged.
    unnamed = any(_FORM.fullmatch(text) for text in rest.values())
    if unnamed or (_NAME in metadata and digest_of(arrays, rest)[_NAME] != metadata[_NAME]):
        raise ValueError(DAMAGED)
    return rest


def holds_digest(text: str) -> bool:
    """Return whether there is a digest of ours anywhere in a text."""
    return _FORM.search(text) is not None


def is_ours(text: str) -> bool:
    """Return whether the text of a file's metadata is one that xpcnn wrote."""
    return any(mark in text for mark in _OUR_MARKS)
