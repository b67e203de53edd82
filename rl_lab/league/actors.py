"""Policies that are chains of dense layers, in numpy: all of one architecture decide in one batched forward pass.

Shapes: R rows, M policies, P of them that are asked, D numbers observed, C choices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from ..batch import WorldInfo
from ..rng import philox
from ..world import Array

_ONE_THREAD = (
    2**18
)  # multiplications, up to which OpenBLAS takes one thread: more would wait for each other, and for us
_ROWS = 128  # of which a policy is asked at a time
Layers = list[tuple[Array, Array]]  # weights float32 [in, out] and biases float32 [out] of each layer


def _elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": np.tanh, "relu": _relu, "elu": _elu, "silu": _silu}


def layers_of(tensors: Mapping[str, Mapping[str, Array]], config: Any, world: WorldInfo) -> Layers | None:
    """Return a saved policy's layers, None where it is no plain chain of them over raw observations.

    It is one where a member "policy" has hidden layers `...policy_net.<k>.weight`, ordered by k, then
    `action_net.weight`, as Stable-Baselines3 names them, and a bias for each; and where the hyperparameters neither
    name another policy than "mlp" nor change what is observed.
    """
    policy = tensors.get("policy", {})
    changed = any(getattr(config, name, False) for name in ("normalize_observations", "agent_indicator"))
    known = getattr(config, "activation", "") in ACTIVATIONS and getattr(config, "policy", "mlp") == "mlp"
    if changed or not known or not isinstance(world.action, Discrete) or "action_net.weight" not in policy:
        return None
    found = {int(m[1]): name for name in policy if (m := re.search(r"policy_net\.(\d+)\.weight$", name))}
    names = [*(found[k] for k in sorted(found)), "action_net.weight"]
    chain = [(policy[n].T.copy(), policy[n.removesuffix("weight") + "bias"].copy()) for n in names]
    sizes = [int(np.prod(world.observation.shape)), *(len(bias) for _, bias in chain)]
    fits = [w.shape for w, _ in chain] == list(zip(sizes, sizes[1:], strict=False))
    return chain if fits and sizes[-1] == world.action.n else None


class Actors:
    """M policies of one architecture. `put` adds one or replaces it."""

    def __init__(self, activation: str) -> None:
        self.activation = ACTIVATIONS[activation]
        self._weights: list[Array] = []  # of each layer, float32 [M, in, out]
        self._biases: list[Array] = []  # of each layer, float32 [M, 1, out]

    def put(self, number: int, layers: Layers) -> None:
        """Let policy `number`, at most M, have copies of these layers. Raises ValueError for another architecture."""
        if not self._weights:
            self._weights = [np.zeros((0, *w.shape), np.float32) for w, _ in layers]
            self._biases = [np.zeros((0, 1, len(b)), np.float32) for _, b in layers]
        if [w.shape for w, _ in layers] != [w.shape[1:] for w in self._weights]:
            raise ValueError("policies of one pool have one architecture")
        for k, (weights, biases) in enumerate(layers):
            if number == len(self._weights[k]):
                self._weights[k] = np.concatenate([self._weights[k], weights[None]])
                self._biases[k] = np.concatenate([self._biases[k], biases[None, None]])
            else:
                self._weights[k][number], self._biases[k][number] = weights, biases

    def logits(self, observations: Array, who: Array) -> Array:
        """Return float32 [R, C] of observations [R, ...]; row r is policy who[r]'s, int64 [R]."""
        asked, place, counts = np.unique(who, return_inverse=True, return_counts=True)
        order = np.argsort(place, kind="stable")
        # Each policy's rows side by side in blocks, the last filled up with zeros: [P, blocks, rows of a block, D].
        column = np.arange(len(who)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = max(_ONE_THREAD // max(weights[0].size for weights in self._weights), 8)
        at = place[order], column // rows, column % rows
        x = np.zeros((len(asked), -(-int(counts.max()) // rows), rows, self._weights[0].shape[1]), np.float32)
        x[at] = observations.reshape(len(who), -1)[order]
        for k, (weights, biases) in enumerate(zip(self._weights, self._biases, strict=True)):
            x = (x if k == 0 else self.activation(x)) @ weights[asked][:, None] + biases[asked][:, None]
        out = np.empty((len(who), x.shape[3]), np.float32)
        out[order] = x[at]
        return out

    def probabilities(self, observations: Array, who: Array, legal: Array | None) -> Array:
        """Return how likely each choice is, float64 [R, C]; `legal`, uint8 [R, C or more], masks them."""
        logits = self.logits(observations, who).astype(np.float64)
        if legal is not None:
            logits = np.where(legal[:, : logits.shape[1]] != 0, logits, -np.inf)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def together(activation: str, policies: Sequence[Layers]) -> Actors:
    """Return policies as actors, numbered as they come."""
    made = Actors(activation)
    made.put(0, policies[0])
    made._weights = [np.stack([layers[k][0] for layers in policies]) for k in range(len(policies[0]))]
    made._biases = [np.stack([layers[k][1] for layers in policies])[:, None] for k in range(len(policies[0]))]
    return made


class Asked:
    """M policies of any kind, in the terms of `Actors`: each is asked for its probabilities, always of as many rows.

    A matrix product rounds differently in batches of different sizes, and what is drawn is to depend on its row alone.
    """

    def __init__(self, agents: Sequence[Any]) -> None:
        self.agents = list(agents)

    def probabilities(self, observations: Array, who: Array, legal: Array | None) -> Array:
        """See `Actors.probabilities`."""
        parts, order = [], np.argsort(who, kind="stable")
        for number in np.unique(who).tolist():
            own = np.flatnonzero(who == number)
            for first in range(0, len(own), _ROWS):
                rows = own[np.minimum(np.arange(first, first + _ROWS), len(own) - 1)]
                told = self.agents[number].probabilities(observations[rows], None if legal is None else legal[rows])
                parts.append(told[: len(own) - first])
        found = np.concatenate(parts)
        chances = np.empty_like(found)
        chances[order] = found
        return chances


class Dice:
    """Numbers in [0, 1) for the rows of N worlds of A agents: a world's own, whatever N is and who else draws."""

    _KEY = np.uint64(0xD1CE)

    def __init__(self, seed: int, first: int, n: int, agents: int) -> None:
        self._key, self.agents = np.uint64(seed) ^ self._KEY, agents
        self._base = (np.uint64(first) + np.arange(n, dtype=np.uint64)) << np.uint64(40)
        self.thrown = np.zeros((n, agents), np.uint64)  # by each row

    def throw(self, rows: Array) -> Array:
        """Return one number, float64 [R], for each of these rows."""
        world, agent = np.divmod(rows, self.agents)
        counter = self._base[world] + self.thrown[world, agent] * np.uint64(self.agents) + agent.astype(np.uint64)
        self.thrown[world, agent] += np.uint64(1)
        return np.asarray((philox(self._key, counter) >> np.uint64(11)) * 2.0**-53)
