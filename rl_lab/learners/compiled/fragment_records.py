"""The buffers of a fragment, T steps of every row: `templates/fragment.py` fills them for RLlib's learners.

`learners/rllib/compiled_sampler.py` allocates them. This module only declares types. Shapes: N worlds of A agents make
B = N x A rows; T steps of a fragment; n actions, or k numbers of a continuous action; d numbers of an observation. An
address is an int, as in `ppo_records`.
"""

from __future__ import annotations

from typing import NamedTuple

from rl_lab.core.world import Array
from rl_lab.learners.compiled.ppo_records import PolicyOutputs

# The logit of an illegal action: its probability is exactly 0, and entropy and divergence stay finite.
ILLEGAL_LOGIT = -1e8


class FragmentBuffers(NamedTuple):
    """T steps of B rows, as the policy and the worlds return them: neither normalised nor bootstrapped."""

    observations: int  # address, float32 or uint8 [T, B, d]
    # Address, as observations: thread r writes the last ones of its rows' episodes from index partition[r] x A x T on,
    # where `partition` is that of `EnvArrays`.
    final_observations: int
    num_final: Array  # int64 [threads]: how many final observations each thread has written, by step and row
    outputs: PolicyOutputs  # its action masks are uint8 [T, B, n] or [T, B, 0]
    dist_inputs: Array  # float32 [T, B, n]: logits; or [T, B, 2 k]: means and logarithms of standard deviations
    rewards: Array  # float32 [T, B]
    terminated: Array  # bool [T, B]
    truncated: Array  # bool [T, B]
    episode_returns: Array  # float64 [T, B]: of episodes that ended in this step
    episode_lengths: Array  # int64 [T, N]: 0 where none ended
    cycles: Array  # int64 [2]: processor cycles in steps of the worlds, and in the whole fragment
