"""Calls of a network whose result for a row depends on that row alone, to the bit, and random numbers for rows.

A matrix product rounds differently in batches of different sizes. A network is therefore always called for `ROWS` rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch

from rl_lab.core.random_actions import counter_uniforms
from rl_lab.core.rng import philox
from rl_lab.core.world import Array

ROWS = 64


def call_in_blocks(network: Callable[..., torch.Tensor], *arrays: Array) -> Array:
    """Return what a network returns for the rows of these arrays, [R, ...]; it gets tensors of ROWS rows each time.

    The last call is padded with copies of the last row.
    """
    count, parts = len(arrays[0]), []
    with torch.inference_mode():
        for first in range(0, count, ROWS):
            index = np.minimum(np.arange(first, first + ROWS), count - 1)
            result = network(*(torch.from_numpy(array[index]) for array in arrays))
            parts.append(result.cpu().numpy()[: count - first])
    return np.concatenate(parts)


def keys_of(rows: Array, seed: int) -> Array:
    """Return a random key, uint64 [R], for the contents of each row, [R, ...]: equal rows have equal keys."""
    salt = seed.to_bytes(8, "little")
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8, salt=salt).digest() for row in rows]
    return np.frombuffer(b"".join(digests), np.uint64)


def sampling_keys(rows: Array, row_seeds: tuple[Array, Array] | None, num_agents: int) -> Array:
    """Return a random key, uint64 [R], for each of these rows, int64 [R], where an agent samples.

    With `row_seeds`, the keys and the clock of `Agent.set_row_seeds`, it depends on these alone; else it is drawn from
    torch's global generator.
    """
    if row_seeds is None:
        return torch.randint(2**62, (len(rows),)).numpy().astype(np.uint64)
    keys, clock = row_seeds[0][rows], row_seeds[1][rows // num_agents].astype(np.uint64)
    low = np.uint64(2**32 - 1)
    return np.asarray(philox(keys & low, keys ^ clock))


def normals(keys: Array, shape: tuple[int, ...]) -> Array:
    """Return standard normal numbers, float32 [R, *shape], that depend on each row's key, uint64 [R], alone."""
    uniform = counter_uniforms(keys, np.zeros(len(keys), np.int64), (2, *shape))
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform[:, 0]))  # Box and Muller 1958
    return np.asarray(radius * np.cos(2.0 * np.pi * uniform[:, 1]), np.float32)


def uniforms(keys: Array) -> Array:
    """Return numbers in [0, 1), float64 [R], that depend on each row's key, uint64 [R], alone."""
    return counter_uniforms(keys, np.zeros(len(keys), np.int64))
