"""Policies: what takes which action how likely, as tables, functions and agents, in a game that is walked exactly.

A policy is a function `(observations [B, *shape], legal [B, S]) -> probabilities [B, S]` of what the mover observes,
or an Agent. An agent with a method `probabilities` of that form, with `rows` as in `act`, is asked by it; any other is
asked how it acts in every position, deterministically, or, with `samples`, that often with fresh random numbers, and
counted.

Shapes: P positions of a layer, S actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..world import Array, World
from .results import Floats
from .tree import Layer, Tree, put, tree

Policy = Callable[[Array, Array], Any]


@dataclass(frozen=True)
class Table:
    """A policy by the bytes of what is observed; of observations that it does not hold it takes all actions alike."""

    chances: dict[bytes, Floats]

    def __call__(self, observations: Array, legal: Array) -> Floats:
        """Return probabilities [B, S]."""
        alike = uniform(observations, legal)
        return np.stack([self.chances.get(row.tobytes(), alike[k]) for k, row in enumerate(observations)])


def uniform(observations: Array, legal: Array) -> Floats:
    """Take every legal action alike: a policy."""
    found: Floats = legal / legal.sum(axis=1, keepdims=True)
    return found


def always(action: int) -> Policy:
    """Return the policy that takes one action, which must be legal wherever it is asked."""
    return lambda observations, legal: np.eye(legal.shape[1])[np.full(len(legal), action)]


def mixture(share: float, policy: Policy, other: Policy) -> Policy:
    """Return the policy that takes each action by `policy` with probability `share`, and else by `other`."""
    return lambda seen, legal: share * np.asarray(policy(seen, legal)) + (1 - share) * np.asarray(other(seen, legal))


def average(policies: Sequence[Any], world: World | str, *, samples: int = 0) -> Table:
    """Return the policy that is worth, against everybody, what playing one of these throughout a game is, drawn anew.

    It is what self-play averages to: in each information set, policies count by how likely they bring it about.

    Args:
        policies: each for both seats, or a pair for the first and the second, whose observations must differ.
        world: a world or its name, in which each seat observes all that it has seen and done.
        samples: see above.

    Source: Heinrich, Lanctot and Silver 2015, "Fictitious self-play in extensive-form games", lemma 6.
    """
    game, chances = tree(world), {}
    each = [asked(game, p, samples) for p in policies]
    reach = np.ones((len(each), len(game.chance), 2))  # by each seat's own moves alone
    for depth, layer in enumerate(game.layers):
        own, first = reach[:, np.arange(len(layer.mover)), layer.mover], np.unique(layer.info, return_index=True)[1]
        for k, position in enumerate(first):
            weight = own[:, position] if own[:, position].any() else np.ones(len(each))
            mean = np.average([found[depth][position] for found in each], axis=0, weights=weight)
            chances[layer.observations[k].tobytes()] = mean
        going, parent = np.flatnonzero(layer.child >= 0), layer.parent
        moved = reach[:, parent]
        taken = np.stack([found[depth][parent, layer.action] for found in each])
        moved[:, np.arange(len(parent)), layer.mover[parent]] *= taken
        reach = np.ones((len(each), int(layer.child.max(initial=-1)) + 1, 2))
        reach[:, layer.child[going]] = moved[:, going]
    return Table(chances)


def asked(game: Tree, policy: Any, samples: int = 0, only: int | None = None) -> list[Floats]:
    """Return how likely the mover takes each action, [P, S] a layer.

    Args:
        game: the tree.
        policy: for both seats, or a pair of them.
        samples: see above.
        only: the seat that is asked; the others' are 0.

    Raises ValueError for a policy that gives an illegal action a chance or whose probabilities do not add up to 1.
    """
    chances = []
    each = policy if isinstance(policy, tuple) else (policy, policy)
    for layer in game.layers:
        found = np.zeros((len(layer.states), layer.legal.shape[1]))
        for seat, own in enumerate(each):
            rows = np.flatnonzero(layer.mover == seat)
            if len(rows) and only in (None, seat):
                found[rows] = _ask(game.world, layer, rows, own, samples)
        chances.append(found)
    return chances


def _ask(world: World, layer: Layer, rows: Array, policy: Any, samples: int) -> Floats:
    """Return a policy's probabilities, [R, S], in positions `rows` [R], all of one seat."""
    info, which = np.unique(layer.info[rows], return_inverse=True)
    legal = layer.legal[layer.info[rows]]
    told = getattr(policy, "probabilities", None if hasattr(policy, "act") else policy)
    if told is None:
        found = _watched(world, layer, rows, policy, samples)
    else:
        # Row a of the first world is agent a's.
        asked = {"rows": np.full(len(info), layer.mover[rows[0]])} if hasattr(policy, "act") else {}
        found = np.asarray(told(layer.observations[info], layer.legal[info], **asked), np.float64)
        if found.shape != (len(info), legal.shape[1]):
            raise ValueError(f"a policy returned probabilities of shape {found.shape} for {len(info)} rows")
        found = found[which.reshape(-1)]
    if (found < 0).any() or (found[legal == 0] > 0).any() or np.abs(found.sum(axis=1) - 1).max() > 1e-6:
        raise ValueError("a policy's probabilities must add up to 1, over legal actions only")
    chances: Floats = found / found.sum(axis=1, keepdims=True)
    return chances


def _watched(world: World, layer: Layer, rows: Array, agent: Any, samples: int) -> Floats:
    """Return how often an agent takes each action, [R, S], asked in positions `rows` [R] of a batch of them."""
    states, legal = layer.states[rows].copy(), layer.legal[layer.info[rows]]
    count, mover = np.zeros((len(rows), legal.shape[1])), layer.mover[rows]
    for k in range(max(samples, 1)):
        states["rng_counter"] = np.arange(len(rows), dtype=np.uint64) + np.uint64(k * len(rows))
        batch = put(world, states)
        agent.attend(batch)
        seen = batch.observations[np.arange(len(rows)), mover]
        state = None
        if hasattr(agent, "begin"):
            raise ValueError("an agent that remembers has no policy of what it observes now")
        places = 2 * np.arange(len(rows)) + mover
        actions, state = agent.act(seen, state=state, legal=legal, rows=places, deterministic=samples == 0)
        count[np.arange(len(rows)), actions] += 1
    return count / max(samples, 1)
