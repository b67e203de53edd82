"""Observations as the compiled networks read them where most of their numbers are zero: as lists of the others.

A sparse network skips the zeros, which is faster on boards such as MinAtar's; see `compiled/templates/observations.py`.
"""

from __future__ import annotations

import numpy as np

from rl_lab.core.world import Array
from rl_lab.learners.compiled import build
from rl_lab.learners.compiled.network import NetworkMemory

MIN_SPARSE_SIZE = 64  # numbers of an observation; smaller ones are always dense
MIN_DENSE_SHARE = 0.25  # of numbers that are not zero, from which on observations are dense


def is_sparse(network: NetworkMemory, observations: Array) -> bool:
    """Return whether observations [R, d] enter a network as lists of their numbers that are not zero."""
    if network.spec.begins_with_convolution:
        return True
    may_be_sparse = observations.shape[1] >= MIN_SPARSE_SIZE
    return may_be_sparse and bool(np.count_nonzero(observations) < MIN_DENSE_SHARE * observations.size)


def nonzero_lists(network: NetworkMemory, observations: Array) -> tuple[Array, Array, Array]:
    """Return the lists of numbers that are not zero in observations [R, d], see `ppo_records.RolloutSamples`.

    They are where each row's list begins, int64 [R + 1], the columns, int32, and the numbers, float32. The arrays are
    empty if the observations are dense.
    """
    if not is_sparse(network, observations):
        return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
    starts = np.zeros(len(observations) + 1, np.int64)
    count = np.count_nonzero(observations) + 1  # one more than there are, which compiled code writes to
    columns, values = np.zeros(count, np.int32), np.zeros(count, np.float32)
    source = (observations.ctypes.data, observations.dtype == np.uint8, *observations.shape)
    build.ppo().build_all_sparse_rows(*source, starts, columns, values)
    return starts, columns, values
