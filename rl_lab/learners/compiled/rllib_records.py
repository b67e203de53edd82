"""The arguments of the compiled update with RLlib's loss: what it has beyond those of `ppo_records`.

Shapes: R rows of a train batch, some of which RLlib adds for their values and leaves out of the loss; n actions, or k
numbers of a continuous action.
"""

from __future__ import annotations

from typing import NamedTuple

from rl_lab.core.world import Array
from rl_lab.learners.compiled.network import FAILED
from rl_lab.learners.compiled.ppo_records import PpoSettings, RolloutSamples

# Columns of a report after those that Stable-Baselines3's loss has: divergence from the policy that sampled, value loss
# before it is clipped, and, for the explained variance, sums over all rows, those without a loss too.
KL, UNCLIPPED_VALUE_LOSS, TARGETS, SQUARED_TARGETS, ERRORS, SQUARED_ERRORS = range(FAILED + 1, FAILED + 7)
RLLIB_REPORTED = SQUARED_ERRORS + 1


class RllibSamples(NamedTuple):
    """A train batch."""

    rollout: RolloutSamples  # its masks are uint8; indices, int64 [1, any], has all minibatches one after the other
    dist_inputs: Array  # float32 [R, n]: logits of the policy that sampled; or [R, 2 k]: means and log_std
    loss_mask: Array  # bool [R]: False for rows that have no loss


class RllibSettings(NamedTuple):
    """The hyperparameters of RLlib's PPO, by its names where Stable-Baselines3 has no such thing."""

    ppo: PpoSettings
    vf_clip_param: float
    use_kl_loss: bool
    kl_coeff: float
