"""Deterministic actions of a trained Stable-Baselines3 policy, computed by compiled code; `Sb3Agent` uses it."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from stable_baselines3.dqn.policies import DQNPolicy

from rl_lab.core.world import Array
from rl_lab.learners.compiled import build
from rl_lab.learners.sb3.network_import import ParameterMirror, actor_critic, q_network
from rl_lab.learners.sb3.sparse_observations import is_sparse


class CompiledPolicy:
    """Computes deterministic actions of an SB3 policy, whose tensors it reads at each call.

    The action of a row does not depend on the other rows; torch's may, because it rounds differently in batches of
    other sizes. Raises UnsupportedByCompiledError for a policy that compiled code does not support.
    """

    def __init__(self, policy: Any) -> None:
        if isinstance(policy, DQNPolicy):
            network, tensors, self._output = q_network(policy.q_net)
        else:
            network, tensors, outputs = actor_critic(policy)
            self._output = int(outputs[0])
        self._mirror, self._space = ParameterMirror(network, tensors, None), policy.action_space
        self._compiled = build.inference()

    def act(self, observations: Array, action_mask: Array | None) -> Array:
        """Return actions, int64 [B] or float32 [B, k], for observations [B, ...] and masks, uint8 [B, n or more]."""
        self._mirror.copy_from_tensors()
        rows, network = len(observations), self._mirror.network
        obs = np.ascontiguousarray(observations, np.float32).reshape(rows, -1)
        is_discrete = isinstance(self._space, Discrete)
        action_size = int(self._space.n) if is_discrete else self._space.shape[0]
        discrete = np.zeros(rows if is_discrete else 0, np.int64)
        continuous = np.zeros((0, 0) if is_discrete else (rows, action_size), np.float32)
        masks = np.zeros((rows, 0), np.uint8) if action_mask is None else np.ascontiguousarray(action_mask, np.uint8)
        sparse, tables = is_sparse(network, obs), self._mirror.tables()
        self._compiled.greedy_actions(obs, masks, discrete, continuous, action_size, tables, self._output, sparse)
        return discrete if is_discrete else np.clip(continuous, self._space.low, self._space.high)
