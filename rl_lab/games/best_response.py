"""This module computes exact values of policies in small games, best responses and NashConv.

`rl-lab exploit`, `rl-lab validate` and tests call it. It builds the world's game tree (cached by `game_tree`) and walks
it by layers: forwards for the probabilities of positions, backwards for their values. It changes nothing.

A policy is a function from the observations [B, *shape] of the seat to move and action masks [B, S] to action
probabilities [B, S], or an Agent. `tabular_policy` explains agents, and the argument `samples`. Within this module,
`probs` are such probabilities [P, S] for the positions of each layer.

Shapes: P positions of a layer, S actions, E moves, I information sets, K quantities whose expectations are computed
together.

Source: Johanson, Waugh, Bowling and Zinkevich 2011, "Accelerating best response calculation in large extensive games";
Lanctot et al. 2017, "A unified game-theoretic approach to multiagent reinforcement learning" (NashConv).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_lab.core.world import Array, World
from rl_lab.games.game_tree import GameTree, GameTreeLayer, build_game_tree
from rl_lab.games.tabular_policy import policy_probs
from rl_lab.rating.results import Floats


@dataclass(frozen=True)
class Response:
    """A best response of one seat: the policy, and its value, which is the seat's expected return."""

    seat: int
    value: float
    actions: dict[bytes, int]  # by the bytes of the observation

    def __call__(self, observations: Array, action_mask: Array) -> Floats:
        """Return probabilities [B, S]; for unknown observations, the first legal action has probability 1."""
        actions = [
            self.actions.get(row.tobytes(), int(np.argmax(legal)))
            for row, legal in zip(observations, action_mask, strict=True)
        ]
        return np.eye(action_mask.shape[1])[actions]


def expected_returns(policy_a: Any, policy_b: Any, world: World | str, *, samples: int = 0) -> Floats:
    """Return the expected returns of both seats, [2], if policy_a has the first and policy_b the second.

    Raises:
        ValueError: `build_game_tree` does not support the world, or probabilities do not add up to 1 over legal
        actions.
    """
    game = build_game_tree(world)
    return expected_sums(game, policy_probs(game, (policy_a, policy_b), samples), lambda rewards: rewards)


def outcome_probs(policy_a: Any, policy_b: Any, world: World | str, *, samples: int = 0) -> Floats:
    """Return the probabilities that the first seat wins, draws and loses, [3]: its return is above, at or below 0.

    Only rewards of the last move count, so it is for worlds without other rewards. Errors are those of
    `expected_returns`.
    """
    game = build_game_tree(world)
    probs = policy_probs(game, (policy_a, policy_b), samples)
    return expected_sums(game, probs, lambda r: (np.sign(r[:, :1]) == [1, 0, -1]) * 1.0, last_move_only=True)


def best_response(policy: Any, world: World | str, seat: int, *, samples: int = 0) -> Response:
    """Return the best response of `seat`, 0 or 1, to `policy` in the other seat; it depends on observations only.

    The seat must have perfect recall, which means that its observation determines all its earlier observations and
    actions, or its observation must determine the whole position. This is not checked. Errors are those of
    `expected_returns`.
    """
    if seat not in (0, 1):
        raise ValueError(f"seat={seat}: expected 0 or 1")
    game = build_game_tree(world)
    return _best_response_to(game, policy_probs(game, policy, samples, 1 - seat), seat)


def nash_conv(policy: Any, world: World | str, *, samples: int = 0) -> float:
    """Return NashConv, the sum of both seats' gains from best responses; it is 0 at a Nash equilibrium.

    Args:
        policy: a policy for both seats, or a pair for the first and the second.
        world: a zero-sum world or its name; exploitability is half of NashConv.
        samples: see `tabular_policy`.
    """
    game = build_game_tree(world)
    probs = policy_probs(game, policy, samples)
    best = sum(_best_response_to(game, probs, seat).value for seat in (0, 1))
    return float(best - expected_sums(game, probs, lambda rewards: rewards).sum())


