"""Rollout buffers of recurrent policies: they have the policy's state before each step, and yield sequences of steps.

A rollout [T, B] is cut into sequences of L steps of one row, each of which begins with the state that its row had
then. With a burn-in of W steps, a sequence begins W steps earlier, and the learner computes its state from there with
the present parameters.

Which transitions are complete, and what happens to those that are pending at the end of a rollout, is as in
`masked_rollout_buffers`. A pending transition keeps the state before its action, so that the next rollout of its row
begins with that state. A step in which a row does not act leaves its state as it is.

Source: Kapturowski et al. 2019, "Recurrent experience replay in distributed reinforcement learning" (stored states and
burn-in)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from rl_lab.core.world import Array
from rl_lab.learners.sb3.masked_rollout_buffers import (
    CompleteTransitionMaskableRolloutBuffer,
    CompleteTransitionRolloutBuffer,
)


class SequenceMinibatch(NamedTuple):
    """S sequences of W + L steps. The first W are the burn-in; M transitions of the others are learned from."""

    observations: torch.Tensor  # [W + L, S, ...]
    states: torch.Tensor  # float32 [S, H], before the first step
    episode_starts: torch.Tensor  # bool [W + L, S]
    updates_state: torch.Tensor  # bool [W + L, S], steps that change the state
    is_learned: torch.Tensor  # bool [L, S], with M entries that are True
    # Of the M transitions, in the order of `is_learned`:
    actions: torch.Tensor  # [M, k or 1]
    old_values: torch.Tensor  # float32 [M]
    old_log_probs: torch.Tensor  # float32 [M]
    advantages: torch.Tensor  # float32 [M]
    returns: torch.Tensor  # float32 [M]
    action_masks: torch.Tensor | None  # float32 [M, actions]


class _SequenceBuffer(CompleteTransitionRolloutBuffer):
    """A rollout buffer with `states`, float32 [T, B, H], of a policy with H = `recurrent_size`."""

    flattened_arrays = (*CompleteTransitionRolloutBuffer.flattened_arrays, "states")

    def __init__(self, *args: Any, recurrent_size: int, **kwargs: Any) -> None:
        self.recurrent_size = recurrent_size
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Begin a new rollout; pending transitions stay."""
        self.states = np.zeros((self.buffer_size, self.n_envs, self.recurrent_size), np.float32)
        super().reset()

    def add(self, *args: Any, states: Array, **kwargs: Any) -> None:  # type: ignore[override]  # one argument more
        """Add a step of every row, and the states [B, H] before it; see `RolloutBuffer.add`."""
        self.states[self.pos] = states
        super().add(*args, **kwargs)

    def sequences(self, batch_size: int, length: int, burn_in: int) -> Iterator[SequenceMinibatch]:
        """Yield minibatches of `batch_size` steps, in whole sequences of `length` steps, in random order.

        Sequences without a complete transition are left out. The last minibatch may be smaller.
        """
        has_any = self.has_complete_transition.reshape(-1, length, self.n_envs).any(axis=1)  # [T / L, B]
        chosen = np.random.permutation(np.argwhere(has_any))
        count = batch_size // length
        for first in range(0, len(chosen), count):
            part = chosen[first : first + count]
            yield self._sequences(part[:, 0] * length, part[:, 1], length, burn_in)

    def _sequences(self, starts: Array, rows: Array, length: int, burn_in: int) -> SequenceMinibatch:
        """Return the sequences of these rows, [S], whose learned steps begin at `starts`, [S].

        Steps before the rollout, which a burn-in may include, do nothing.
        """
        steps = starts - burn_in + np.arange(burn_in + length)[:, None]  # [W + L, S]
        in_rollout, steps = steps >= 0, np.maximum(steps, 0)
        updates_state = self.has_complete_transition[steps, rows] & in_rollout
        learned = np.nonzero(updates_state[burn_in:])
        index = steps[burn_in:][learned], rows[learned[1]]  # of the M transitions in the rollout
        masks = getattr(self, "action_masks", None)
        return SequenceMinibatch(
            observations=self.to_torch(self.observations[steps, rows]),
            states=self.to_torch(self.states[steps[0], rows]),
            episode_starts=self.to_torch((self.episode_starts[steps, rows] != 0) & in_rollout),
            updates_state=self.to_torch(updates_state),
            is_learned=self.to_torch(updates_state[burn_in:]),
            actions=self.to_torch(self.actions[index]),
            old_values=self.to_torch(self.values[index]),
            old_log_probs=self.to_torch(self.log_probs[index]),
            advantages=self.to_torch(self.advantages[index]),
            returns=self.to_torch(self.returns[index]),
            action_masks=None if masks is None else self.to_torch(masks[index]),
        )


class SequenceRolloutBuffer(_SequenceBuffer):
    """The rollout buffer of a recurrent PPO."""


class MaskableSequenceRolloutBuffer(_SequenceBuffer, CompleteTransitionMaskableRolloutBuffer):  # type: ignore[misc]  # sb3-contrib's yields masks, too
    """The rollout buffer of a recurrent PPO where actions can be illegal."""

    flattened_arrays = (*CompleteTransitionMaskableRolloutBuffer.flattened_arrays, "states")
