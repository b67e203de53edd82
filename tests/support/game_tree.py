"""Enumerate whole games with a world's own rules, and compute exact values: of policies, of perfect play, of responses.

`build_layers` makes the layers of a game: layer k has the positions after k moves, and every legal move in them. The
other functions go through the layers backwards. They are a second implementation, against which tests compare
`rl_lab.games`.

Shapes: P positions of a layer, E moves made in them, A agents, K numbers in a payoff.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gymnasium.vector import AutoresetMode

from rl_lab.core.world import Array, World
from rl_lab.engine.batch import Batch


@dataclass
class Layer:
    """The positions after so many moves, and every move from them."""

    states: Array  # State [P]
    mover: Array  # int [P]
    observations: Array  # [P, A, ...]
    action_mask: Array  # uint8 [P, actions], the mover's
    parent: Array  # int [E]: the position that a move was made in
    action: Array  # int [E]
    child: Array  # int [E]: the position of the next layer that it led to, -1 where it ended the game
    rewards: Array  # float64 [E, A]


Policy = Callable[[Layer], Array]  # returns float [P, actions]: the probabilities of the mover's actions


def uniform(layer: Layer) -> Array:
    """Return the policy that takes every legal action with equal probability."""
    return layer.action_mask / layer.action_mask.sum(axis=1, keepdims=True)


def batch_from_states(world: World, states: Array) -> Batch:
    """Return a batch whose worlds are in these states, [N]."""
    batch = Batch(world, len(states), threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    batch.states[...] = states
    batch.observe()
    return batch


def initial_state(world: World) -> Array:
    """Return a state, [1], in which an episode begins."""
    batch = Batch(world, 1, threads=1)
    batch.reset()
    return batch.states.copy()


def build_layers(world: World, roots: Array, position_fields: tuple[str, ...] = (), depth: int = 999) -> list[Layer]:
    """Return the layers of the game from the states `roots`, [N], at most `depth` of them.

    States that agree in the fields `position_fields` are one position; without such fields, all states are different.
    """
    layers: list[Layer] = []
    while len(roots) and len(layers) < depth:
        before, mover = batch_from_states(world, roots), roots[world.current_player_field].astype(np.int64)
        action_mask = before.action_mask[np.arange(len(roots)), mover]
        parent, action = np.nonzero(action_mask)
        after = batch_from_states(world, roots[parent])
        after.actions[...] = action[:, None]
        after.step()
        child, continuing = np.full(len(parent), -1), np.flatnonzero(~after.done)
        first_of_position = child[continuing] = np.arange(len(continuing))
        if position_fields and len(continuing):
            keys = np.column_stack([after.states[name][continuing].astype(np.int64) for name in position_fields])
            _, first_of_position, merged = np.unique(keys, axis=0, return_index=True, return_inverse=True)
            child[continuing] = merged.reshape(-1)
        rewards = after.rewards.astype(np.float64)
        layers.append(Layer(roots, mover, before.observations.copy(), action_mask, parent, action, child, rewards))
        roots = after.states[continuing[first_of_position]]
    return layers


def _move_values(layer: Layer, pay: Array, next_values: Array) -> Array:
    """Return the value of each move, [E, K]: its payoff, plus the value of the position that it leads to."""
    continues = layer.child >= 0
    values = pay.copy()
    values[continues] += next_values[layer.child[continues]]
    return values


def expected_values(
    tree: list[Layer], policy: Policy, pay: Callable[[Array], Array] = lambda rewards: rewards
) -> Array:
    """Return the values of the roots, [N, K], where all agents play `policy`; `pay` makes [E, K] of rewards [E, A]."""
    next_values = np.zeros((0, pay(np.zeros((1, tree[0].rewards.shape[1]))).shape[1]))
    for layer in reversed(tree):
        values = policy(layer)[layer.parent, layer.action, None] * _move_values(layer, pay(layer.rewards), next_values)
        next_values = np.zeros((len(layer.states), values.shape[1]))
        np.add.at(next_values, layer.parent, values)
    return next_values


def minimax_values(tree: list[Layer]) -> Array:
    """Return the values of the roots for the first agent, [N], where both play perfectly and see everything."""
    next_values = np.zeros((0, 1))
    for layer in reversed(tree):
        sign = np.where(layer.mover == 0, 1.0, -1.0)
        best = np.full(len(layer.states), -np.inf)
        values = _move_values(layer, layer.rewards[:, :1], next_values)[:, 0]
        np.maximum.at(best, layer.parent, sign[layer.parent] * values)
        next_values = (sign * best)[:, None]
    return next_values[:, 0]


def guaranteed_values(tree: list[Layer], agent: int, policy_actions: Callable[[Layer], Array]) -> Array:
    """Return the least return, [N], of an agent that takes only the actions of `policy_actions`, bool [P, actions]."""
    next_values = np.zeros((0, 1))
    for layer in reversed(tree):
        possible = policy_actions(layer)[layer.parent, layer.action] | (layer.mover != agent)[layer.parent]
        assert np.isin(np.arange(len(layer.states)), layer.parent[possible]).all(), "chose no legal action"
        values = _move_values(layer, layer.rewards[:, [agent]], next_values)
        next_values = np.full((len(layer.states), 1), np.inf)
        np.minimum.at(next_values, layer.parent[possible], values[possible])
    return next_values[:, 0]


def best_response(tree: list[Layer], agent: int, policy: Policy) -> float:
    """Return the mean value, over all roots, of an agent's best response to a policy, given what the agent observes."""
    reach, reaches = np.full(len(tree[0].states), 1 / len(tree[0].states)), []
    for layer in tree:  # the probability that the others and chance reach each position
        reaches.append(reach)
        continues, probability = layer.child >= 0, policy(layer)[layer.parent, layer.action]
        probability[(layer.mover == agent)[layer.parent]] = 1.0
        reach = np.zeros(layer.child.max(initial=-1) + 1)
        np.add.at(reach, layer.child[continues], (reaches[-1][layer.parent] * probability)[continues])
    next_values = np.zeros((0, 1))
    for layer, reach in zip(reversed(tree), reversed(reaches), strict=True):
        n, probs = len(layer.states), policy(layer)
        values = np.zeros(layer.action_mask.shape)
        values[layer.parent, layer.action] = _move_values(layer, layer.rewards[:, [agent]], next_values)[:, 0]
        # Positions with the same observation are one information set, in which the agent takes the same action.
        _, info_set = np.unique(layer.observations[:, agent].reshape(n, -1), axis=0, return_inverse=True)
        info_set = info_set.reshape(-1)
        sums = np.zeros((info_set.max() + 1, values.shape[1]))
        np.add.at(sums, info_set, np.where(layer.action_mask, reach[:, None] * values, -np.inf))
        best = np.eye(values.shape[1])[sums.argmax(axis=1)][info_set]
        next_values = (np.where((layer.mover == agent)[:, None], best, probs) * values).sum(axis=1, keepdims=True)
    return float(next_values.mean())
