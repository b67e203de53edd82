"""Generalised advantage estimation over the rows of a train batch, with the results of RLlib's own connector.

Source: Schulman et al. 2016; `ray.rllib.connectors.learner.general_advantage_estimation` (2.60) for the order of rows,
the number types, and the standardisation over all rows.
"""

from __future__ import annotations

import numpy as np

from rl_lab.core.world import Array
from rl_lab.learners.compiled import build

_SMALLEST_DEVIATION = 1e-4


def advantages_and_targets(
    columns: dict[str, Array], values: Array, *, gamma: float, lambda_: float
) -> tuple[Array, Array]:
    """Return standardised advantages and value targets, float32 [R] each.

    `values`, float32 [R], are the value network's. An episode that terminated is worth 0 after its last step; one that
    was truncated, or cut by the end of the fragment, what the value network says of the observation that followed.
    """
    continues = 1.0 - columns["terminateds"]
    carries = continues * (1.0 - columns["truncateds"])
    following = np.append(values[1:], 0.0)
    deltas = columns["rewards"] + gamma * continues * following - values
    advantages = _discounted(deltas, gamma * lambda_ * carries).astype(np.float32)
    targets = (advantages + values).astype(np.float32)
    advantages = targets - values
    return (advantages - advantages.mean()) / max(_SMALLEST_DEVIATION, advantages.std()), targets


def _discounted(deltas: Array, factors: Array) -> Array:
    """Return the sums s[t] = deltas[t] + factors[t] * s[t + 1], float64 [R]."""
    sums = np.empty(len(deltas))
    build.discounted_sums().discounted_sums(deltas, factors, sums)
    return sums
