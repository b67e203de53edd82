"""Values and updates of RLlib's PPO in compiled code, with the policy's tensors and the moments of torch's Adam.

`ppo_learner.LabPPOTorchLearner` calls it, in the learner's process. The policy inside RLlib's module is one of
Stable-Baselines3 (see `module`), so its layers are read as those of SB3's own PPO are. Compiled code works in copies:
each call copies the parameters, and Adam's moments where they have changed, from torch's tensors, and a finished update
copies them back. The work of a call is divided among the threads of a pool, and the result does not depend on their
number. `minibatch_order` draws from numpy's global generator, as RLlib does, and so advances it.

Shapes: R rows of a train batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete

from rl_lab.core.world import Array
from rl_lab.engine.batch import NonFiniteError
from rl_lab.learners.compiled import build
from rl_lab.learners.compiled.ppo_records import (
    FAILED_MINIBATCH,
    GRADIENT_STEPS,
    AdamState,
    PolicyNetwork,
    RolloutSamples,
    UpdateReport,
)
from rl_lab.learners.compiled.rllib_records import RLLIB_REPORTED, RllibSamples, RllibSettings
from rl_lab.learners.compiled.thread_pool import MIN_SHARD_ROWS, NUM_SHARDS, WorkerPool
from rl_lab.learners.sb3.network_import import (
    ParameterMirror,
    UnsupportedByCompiledError,
    actor_critic,
    adam_settings,
)
from rl_lab.learners.sb3.sparse_observations import is_sparse, nonzero_lists


def minibatch_order(
    rows: int, minibatch_size: int, *, num_epochs: int, shuffle: bool, num_total_minibatches: int = 0
) -> Array:
    """Return the rows of all minibatches, one after the other, int64 [minibatches * minibatch_size].

    They are those of RLlib's `MiniBatchCyclicIterator` for the same state of numpy's global generator: the first pass
    is in order, each further one permutes that before it, and a minibatch may end one pass and begin the next.
    """
    number = num_total_minibatches or -(-num_epochs * rows // minibatch_size)
    passes = [np.arange(rows)]
    for _ in range(number * minibatch_size // rows):
        passes.append(passes[-1][np.random.permutation(rows)] if shuffle else passes[-1])
    return np.concatenate(passes)[: number * minibatch_size]


class CompiledUpdate:
    """Computes values and updates of a policy of Stable-Baselines3, with RLlib's loss, in copies of its tensors.

    Raises UnsupportedByCompiledError for a policy or an optimizer that compiled code does not support.
    """

    def __init__(self, policy: Any, optimizer: torch.optim.Optimizer, threads: int) -> None:
        adam_settings(optimizer)  # for its check alone: RLlib may change the settings, which come with each update
        space = policy.observation_space
        if space.dtype not in (np.float32, np.uint8):
            raise UnsupportedByCompiledError(f"its observations are of {space.dtype}")
        network, tensors, self._outputs = actor_critic(policy, threads)
        self._mirror, self._pool = ParameterMirror(network, tensors, optimizer), WorkerPool(threads)
        self._space, self._kernels = policy.action_space, build.rllib_ppo()

    def values(self, batch: dict[str, Array]) -> Array:
        """Return the values, float32 [R], of a train batch's observations."""
        self._mirror.copy_from_tensors()
        observations = _flat(batch["obs"])
        values = np.empty(len(observations), np.float32)
        source = observations.ctypes.data, observations.dtype == np.uint8, observations.shape[1]
        policy = self._policy_network(observations)
        self._pool.run(self._pool.threads, self._kernels.evaluate, *source, policy, values)
        return values

    def update(self, batch: dict[str, Array], order: Array, settings: RllibSettings) -> Array:
        """Train on the minibatches of this order; return the report, float64 [RLLIB_REPORTED], of the last one.

        Raises NonFiniteError, and changes no tensor, where a gradient is not finite.
        """
        mirror, network = self._mirror, self._mirror.network
        mirror.copy_from_tensors()
        observations, report = _flat(batch["obs"]), np.zeros(RLLIB_REPORTED)
        exp_avg, exp_avg_sq = mirror.moments
        steps = mirror.adam_steps
        arguments = (
            _samples(batch, observations, order, nonzero_lists(network, observations)),
            self._policy_network(observations),
            AdamState(network.weights, network.grads, exp_avg, exp_avg_sq, float(steps), np.zeros(NUM_SHARDS)),
            settings,
            UpdateReport(np.zeros((NUM_SHARDS, RLLIB_REPORTED)), report),
        )
        threads = min(self._pool.threads, max(settings.ppo.batch_size // MIN_SHARD_ROWS, 1))
        try:
            self._pool.run(threads, self._kernels.update, *arguments)
        except BaseException:
            # An interruption may stop the update half-way. The mirror then holds moments of a part of the update, and
            # the tensors still hold those from before it.
            mirror.invalidate_moments()
            raise
        # Compiled code checks the norm of the gradient before each step of Adam. It does not check the losses.
        if report[FAILED_MINIBATCH]:
            field = mirror.first_nonfinite_gradient()
            mirror.invalidate_moments()
            raise NonFiniteError(f"rllib_ppo: a gradient is not finite, of {field}; no parameter was changed by it")
        mirror.copy_to_tensors(steps + int(report[GRADIENT_STEPS]))
        return report

    def _policy_network(self, observations: Array) -> PolicyNetwork:
        n = int(self._space.n if isinstance(self._space, Discrete) else self._space.shape[0])
        logits, value, log_std = map(int, self._outputs)
        sparse = is_sparse(self._mirror.network, observations)
        return PolicyNetwork(self._mirror.tables(), logits, value, log_std, n, sparse, np.ones(n, np.uint8))


def _samples(
    batch: dict[str, Array], observations: Array, order: Array, nonzero: tuple[Array, Array, Array]
) -> RllibSamples:
    """Return a train batch as compiled code reads it."""
    actions, rows = batch["actions"], len(observations)
    discrete = actions.dtype.kind == "i"
    rollout = RolloutSamples(
        observations.ctypes.data,
        observations.dtype == np.uint8,
        observations.shape[1],
        *nonzero,
        discrete_actions=actions.reshape(rows, 1) if discrete else np.zeros((rows, 0), np.int64),
        continuous_actions=np.zeros((rows, 0), np.float32) if discrete else actions,
        action_masks=batch["action_mask"].view(np.uint8) if "action_mask" in batch else np.zeros((1, 0), np.uint8),
        old_log_prob=batch["action_logp"],
        advantages=batch["advantages"],
        returns=batch["value_targets"],
        indices=order[None],
        end=len(order),
    )
    return RllibSamples(rollout, batch["action_dist_inputs"], batch["loss_mask"])


def _flat(observations: Array) -> Array:
    return observations.reshape(len(observations), -1)
