"""This module has the hash of a set of arrays, which identifies an agent, a snapshot or a network by its parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from rl_lab.core.world import Array


def content_hash(tensors: Mapping[str, Mapping[str, Array]]) -> str:
    """Return the SHA-256, in hexadecimal, of the names, dtypes, shapes and bytes of all tensors, sorted by name.

    `tensors` are arrays by group and name. The bytes are hashed as little-endian and in C order, so the hash is the
    same on every machine.
    """
    digest = hashlib.sha256()
    for group in sorted(tensors):
        for name, array in sorted(tensors[group].items()):
            canonical = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            digest.update(f"{group}\0{name}\0{canonical.dtype.str}\0{array.shape}\0".encode())
            digest.update(canonical.tobytes())
    return digest.hexdigest()
