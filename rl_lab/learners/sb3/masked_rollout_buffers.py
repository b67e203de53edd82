"""Rollout buffers for rows whose agents may wait, leave early or have illegal actions.

A row is one agent of one environment in a `LabVecEnv`. A transition starts in a step in which the row acts and ends
when the row acts again or its episode ends. Its reward is the sum over these steps, and its next observation is the one
at the end. Until then it is pending. Only complete transitions are learned from; one that is pending at the end of a
rollout is moved to the next rollout:

    step       0     1     2     3     4 (last)
    row acts   yes   no    no    yes   no
    rewards    0     0     1     0     0

Here the transition of step 0 ends at step 3: its reward is 1, and `has_complete_transition[0]` is True. That of step 3
is pending at the end of the rollout: `has_complete_transition[3]` is set to False.

The buffers replace SB3's, whose `add`, `compute_returns_and_advantage` and `get` they override. They read which rows
act from their `vec_env`, and write only their own arrays. `masked_replay_buffer` and `masked_dqn` use the same terms.
Illegal actions are left out of the policy's softmax by sb3-contrib's MaskablePPO.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.utils import explained_variance

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.world import Array


class _CompleteTransitionBuffer(RolloutBuffer):
    """A rollout buffer [T, B] that yields only complete transitions.

    A transition that is pending when the rollout ends is left out of this rollout. In the next one it takes the place
    of its row's first step, in which the row does not act.

    Attributes:
        has_complete_transition: bool [T, B], marks the transitions that are learned from, at the steps in which they
            start. While the rollout is collected, it marks those that are still pending, too.
        has_pending: bool [B], marks the rows that have a transition to be moved to the next rollout.
        pending: these transitions, which a learner saves: arrays [B, ...] by the names of the buffer's arrays, with the
            observation, action, value and so on of the step in which each started, and the sum of its rewards so far.
            Rows without a pending transition have numbers of no meaning.
        flattened_arrays: the names of the arrays [T, B, ...] that `get` turns into [T * B, ...], in the order of SB3.
    """

    flattened_arrays: tuple[str, ...] = ("observations", "actions", "values", "log_probs", "advantages", "returns")

    def __init__(self, *args: Any, vec_env: LabVecEnv, **kwargs: Any) -> None:
        self.vec_env = vec_env
        super().__init__(*args, **kwargs)
        self.has_pending = np.zeros(self.n_envs, np.bool_)
        self.pending: dict[str, Array] = {
            name: np.zeros_like(array[0]) for name, array in self._transition_arrays().items()
        }

    def _transition_arrays(self) -> dict[str, Array]:
        """Return the arrays [T, B, ...] of a pending transition by name; Dict observations are several arrays."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in (*self.flattened_arrays, "rewards")}
        del arrays["advantages"], arrays["returns"]
        if isinstance(observations := arrays["observations"], dict):
            arrays |= {f"observations.{key}": array for key, array in observations.items()}
            del arrays["observations"]
        return arrays

    def reset(self) -> None:
        """Begin a new rollout; pending transitions stay."""
        self.has_complete_transition = np.ones((self.buffer_size, self.n_envs), np.bool_)
        super().reset()

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add a step of every row; see `RolloutBuffer.add`."""
        self.has_complete_transition[self.pos] = self.vec_env.is_decision_step
        super().add(*args, **kwargs)
        if self.pos == 1 and self.has_pending.any():
            self._insert_pending()

    def _insert_pending(self) -> None:
        """Write the pending transitions into the first step of their rows.

        If an environment was reset in the meantime, a new episode starts in that step, and its pending transition is
        dropped.
        """
        rows = (
            self.has_pending & ~self.has_complete_transition[0] & (self.episode_starts[0] == 0)
        )  # the others are dropped
        self.pending["rewards"] += self.rewards[0]
        for name, array in self._transition_arrays().items():
            array[0, rows] = self.pending[name][rows]
        self.has_complete_transition[0] |= rows
        self.has_pending[:] = False

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: Array) -> None:
        """Compute GAE over the transitions of each row, whose rewards are the sums over their steps.

        Args:
            last_values: Values of the observations after the last step, float32 [B].
            dones: Whether the last step ended an episode, [B].
        """
        next_values = last_values.clone().cpu().numpy().flatten()
        next_non_terminal = 1.0 - dones.astype(np.float32)
        last_gae_lam = np.zeros_like(next_values)
        # float32 [B]: the rewards of later steps that belong to the transition which starts at this step or before it.
        later_rewards = np.zeros_like(next_values)
        # bool [B]: rows whose transition before this point is pending, because after it they neither act nor start an
        # episode. At the end of the rollout, these are the rows that do not act in the next step.
        ends_pending = ~self.vec_env.acting & (np.asarray(dones) == 0)
        for step in reversed(range(self.buffer_size)):
            acted, rewards = self.has_complete_transition[step].copy(), self.rewards[step] + later_rewards
            starts, still_pending = self.episode_starts[step] != 0, acted & ends_pending
            delta = rewards + self.gamma * next_values * next_non_terminal - self.values[step]
            self.advantages[step] = delta + self.gamma * self.gae_lambda * next_non_terminal * last_gae_lam
            # The row's rollout ends with the pending transition: those before it bootstrap from its value.
            last_gae_lam = np.where(acted, np.where(still_pending, 0.0, self.advantages[step]), last_gae_lam)
            next_values = np.where(acted, self.values[step], next_values)
            next_non_terminal = np.where(starts, 0.0, np.where(acted, 1.0, next_non_terminal))
            # Rewards move to the step in which their transition starts. Those before a row's first transition belong to
            # none; they move to step 0 and stay there.
            self.rewards[step] = np.where(still_pending | ~(starts | acted | (step == 0)), 0.0, rewards)
            later_rewards = np.where(starts | acted, 0.0, rewards)
            if still_pending.any():
                self._move_to_pending(step, still_pending, rewards)
            ends_pending &= ~(acted | starts)
        self.returns = self.advantages + self.values

    def _move_to_pending(self, step: int, rows: Array, rewards: Array) -> None:
        """Move the transitions that start in a step to `pending`.

        Args:
            step: The step.
            rows: The rows of these transitions, bool [B].
            rewards: Their rewards so far, float32 [B].
        """
        for name, array in self._transition_arrays().items():
            self.pending[name][rows] = (rewards if name == "rewards" else array[step])[rows]
        self.has_pending |= rows
        self.has_complete_transition[step] &= ~rows

    def explained_variance(self) -> float:
        """Return the share of the variance of the complete transitions' returns that the values explain."""
        # `get` flattens values and returns from [T, B] in the order of [B, T].
        is_complete = self.has_complete_transition
        is_complete = is_complete.swapaxes(0, 1) if self.generator_ready else is_complete
        values, returns = (array.reshape(-1)[is_complete.reshape(-1)] for array in (self.values, self.returns))
        return float(explained_variance(values, returns))

    def get(self, batch_size: int | None = None) -> Iterator[Any]:  # type: ignore[override]
        """Yield minibatches of complete transitions in random order.

        The last one may be smaller. One of a single transition is skipped, because a single one has no standard
        deviation, by which advantages are normalised. If the rollout has no other transition, it is yielded: the
        learner does not normalise its advantage then. A rollout without a complete transition yields nothing.
        """
        if not self.generator_ready:
            for name in self.flattened_arrays:
                array = getattr(self, name)
                if isinstance(array, dict):
                    setattr(self, name, {key: self.swap_and_flatten(part) for key, part in array.items()})
                else:
                    setattr(self, name, self.swap_and_flatten(array))
            self.generator_ready = True
        indices = np.random.permutation(np.flatnonzero(self.has_complete_transition.swapaxes(0, 1)))
        end = len(indices) if len(indices) < 2 else len(indices) - 1  # a last minibatch of one would start at this end
        for start in range(0, end, batch_size or max(len(indices), 1)):
            yield self._get_samples(indices[start : start + (batch_size or len(indices))])


class CompleteTransitionRolloutBuffer(_CompleteTransitionBuffer):
    """The rollout buffer of PPO; unlike SB3's, it yields complete transitions only, see the module."""


class CompleteTransitionMaskableRolloutBuffer(_CompleteTransitionBuffer, MaskableRolloutBuffer):  # type: ignore[misc]  # sb3-contrib's yields masks, too
    """The rollout buffer of MaskablePPO; unlike sb3-contrib's, it yields complete transitions only."""

    flattened_arrays = (*_CompleteTransitionBuffer.flattened_arrays, "action_masks")


class CompleteTransitionDictRolloutBuffer(_CompleteTransitionBuffer, DictRolloutBuffer):  # type: ignore[misc]  # SB3's yields dicts
    """The rollout buffer of PPO for Dict observations; unlike SB3's, it yields complete transitions only."""


class CompleteTransitionMaskableDictRolloutBuffer(_CompleteTransitionBuffer, MaskableDictRolloutBuffer):  # type: ignore[misc]  # as above
    """The rollout buffer of MaskablePPO for Dict observations, again of complete transitions only."""

    flattened_arrays = CompleteTransitionMaskableRolloutBuffer.flattened_arrays
