"""Evaluate many policies for many rows: MLPs of one architecture in one batched numpy forward pass, others in turn.

`League` and `LeagueOpponents` use it, so that self-play against many snapshots costs little more than against one.
`BatchedPolicies` owns copies of the weights; `SequentialPolicies` calls agents. Sampling is left to the caller, for
which `RowRandom` has random numbers.

Shapes: R rows, M policies, P policies that occur among the rows, D observed numbers, C discrete actions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from rl_lab.core.protocols import EnvSpec
from rl_lab.core.random_streams import PhiloxStream
from rl_lab.core.rng import philox
from rl_lab.core.world import Array

# The largest number of multiplications of a matrix product that OpenBLAS computes in one thread. It starts more threads
# for a larger one, which takes longer in a batch of many small products.
_MAX_PRODUCTS = 2**18
_ROWS_PER_CALL = 128  # of a policy of `SequentialPolicies`
Layers = list[tuple[Array, Array]]  # weights float32 [in, out] and biases float32 [out] of each layer


def _elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": np.tanh, "relu": _relu, "elu": _elu, "silu": _silu}


def layers_of(tensors: Mapping[str, Mapping[str, Array]], config: Any, world: EnvSpec) -> Layers | None:
    """Return the layers of a saved policy, or None where it is not an MLP over raw observations.

    `tensors["policy"]` must have hidden layers `...policy_net.<k>.weight`, ordered by k, then `action_net.weight`, as
    Stable-Baselines3 names them, with a bias for each. The hyperparameters must name the policy "mlp" and must not
    change the observations.
    """
    policy = tensors.get("policy", {})
    changes_obs = any(getattr(config, name, False) for name in ("normalize_observations", "agent_indicator"))
    is_mlp = getattr(config, "activation", "") in ACTIVATIONS and getattr(config, "policy", "mlp") == "mlp"
    has_extractor = "encoder" in tensors or any(name.startswith("features_extractor.") for name in policy)
    if (
        changes_obs
        or has_extractor
        or not is_mlp
        or not isinstance(world.action, Discrete)
        or "action_net.weight" not in policy
    ):
        return None
    hidden = {int(m[1]): name for name in policy if (m := re.search(r"policy_net\.(\d+)\.weight$", name))}
    names = [*(hidden[k] for k in sorted(hidden)), "action_net.weight"]
    layers = [(policy[n].T.copy(), policy[n.removesuffix("weight") + "bias"].copy()) for n in names]
    sizes = [int(np.prod(world.observation.shape)), *(len(bias) for _, bias in layers)]
    fits = [w.shape for w, _ in layers] == list(zip(sizes, sizes[1:], strict=False))
    return layers if fits and sizes[-1] == world.action.n else None


class BatchedPolicies:
    """M policies of one architecture, evaluated together. `set_policy` adds or replaces one."""

    def __init__(self, activation: str) -> None:
        self.activation = ACTIVATIONS[activation]
        self._weights: list[Array] = []  # of each layer, float32 [M, in, out]
        self._biases: list[Array] = []  # of each layer, float32 [M, 1, out]

    def set_policy(self, index: int, layers: Layers) -> None:
        """Set the policy with this index, 0 to M, to copies of these layers; M adds a policy.

        Raises ValueError for layers of another architecture.
        """
        if not self._weights:
            self._weights = [np.zeros((0, *w.shape), np.float32) for w, _ in layers]
            self._biases = [np.zeros((0, 1, len(b)), np.float32) for _, b in layers]
        if [w.shape for w, _ in layers] != [w.shape[1:] for w in self._weights]:
            raise ValueError("the policies of a league must have one architecture")
        for k, (weights, biases) in enumerate(layers):
            if index == len(self._weights[k]):
                self._weights[k] = np.concatenate([self._weights[k], weights[None]])
                self._biases[k] = np.concatenate([self._biases[k], biases[None, None]])
            else:
                self._weights[k][index], self._biases[k][index] = weights, biases

    def logits(self, observations: Array, policies: Array) -> Array:
        """Return logits, float32 [R, C], for observations [R, ...]; policies[r], int64 [R], is evaluated for row r.

        Rows are sorted by policy and laid in blocks x [P, blocks, rows of a block, D], each policy's last block padded
        with zeros, so that a layer is one batched matrix product with the weights of P policies.
        """
        occurring, group, counts = np.unique(policies, return_inverse=True, return_counts=True)
        order = np.argsort(group, kind="stable")
        position = np.arange(len(policies)) - np.repeat(np.cumsum(counts) - counts, counts)  # among the policy's rows
        block_rows = max(_MAX_PRODUCTS // max(weights[0].size for weights in self._weights), 8)
        index = group[order], position // block_rows, position % block_rows
        shape = len(occurring), -(-int(counts.max()) // block_rows), block_rows, self._weights[0].shape[1]
        x = np.zeros(shape, np.float32)
        x[index] = observations.reshape(len(policies), -1)[order]
        for k, (weights, biases) in enumerate(zip(self._weights, self._biases, strict=True)):
            x = (x if k == 0 else self.activation(x)) @ weights[occurring][:, None] + biases[occurring][:, None]
        logits = np.empty((len(policies), x.shape[3]), np.float32)
        logits[order] = x[index]
        return logits

    def probabilities(self, observations: Array, policies: Array, action_mask: Array | None) -> Array:
        """Return action probabilities, float64 [R, C]; `action_mask`, uint8 [R, C or more], excludes actions."""
        logits = self.logits(observations, policies).astype(np.float64)
        if action_mask is not None:
            logits = np.where(action_mask[:, : logits.shape[1]] != 0, logits, -np.inf)
        exps = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exps / exps.sum(axis=1, keepdims=True))


def stack_policies(activation: str, policies: Sequence[Layers]) -> BatchedPolicies:
    """Return `BatchedPolicies` that hold these policies in their order."""
    batched = BatchedPolicies(activation)
    batched.set_policy(0, policies[0])
    batched._weights = [np.stack([layers[k][0] for layers in policies]) for k in range(len(policies[0]))]
    batched._biases = [np.stack([layers[k][1] for layers in policies])[:, None] for k in range(len(policies[0]))]
    return batched


class SequentialPolicies:
    """M policies of any kind with the interface of `BatchedPolicies`, called one after the other.

    Every call has the same number of rows, because a matrix product rounds differently in batches of different sizes,
    and a sampled action must depend on its row alone.
    """

    def __init__(self, agents: Sequence[Any]) -> None:
        self.agents = list(agents)

    def probabilities(self, observations: Array, policies: Array, action_mask: Array | None) -> Array:
        """See `BatchedPolicies.probabilities`."""
        parts, order = [], np.argsort(policies, kind="stable")
        for policy in np.unique(policies).tolist():
            policy_rows = np.flatnonzero(policies == policy)
            for first in range(0, len(policy_rows), _ROWS_PER_CALL):
                rows = policy_rows[np.minimum(np.arange(first, first + _ROWS_PER_CALL), len(policy_rows) - 1)]
                masks = None if action_mask is None else action_mask[rows]
                part = self.agents[policy].probabilities(observations[rows], masks)
                parts.append(part[: len(policy_rows) - first])
        sorted_probs = np.concatenate(parts)
        probs = np.empty_like(sorted_probs)
        probs[order] = sorted_probs
        return probs


class RowRandom:
    """Uniform random numbers for the rows of N environments of A agents; row n * A + a is agent a of environment n.

    A number depends on the seed, on the number of the environment (`first` for environment 0), on the agent, and on how
    many numbers its row has had before. So it depends neither on N nor on the other rows.
    """

    def __init__(self, seed: int, first: int, n: int, agents: int) -> None:
        self._key, self.agents = np.uint64(seed) ^ PhiloxStream.SAMPLED_ACTION.key, agents
        self._base = (np.uint64(first) + np.arange(n, dtype=np.uint64)) << np.uint64(40)
        self.counters = np.zeros((n, agents), np.uint64)  # how many numbers each row has had

    def sample(self, rows: Array) -> Array:
        """Return the next number in [0, 1), float64 [R], of each of these rows, int64 [R]; advance their counters."""
        index, agent = np.divmod(rows, self.agents)
        counter = self._base[index] + self.counters[index, agent] * np.uint64(self.agents) + agent.astype(np.uint64)
        self.counters[index, agent] += np.uint64(1)
        return np.asarray((philox(self._key, counter) >> np.uint64(11)) * 2.0**-53)
