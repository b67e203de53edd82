"""A replay buffer for rows whose agents may wait, leave early or have illegal actions.

The terms are those of `masked_rollout_buffers`: a transition is pending until its row acts again or its episode ends.
The buffer replaces SB3's, whose `add` and `sample` it overrides. It reads which rows act from its `vec_env`, and writes
only its own arrays. `MaskedDQN` samples from it; compiled DQN reads its arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from rl_lab.adapters.sb3_vec_env import LabVecEnv
from rl_lab.core.world import Array


class MaskedReplaySamples(NamedTuple):
    """A minibatch of M transitions: tensors with the names of SB3's `ReplayBufferSamples`, and action masks."""

    observations: Any  # [M, ...], or of a Dict the tensors by its keys
    actions: torch.Tensor  # [M, 1]
    next_observations: Any  # as observations
    dones: torch.Tensor  # [M, 1]: 1 where the episode terminated
    rewards: torch.Tensor  # [M, 1]: n-step returns
    next_action_masks: torch.Tensor  # [M, n]: 1 for the actions that are legal in the next state
    discounts: torch.Tensor  # [M, 1]: factor of the next state's value


def end_episodes(buffer: Any) -> None:
    """Mark every running episode in a replay buffer, of this module or SB3's, as truncated at its last step."""
    if isinstance(buffer, CompleteTransitionReplayBuffer):
        buffer.truncate_episodes()
    elif buffer.size():
        rows = np.arange(buffer.n_envs)
        _truncate(buffer, np.full_like(rows, (buffer.pos - 1) % buffer.buffer_size), rows)


def _truncate(buffer: Any, slots: Array, rows: Array) -> None:
    """Mark transitions, slots and rows int64 [M], as truncated, except those that end an episode."""
    unfinished = buffer.dones[slots, rows] == 0
    for array in (buffer.dones, buffer.timeouts):
        array[slots[unfinished], rows[unfinished]] = 1


