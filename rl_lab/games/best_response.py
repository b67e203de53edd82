"""This module computes exact values of policies in small games, best responses and NashConv.

Policies, and the argument `samples`, are explained in `tabular_policy`.

Shapes: P positions of a layer, S actions, E moves, K quantities whose expectations are computed together.

Source: Johanson et al. 2011, "Accelerating best response calculation"; Lanctot et al. 2017 (NashConv)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_lab.core.world import Array, World
from rl_lab.games.game_tree import GameTree, Layer, tree
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


def values(policy_a: Any, policy_b: Any, world: World | str, *, samples: int = 0) -> Floats:
    """Return the expected returns of both seats, [2], if policy_a has the first and policy_b the second.

    Raises:
        ValueError: `tree` does not support the world, or probabilities do not add up to 1 over legal actions.
    """
    game = tree(world)
    return expected(game, policy_probs(game, (policy_a, policy_b), samples), lambda rewards: rewards)


def outcomes(policy_a: Any, policy_b: Any, world: World | str, *, samples: int = 0) -> Floats:
    """Return the probabilities that the first seat wins, draws and loses, [3]: its return is above, at or below 0.

    Only rewards of the last move count, so it is for worlds without other rewards. Errors are those of `values`.
    """
    game = tree(world)
    return expected(
        game, policy_probs(game, (policy_a, policy_b), samples), lambda r: (np.sign(r[:, :1]) == [1, 0, -1]) * 1.0, True
    )


def best_response(policy: Any, world: World | str, seat: int, *, samples: int = 0) -> Response:
    """Return the best response of `seat`, 0 or 1, to `policy` in the other seat; it depends on observations only.

    A seat's observation must determine all its earlier observations and actions, or the whole position. Errors are
    those of `values`.
    """
    if seat not in (0, 1):
        raise ValueError(f"seat={seat}: expected 0 or 1")
    game = tree(world)
    return _respond(game, policy_probs(game, policy, samples, 1 - seat), seat)


def nash_conv(policy: Any, world: World | str, *, samples: int = 0) -> float:
    """Return NashConv, the sum of both seats' gains from best responses; it is 0 at a Nash equilibrium.

    Args:
        policy: a policy for both seats, or a pair for the first and the second.
        world: a zero-sum world or its name; exploitability is half of NashConv.
        samples: see `tabular_policy`.
    """
    game = tree(world)
    probs = policy_probs(game, policy, samples)
    best = sum(_respond(game, probs, seat).value for seat in (0, 1))
    return float(best - expected(game, probs, lambda rewards: rewards).sum())


def perfect_value(world: World | str) -> float:
    """Return the expected return of the first seat if both know the whole position and play perfectly: minimax."""
    game = tree(world)
    ahead = np.zeros(0)
    for layer in reversed(game.layers):
        sign = np.where(layer.mover == 0, 1.0, -1.0)
        best = np.full(len(layer.states), -np.inf)
        np.maximum.at(
            best, layer.parent, sign[layer.parent] * _after(layer, layer.rewards[:, :1], ahead[:, None])[:, 0]
        )
        ahead = sign * best
    return float(game.chance @ ahead)


def expected(game: GameTree, probs: list[Floats], pay: Callable[[Floats], Floats], once: bool = False) -> Floats:
    """Return the expectations [K] of sums over a game, under action probabilities `probs`.

    `pay` converts rewards [E, 2] to the summands [E, K]. With `once`, only the last move's count.
    """
    ahead = np.zeros((0, pay(np.zeros((1, 2))).shape[1]))
    for layer, policy in zip(reversed(game.layers), reversed(probs), strict=True):
        summands = pay(layer.rewards)
        if once:
            summands = np.where(layer.child[:, None] < 0, summands, 0.0)
        weighted = policy[layer.parent, layer.action, None] * _after(layer, summands, ahead)
        ahead = np.zeros((len(layer.states), weighted.shape[1]))
        np.add.at(ahead, layer.parent, weighted)
    value: Floats = game.chance @ ahead
    return value


def _respond(game: GameTree, probs: list[Floats], seat: int) -> Response:
    """Return the best response of a seat to the other's action probabilities."""
    reach, reaches = game.chance, []  # probabilities of positions by chance and the other seat's actions
    for layer, policy in zip(game.layers, probs, strict=True):
        reaches.append(reach)
        continues, weights = layer.child >= 0, policy[layer.parent, layer.action]
        weights = np.where(layer.mover[layer.parent] == seat, 1.0, weights)
        reach = np.bincount(layer.child[continues], (reach[layer.parent] * weights)[continues])
    ahead, actions = np.zeros(0), {}
    for layer, policy, reach in zip(reversed(game.layers), reversed(probs), reversed(reaches), strict=True):
        action_values = np.zeros(policy.shape)
        action_values[layer.parent, layer.action] = _after(layer, layer.rewards[:, [seat]], ahead[:, None])[:, 0]
        sums = np.zeros(layer.action_mask.shape)
        np.add.at(sums, layer.info, reach[:, None] * action_values)
        best = np.where(layer.action_mask != 0, sums, -np.inf).argmax(axis=1)
        is_seat = layer.mover == seat
        for k in np.unique(layer.info[is_seat]):
            actions[layer.observations[k].tobytes()] = int(best[k])
        response = np.where(is_seat[:, None], np.eye(policy.shape[1])[best[layer.info]], policy)
        ahead = (response * action_values).sum(axis=1)
    return Response(seat, float(game.chance @ ahead), actions)


def _after(layer: Layer, rewards: Floats, ahead: Floats) -> Floats:
    """Return the value of each move, [E, K]: its reward plus the value of the position that it leads to."""
    continues, values = layer.child >= 0, rewards.copy()
    values[continues] += ahead[layer.child[continues]]
    return values
