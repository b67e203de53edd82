"""An agent that plays with a recurrent policy, and so remembers: what it does depends on its whole episode so far."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

from rl_lab.core.protocols import BatchedEnv
from rl_lab.core.world import Array
from rl_lab.learners.sb3.agent import PolicyAgentBase
from rl_lab.learners.sb3.recurrent_policy import RecurrentPolicy


class RecurrentAgent(PolicyAgentBase):
    """A `RecurrentPolicy` with the observation statistics of its training.

    The state that `act` returns is float32 [B, H], for all B rows of the batch, with H = `state_size`. With
    `always_samples`, actions are sampled in both modes.
    """

    policy: RecurrentPolicy

    def __init__(self, name: str, policy: RecurrentPolicy, normalizer: dict[str, Array] | None, **options: Any) -> None:
        super().__init__(name, policy, normalizer, **options)
        self.stochastic, self.state_size = True, policy.recurrent_size
        self.always_samples = False
        self._num_rows = 0  # of the batch

    def is_row_wise(self, *, deterministic: bool) -> bool:
        """See `Agent`: an action depends on the earlier observations of its row."""
        return False

    def bind(self, envs: BatchedEnv) -> None:
        """See `PolicyAgentBase.bind`."""
        super().bind(envs)
        self._num_rows = envs.rewards.size

    def initial_state(self) -> Array:
        """Return the state before the first episodes."""
        return np.zeros((self._num_rows, self.state_size), np.float32)

    def begin(self, state: Any, episode_starts: Array) -> Any:
        """See `Agent`: the state of these rows is zero before an episode."""
        return np.where(episode_starts[:, None], np.float32(0.0), state)

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        action_mask: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `Agent.act`; actions are clipped to the space as in training."""
        states = self.initial_state() if state is None else np.array(state)
        index = np.arange(len(observations)) if rows is None else rows
        policy, space = self.policy, self.policy.action_space
        masks = None
        if action_mask is not None and isinstance(space, Discrete):
            masks = torch.as_tensor(action_mask[:, : int(space.n)], device=policy.device)
        deterministic = deterministic and not self.always_samples
        with torch.no_grad():
            obs: Any = policy.obs_to_tensor(self._policy_obs(observations, rows))[0]
            next_states = policy.next_states(obs, torch.as_tensor(states[index], device=policy.device))
            tensor = policy.distribution(next_states, masks).get_actions(deterministic=deterministic)
        states[index], actions = next_states.cpu().numpy(), tensor.cpu().numpy()
        if isinstance(space, Box):
            actions = np.clip(actions, space.low, space.high)
        return self._padded(actions), states