class CompleteTransitionReplayBuffer(ReplayBuffer):
    """A replay buffer [S, B] that samples only complete transitions, and has the action masks of the next states.

    `has_complete_transition`, bool [S, B], marks these transitions, in the slots of the steps in which they start.
    `pending_slots`, int64 [B], is the slot of each row's pending transition, or -1: later steps add their rewards to it
    and overwrite its next observation. `next_action_masks`, uint8 [S, B, n], are those of the next states. `resets` is
    the number of resets of the vector env at the last step.
    """

    def __init__(self, *args: Any, vec_env: LabVecEnv, n_steps: int = 1, gamma: float = 0.99, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.vec_env, self.n_steps, self.gamma = vec_env, n_steps, gamma
        num_actions = int(self.action_space.n)  # type: ignore[attr-defined]
        self.next_action_masks = np.ones((self.buffer_size, self.n_envs, num_actions), np.uint8)
        self.has_complete_transition = np.zeros((self.buffer_size, self.n_envs), np.bool_)
        self.pending_slots, self.resets = np.full(self.n_envs, -1, np.int64), vec_env.resets

    def add(self, obs: Array, next_obs: Array, action: Array, reward: Array, done: Array, infos: Any) -> None:
        """Add a step of every row, arrays [B, ...]; see `ReplayBuffer.add`."""
        pos, is_decision_step = self.pos, self.vec_env.is_decision_step
        if self.resets != self.vec_env.resets:
            self.truncate_episodes()
        self.pending_slots[self.pending_slots == pos] = -1  # this step overwrites the slot
        if self.vec_env.envs.world.has_action_mask:
            # Where an episode has ended, these are the masks of the next one. The legal actions of its last state are
            # unknown, so all count as legal.
            self.next_action_masks[pos] = np.where(done[:, None], 1, self.vec_env.action_masks())
        super().add(obs, next_obs, action, reward, done, infos)
        complete = self.vec_env.acting | (np.asarray(done) != 0)
        self.has_complete_transition[pos] = is_decision_step & complete
        if (self.pending_slots >= 0).any():
            self._extend_pending(pos, complete)
        self.pending_slots[is_decision_step & ~complete] = pos

    def _extend_pending(self, pos: int, complete: Array) -> None:
        """Add the step in slot `pos` to the pending transitions, which it completes in the rows marked, bool [B]."""
        rows = np.flatnonzero(self.pending_slots >= 0)
        slots = self.pending_slots[rows]
        self.rewards[slots, rows] += self.rewards[pos, rows]
        self.rewards[pos, rows] = 0.0
        for array in (*_arrays(self.next_observations), self.dones, self.timeouts, self.next_action_masks):
            array[slots, rows] = array[pos, rows]
        self.has_complete_transition[slots, rows] = complete[rows]
        self.pending_slots[rows[complete[rows]]] = -1

    def truncate_episodes(self) -> None:
        """Mark every running episode as truncated, because the environment was reset or did not resume exactly.

        No n-step return then continues into the next episode. Pending transitions become complete, with all actions
        legal in their next state. The action masks of other transitions do not change.
        """
        rows = np.flatnonzero(self.pending_slots >= 0)
        slots = self.pending_slots[rows]
        for array in (self.dones, self.timeouts, self.has_complete_transition, self.next_action_masks):
            array[slots, rows] = 1
        self.pending_slots[:], self.resets = -1, self.vec_env.resets
        if filled := self.size():
            newest_first = (self.pos - 1 - np.arange(filled)) % self.buffer_size
            last, rows = newest_first[self.has_complete_transition[newest_first].argmax(axis=0)], np.arange(self.n_envs)
            _truncate(
                self, last[self.has_complete_transition[last, rows]], rows[self.has_complete_transition[last, rows]]
            )

    def _next_transitions(self, slots: Array, rows: Array) -> Array:
        """Return the slots of the transitions that follow these, int64 [M]; where none follows yet, the own slot."""
        next_slots, candidates = slots.copy(), (slots + 1) % self.buffer_size
        searching = candidates != self.pos
        while searching.any():
            follows = searching & self.has_complete_transition[candidates, rows]
            next_slots[follows] = candidates[follows]
            candidates = (candidates + 1) % self.buffer_size
            searching &= ~follows & (candidates != self.pos)
        return next_slots

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """Return `MaskedReplaySamples` with `n_steps`-step returns, each transition with equal probability.

        Raises:
            ValueError: There is no complete transition.
        """
        indices = np.flatnonzero(self.has_complete_transition[: self.size()])
        if not len(indices):
            raise ValueError("the replay buffer has no complete transition yet")
        slots, rows = np.divmod(indices[np.random.randint(len(indices), size=batch_size)], self.n_envs)
        last, returns, discounts = self._n_step_returns(slots, rows, env)
        other_fields = (
            self.actions[slots, rows],
            (self.dones[last, rows] * (1 - self.timeouts[last, rows])).reshape(-1, 1),
            returns.reshape(-1, 1),
            self.next_action_masks[last, rows],
            discounts.reshape(-1, 1),
        )
        observations = self._observation_tensors(self.observations, slots, rows, env)
        next_observations = self._observation_tensors(self.next_observations, last, rows, env)
        actions, *outcomes = map(self.to_torch, other_fields)
        return MaskedReplaySamples(observations, actions, next_observations, *outcomes)

    def _observation_tensors(self, arrays: Any, slots: Array, rows: Array, env: Any) -> Any:
        """Return the normalised observations in these slots and rows, int64 [M]: a tensor, or for a Dict one by key."""
        if isinstance(arrays, dict):
            normalized: Any = self._normalize_obs({key: array[slots, rows] for key, array in arrays.items()}, env)
            return {key: self.to_torch(array) for key, array in normalized.items()}
        observations: Any = self._normalize_obs(arrays[slots, rows], env)
        return self.to_torch(observations)

    def _n_step_returns(self, slots: Array, rows: Array, env: Any) -> tuple[Array, Array, Array]:
        """Return n-step returns: slots of their last transitions, int64 [M], the returns and discounts, float32 [M]."""
        last, discounts = slots, np.full(len(slots), self.gamma, np.float32)
        returns = self._normalize_reward(self.rewards[slots, rows], env)
        for _ in range(self.n_steps - 1):
            next_slots = self._next_transitions(last, rows)
            ended = (self.dones[last, rows] != 0) | (self.timeouts[last, rows] != 0)
            continues = (next_slots != last) & ~ended
            last = np.where(continues, next_slots, last)
            rewards = self._normalize_reward(self.rewards[last, rows], env)
            returns = np.where(continues, returns + discounts * rewards, returns).astype(np.float32)
            discounts = np.where(continues, discounts * np.float32(self.gamma), discounts)
        return last, returns, discounts


class CompleteTransitionDictReplayBuffer(CompleteTransitionReplayBuffer, DictReplayBuffer):  # type: ignore[misc]  # its observations are a dict
    """The replay buffer for Dict observations, with one array for each key."""


def _arrays(observations: Any) -> list[Array]:
    """Return observations as a list of arrays: one array, or one for each key of a Dict."""
    return list(observations.values()) if isinstance(observations, dict) else [observations]