def minimax_value(world: World | str) -> float:
    """Return the expected return of the first seat if both know the whole position and play perfectly.

    The world must be zero-sum: only the first seat's rewards are read.
    """
    game = build_game_tree(world)
    position_values = np.zeros(0)  # [P], of the layer after the current one
    for layer in reversed(game.layers):
        sign = np.where(layer.seat_to_move == 0, 1.0, -1.0)
        move_values = _move_values(layer, layer.rewards[:, :1], position_values[:, None])[:, 0]
        best = np.full(len(layer.states), -np.inf)
        np.maximum.at(best, layer.parent, sign[layer.parent] * move_values)
        position_values = sign * best
    return float(game.chance_probs @ position_values)


def expected_sums(
    game: GameTree, probs: list[Floats], summands_of: Callable[[Floats], Floats], last_move_only: bool = False
) -> Floats:
    """Return the expectations [K] of sums over a game, under action probabilities `probs`.

    `summands_of` converts rewards [E, 2] to the summands [E, K]. With `last_move_only`, only those of moves that end
    the game count.
    """
    position_values = np.zeros(
        (0, summands_of(np.zeros((1, 2))).shape[1])
    )  # [P, K], of the layer after the current one
    for layer, layer_probs in zip(reversed(game.layers), reversed(probs), strict=True):
        summands = summands_of(layer.rewards)
        if last_move_only:
            summands = np.where(layer.child[:, None] < 0, summands, 0.0)
        weighted = layer_probs[layer.parent, layer.action, None] * _move_values(layer, summands, position_values)
        position_values = np.zeros((len(layer.states), weighted.shape[1]))
        np.add.at(position_values, layer.parent, weighted)
    value: Floats = game.chance_probs @ position_values
    return value


def _best_response_to(game: GameTree, probs: list[Floats], seat: int) -> Response:
    """Return the best response of a seat to the other's action probabilities.

    From the last layer to the first, it takes in each information set of the seat the action with the highest mean
    value over the set's positions, weighted by their reach: the probability of the position by chance and the other
    seat's actions alone.
    """
    position_values, actions = np.zeros(0), {}
    reaches = _reach_probs(game, probs, seat)
    for layer, layer_probs, reach in zip(reversed(game.layers), reversed(probs), reversed(reaches), strict=True):
        move_values = _move_values(layer, layer.rewards[:, [seat]], position_values[:, None])[:, 0]
        action_values = np.zeros(layer_probs.shape)  # [P, S]
        action_values[layer.parent, layer.action] = move_values
        info_set_values = np.zeros(layer.action_mask.shape)  # [I, S], times the probability of the set
        np.add.at(info_set_values, layer.info_set, reach[:, None] * action_values)
        best = np.where(layer.action_mask != 0, info_set_values, -np.inf).argmax(axis=1)
        is_own_move = layer.seat_to_move == seat
        for k in np.unique(layer.info_set[is_own_move]):
            actions[layer.observations[k].tobytes()] = int(best[k])
        response = np.where(is_own_move[:, None], np.eye(layer_probs.shape[1])[best[layer.info_set]], layer_probs)
        position_values = (response * action_values).sum(axis=1)
    return Response(seat, float(game.chance_probs @ position_values), actions)


def _reach_probs(game: GameTree, probs: list[Floats], seat: int) -> list[Floats]:
    """Return the probabilities of each layer's positions, [P], if `seat` always takes the actions that lead there."""
    reach = game.chance_probs
    reaches: list[Floats] = []
    for layer, layer_probs in zip(game.layers, probs, strict=True):
        reaches.append(reach)
        continues, weights = layer.child >= 0, layer_probs[layer.parent, layer.action]
        weights = np.where(layer.seat_to_move[layer.parent] == seat, 1.0, weights)
        reach = np.bincount(layer.child[continues], (reach[layer.parent] * weights)[continues])
    return reaches


def _move_values(layer: GameTreeLayer, rewards: Floats, position_values: Floats) -> Floats:
    """Return the value of each move, [E, K]: its reward plus the value of the next layer's position it leads to."""
    continues, move_values = layer.child >= 0, rewards.copy()
    move_values[continues] += position_values[layer.child[continues]]
    return move_values
