"""What a trained Stable-Baselines3 policy does when it does not draw, asked in compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from stable_baselines3.dqn.policies import DQNPolicy

from ..fast import kernels
from ..world import Array
from .sb3_fast import DENSE_FROM, SPARSE_FROM
from .sb3_plan import Shared, actor_critic, q_network


class Greedy:
    """Best actions of a policy, whose tensors it reads at each call. Raises StockError for one that it does not know.

    A row's action does not depend on how many others are asked with it, as a matrix library's may by a rounding.
    """

    def __init__(self, policy: Any) -> None:
        if isinstance(policy, DQNPolicy):
            network, tensors, self._output = q_network(policy.q_net)
        else:
            network, tensors, outputs = actor_critic(policy)
            self._output = int(outputs[0])
        self._shared, self._space = Shared(network, tensors, None), policy.action_space
        self._kernels = kernels.greedy()

    def act(self, observations: Array, legal: Array | None) -> Array:
        """Return actions, int64 [B] or float32 [B, k], for observations [B, ...]; legal is uint8 [B, n or more]."""
        self._shared.read()
        rows, network = len(observations), self._shared.network
        seen = np.ascontiguousarray(observations, np.float32).reshape(rows, -1)
        discrete = isinstance(self._space, Discrete)
        count = int(self._space.n) if discrete else self._space.shape[0]
        choices = np.zeros(rows if discrete else 0, np.int64)
        numbers = np.zeros((0, 0) if discrete else (rows, count), np.float32)
        masks = np.zeros((rows, 0), np.uint8) if legal is None else np.ascontiguousarray(legal, np.uint8)
        thin = seen.shape[1] >= SPARSE_FROM and bool(np.count_nonzero(seen) < DENSE_FROM * seen.size)
        sparse = network.plan.convolves or thin
        self._kernels.decide(seen, masks, choices, numbers, count, self._shared.tables(), self._output, sparse)
        return choices if discrete else np.clip(numbers, self._space.low, self._space.high)
