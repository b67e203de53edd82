"""This module converts policies to tables of action probabilities for exact computations on a game tree.

`policy_probs` is what `best_response` calls. There are also policies to compare with: `uniform`, `always`, `mixture`,
and the `average` of several policies. An Agent that is evaluated is bound to new batches; nothing else is changed.

A policy is a function `(observations [B, *shape], action_mask [B, S]) -> probabilities [B, S]` of the observations of
the seat to move, or an Agent. An agent may have a method `probabilities` of that form, with `rows` as in `act`. Other
agents act in every position: deterministically or, if `samples` is not 0, that many times with new random numbers, and
the frequencies of actions are the probabilities.

Shapes: P positions of a layer, E moves, I information sets, S actions, B and R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_lab.core.world import Array, World
from rl_lab.games.game_tree import GameTree, GameTreeLayer, batch_from_states, build_game_tree
from rl_lab.rating.results import Floats

Policy = Callable[[Array, Array], Any]


@dataclass(frozen=True)
class TabularPolicy:
    """A policy as a table, by the bytes of the observation; it is uniform for observations that are not in it."""

    probs: dict[bytes, Floats]

    def __call__(self, observations: Array, action_mask: Array) -> Floats:
        """Return probabilities [B, S]."""
        default = uniform(observations, action_mask)
        return np.stack([self.probs.get(row.tobytes(), default[k]) for k, row in enumerate(observations)])


def uniform(observations: Array, action_mask: Array) -> Floats:
    """Return equal probabilities for all legal actions; this function is a policy."""
    probs: Floats = action_mask / action_mask.sum(axis=1, keepdims=True)
    return probs


def always(action: int) -> Policy:
    """Return the policy that always takes one action, which must be legal in every position."""
    return lambda observations, action_mask: np.eye(action_mask.shape[1])[np.full(len(action_mask), action)]


def mixture(share: float, policy: Policy, other: Policy) -> Policy:
    """Return the policy that at each action follows `policy` with probability `share`, and otherwise `other`."""
    return lambda observations, action_mask: (
        share * np.asarray(policy(observations, action_mask))
        + (1 - share) * np.asarray(other(observations, action_mask))
    )


def average(policies: Sequence[Any], world: World | str, *, samples: int = 0) -> TabularPolicy:
    """Return the policy with the same value, against any opponent, as a policy sampled from these for each game.

    It is the average strategy of fictitious self-play: in each information set, each policy is weighted by the
    probability that its own actions lead there.

    Args:
        policies: each is one for both seats, or a pair for the first and the second; the seats' observations differ.
        world: a world or its name, in which observations determine all earlier observations and actions.
        samples: see the module.

    Source: Heinrich, Lanctot and Silver 2015, "Fictitious self-play in extensive-form games", lemma 6.
    """
    game, probs = build_game_tree(world), {}
    tables = [policy_probs(game, p, samples) for p in policies]
    reach = np.ones((len(tables), len(game.chance_probs), 2))  # probabilities of positions by each seat's own actions
    for depth, layer in enumerate(game.layers):
        own_reach = reach[:, np.arange(len(layer.seat_to_move)), layer.seat_to_move]
        first = np.unique(layer.info_set, return_index=True)[1]
        for k, position in enumerate(first):
            weight = own_reach[:, position] if own_reach[:, position].any() else np.ones(len(tables))
            mean = np.average([table[depth][position] for table in tables], axis=0, weights=weight)
            probs[layer.observations[k].tobytes()] = mean
        continues, parent = np.flatnonzero(layer.child >= 0), layer.parent
        move_reach = reach[:, parent]
        action_probs = np.stack([table[depth][parent, layer.action] for table in tables])
        move_reach[:, np.arange(len(parent)), layer.seat_to_move[parent]] *= action_probs
        reach = np.ones((len(tables), int(layer.child.max(initial=-1)) + 1, 2))
        reach[:, layer.child[continues]] = move_reach[:, continues]
    return TabularPolicy(probs)


def policy_probs(game: GameTree, policy: Any, samples: int = 0, only_seat: int | None = None) -> list[Floats]:
    """Return the action probabilities of the seat to move: for each layer, [P, S].

    Args:
        game: the tree.
        policy: a policy for both seats, or a pair of policies.
        samples: see the module.
        only_seat: the seat to evaluate; the probabilities of the other seat are 0. By default both are evaluated.

    Raises ValueError for a policy whose probabilities do not add up to 1 over legal actions.
    """
    layers = []
    policies = policy if isinstance(policy, tuple) else (policy, policy)
    for layer in game.layers:
        probs = np.zeros((len(layer.states), layer.action_mask.shape[1]))
        for seat, seat_policy in enumerate(policies):
            rows = np.flatnonzero(layer.seat_to_move == seat)
            if len(rows) and only_seat in (None, seat):
                probs[rows] = _evaluate_policy(game.world, layer, rows, seat_policy, samples)
        layers.append(probs)
    return layers


def _evaluate_policy(world: World, layer: GameTreeLayer, rows: Array, policy: Any, samples: int) -> Floats:
    """Return a policy's probabilities, [R, S], in positions `rows` [R], in which one seat is to move."""
    info_set, inverse = np.unique(layer.info_set[rows], return_inverse=True)
    action_mask = layer.action_mask[layer.info_set[rows]]
    function = getattr(policy, "probabilities", None if hasattr(policy, "act") else policy)
    if function is None:
        result = _estimate_probs(world, layer, rows, policy, samples)
    else:
        # In the first world of a batch, row a is agent a.
        arguments = {"rows": np.full(len(info_set), layer.seat_to_move[rows[0]])} if hasattr(policy, "act") else {}
        result = np.asarray(
            function(layer.observations[info_set], layer.action_mask[info_set], **arguments), np.float64
        )
        if result.shape != (len(info_set), action_mask.shape[1]):
            raise ValueError(f"a policy returned probabilities of shape {result.shape} for {len(info_set)} rows")
        result = result[inverse.reshape(-1)]
    if (result < 0).any() or (result[action_mask == 0] > 0).any() or np.abs(result.sum(axis=1) - 1).max() > 1e-6:
        raise ValueError("a policy's probabilities must add up to 1, over legal actions only")
    probs: Floats = result / result.sum(axis=1, keepdims=True)
    return probs


def _estimate_probs(world: World, layer: GameTreeLayer, rows: Array, agent: Any, samples: int) -> Floats:
    """Return the frequencies of an agent's actions, [R, S], in positions `rows` [R]; with samples=0, of one action."""
    if hasattr(agent, "begin"):
        raise ValueError("an agent that remembers has no policy of what it observes now")
    states, action_mask = layer.states[rows].copy(), layer.action_mask[layer.info_set[rows]]
    count, seat_to_move = np.zeros((len(rows), action_mask.shape[1])), layer.seat_to_move[rows]
    for k in range(max(samples, 1)):
        # Agents that sample by the worlds' random streams get a new stream for each row and sample.
        states["rng_counter"] = np.arange(len(rows), dtype=np.uint64) + np.uint64(k * len(rows))
        batch = batch_from_states(world, states)
        agent.bind(batch)
        observations = batch.observations[np.arange(len(rows)), seat_to_move]
        agent_rows = 2 * np.arange(len(rows)) + seat_to_move
        actions, _ = agent.act(
            observations, state=None, action_mask=action_mask, rows=agent_rows, deterministic=samples == 0
        )
        count[np.arange(len(rows)), actions] += 1
    return count / max(samples, 1)
