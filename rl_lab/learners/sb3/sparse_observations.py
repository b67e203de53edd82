"""Observations as the compiled networks read them where most of their numbers are zero: as lists of the others."""

from __future__ import annotations

import numpy as np

from rl_lab.core.world import Array
from rl_lab.learners.compiled import build
from rl_lab.learners.compiled.network import Network

SPARSE_FROM = 64  # the smallest observations that may be sparse
DENSE_FROM = 0.25  # share of numbers that are not zero, from which on observations are dense


def is_sparse(network: Network, observations: Array) -> bool:
    """Return whether observations [R, d] enter a network as lists of their numbers that are not zero."""
    if network.spec.begins_with_convolution:
        return True
    may_be_sparse = observations.shape[1] >= SPARSE_FROM
    return may_be_sparse and bool(np.count_nonzero(observations) < DENSE_FROM * observations.size)


def nonzero_of(network: Network, observations: Array) -> tuple[Array, Array, Array]:
    """Return where each row's numbers that are not zero begin, int64 [R + 1], their columns, and the numbers.

    The arrays are empty if the observations [R, d] are dense.
    """
    if not is_sparse(network, observations):
        return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
    starts = np.zeros(len(observations) + 1, np.int64)
    count = np.count_nonzero(observations) + 1
    columns, values = np.zeros(count, np.int32), np.zeros(count, np.float32)
    source = (observations.ctypes.data, observations.dtype == np.uint8, *observations.shape)
    build.ppo().build_all_sparse_rows(*source, starts, columns, values)
    return starts, columns, values
