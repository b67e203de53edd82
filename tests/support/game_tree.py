"""Whole games, grown with a world's own rules layer by layer: what can be counted or solved in them exactly.

Shapes: P positions of a layer, E moves made from them, A agents, K numbers that a game's end pays.
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


Policy = Callable[[Layer], Array]  # returns float [P, actions]: how likely the mover takes each action


def uniform(layer: Layer) -> Array:
    """Every legal action is as likely."""
    return layer.action_mask / layer.action_mask.sum(axis=1, keepdims=True)


def put(world: World, states: Array) -> Batch:
    """Return a batch in these states, [N]."""
    batch = Batch(world, len(states), threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    batch.states[...] = states
    batch.observe()
    return batch


def start(world: World) -> Array:
    """Return a state, [1], in which an episode begins."""
    batch = Batch(world, 1, threads=1)
    batch.reset()
    return batch.states.copy()


def grow(world: World, roots: Array, same: tuple[str, ...] = (), depth: int = 999) -> list[Layer]:
    """Return the layers of the game from states [N]. States that agree in the fields `same` are one position."""
    layers: list[Layer] = []
    while len(roots) and len(layers) < depth:
        before, mover = put(world, roots), roots[world.current_player_field].astype(np.int64)
        action_mask = before.action_mask[np.arange(len(roots)), mover]
        parent, action = np.nonzero(action_mask)
        after = put(world, roots[parent])
        after.actions[...] = action[:, None]
        after.step()
        child, going = np.full(len(parent), -1), np.flatnonzero(~after.done)
        kept = child[going] = np.arange(len(going))
        if same and len(going):
            told = np.column_stack([after.states[name][going].astype(np.int64) for name in same])
            _, kept, merged = np.unique(told, axis=0, return_index=True, return_inverse=True)
            child[going] = merged.reshape(-1)
        rewards = after.rewards.astype(np.float64)
        layers.append(Layer(roots, mover, before.observations.copy(), action_mask, parent, action, child, rewards))
        roots = after.states[going[kept]]
    return layers


def _after(layer: Layer, pay: Array, ahead: Array) -> Array:
    """Return what each move brings, [E, K], from what it pays and what the positions ahead are worth."""
    going = layer.child >= 0
    worth = pay.copy()
    worth[going] += ahead[layer.child[going]]
    return worth


def expected(tree: list[Layer], policy: Policy, pay: Callable[[Array], Array] = lambda rewards: rewards) -> Array:
    """Return what the roots are worth, [N, K], where all play a policy; `pay` makes [E, K] of rewards [E, A]."""
    ahead = np.zeros((0, pay(np.zeros((1, tree[0].rewards.shape[1]))).shape[1]))
    for layer in reversed(tree):
        worth = policy(layer)[layer.parent, layer.action, None] * _after(layer, pay(layer.rewards), ahead)
        ahead = np.zeros((len(layer.states), worth.shape[1]))
        np.add.at(ahead, layer.parent, worth)
    return ahead


def solved(tree: list[Layer]) -> Array:
    """Return the roots' worth to the first agent, [N], where two play perfectly and see everything."""
    ahead = np.zeros((0, 1))
    for layer in reversed(tree):
        sign = np.where(layer.mover == 0, 1.0, -1.0)
        best = np.full(len(layer.states), -np.inf)
        worth = _after(layer, layer.rewards[:, :1], ahead)[:, 0]
        np.maximum.at(best, layer.parent, sign[layer.parent] * worth)
        ahead = (sign * best)[:, None]
    return ahead[:, 0]


def guaranteed(tree: list[Layer], agent: int, chosen: Callable[[Layer], Array]) -> Array:
    """Return the least, [N], that an agent gets that takes only chosen actions, bool [P, actions]."""
    ahead = np.zeros((0, 1))
    for layer in reversed(tree):
        possible = chosen(layer)[layer.parent, layer.action] | (layer.mover != agent)[layer.parent]
        assert np.isin(np.arange(len(layer.states)), layer.parent[possible]).all(), "chose no legal action"
        worth = _after(layer, layer.rewards[:, [agent]], ahead)
        ahead = np.full((len(layer.states), 1), np.inf)
        np.minimum.at(ahead, layer.parent[possible], worth[possible])
    return ahead[:, 0]


def best_response(tree: list[Layer], agent: int, policy: Policy) -> float:
    """Return what an agent gets, over all roots alike, by its best answer to a policy, knowing what it observes."""
    reach, reaches = np.full(len(tree[0].states), 1 / len(tree[0].states)), []
    for layer in tree:  # how likely the others and chance bring it about
        reaches.append(reach)
        going, chance = layer.child >= 0, policy(layer)[layer.parent, layer.action]
        chance[(layer.mover == agent)[layer.parent]] = 1.0
        reach = np.zeros(layer.child.max(initial=-1) + 1)
        np.add.at(reach, layer.child[going], (reaches[-1][layer.parent] * chance)[going])
    ahead = np.zeros((0, 1))
    for layer, reach in zip(reversed(tree), reversed(reaches), strict=True):
        n, probs = len(layer.states), policy(layer)
        worth = np.zeros(layer.action_mask.shape)
        worth[layer.parent, layer.action] = _after(layer, layer.rewards[:, [agent]], ahead)[:, 0]
        _, told = np.unique(layer.observations[:, agent].reshape(n, -1), axis=0, return_inverse=True)
        told = told.reshape(-1)
        sums = np.zeros((told.max() + 1, worth.shape[1]))
        np.add.at(sums, told, np.where(layer.action_mask, reach[:, None] * worth, -np.inf))
        best = np.eye(worth.shape[1])[sums.argmax(axis=1)][told]
        ahead = (np.where((layer.mover == agent)[:, None], best, probs) * worth).sum(axis=1, keepdims=True)
    return float(ahead.mean())
