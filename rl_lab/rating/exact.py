"""Exact values: what policies are worth in a small game, and what the best answer to one gains.

Policies, and what `samples` means, are as in `policies`.

Shapes: P positions of a layer, S actions, K numbers that are valued at once.

Source: Johanson et al. 2011, "Accelerating best response calculation"; Lanctot et al. 2017 (NashConv)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..world import Array, World
from .policies import asked
from .results import Floats
from .tree import Layer, Tree, tree


@dataclass(frozen=True)
class Response:
    """A best answer: its value, the expected return of its seat, and the policy, which knows that seat's positions."""

    seat: int
    value: float
    actions: dict[bytes, int]  # by the bytes of what is observed

    def __call__(self, observations: Array, legal: Array) -> Floats:
        """Return probabilities [B, S]; where it has never been, of the first legal action."""
        chosen = [
            self.actions.get(row.tobytes(), int(np.argmax(may))) for row, may in zip(observations, legal, strict=True)
        ]
        return np.eye(legal.shape[1])[chosen]


def values(policy_a: Any, policy_b: Any, world: World | str, *, samples: int = 0) -> Floats:
    """Return the expected returns of both seats, [2], where policy_a has the first and policy_b the second.

    Raises ValueError for a world that `tree` cannot grow, and for a policy that gives an illegal action a chance or
    whose probabilities do not add up to 1.
    """
    game = tree(world)
    return expected(game, asked(game, (policy_a, policy_b), samples), lambda rewards: rewards)


def outcomes(policy_a: Any, policy_b: Any, world: World | str, *, samples: int = 0) -> Floats:
    """Return the probabilities that the first seat wins, draws and loses, [3]: its return is above, at or below 0.

    For worlds that pay on the last move only; else as `values`.
    """
    game = tree(world)
    return expected(
        game, asked(game, (policy_a, policy_b), samples), lambda r: (np.sign(r[:, :1]) == [1, 0, -1]) * 1.0, True
    )


def best_response(policy: Any, world: World | str, seat: int, *, samples: int = 0) -> Response:
    """Return the best answer that `seat`, 0 or 1, has to `policy` in the other seat, knowing only what it observes.

    The observation must tell a seat all that it has seen and done, or the whole position. Errors are those of `values`.
    """
    if seat not in (0, 1):
        raise ValueError(f"seat={seat}: expected 0 or 1")
    game = tree(world)
    return _respond(game, asked(game, policy, samples, 1 - seat), seat)


def nash_conv(policy: Any, world: World | str, *, samples: int = 0) -> float:
    """Return NashConv: what both seats together would gain by best answers; 0 at a Nash equilibrium.

    Args:
        policy: for both seats; or two, for the first and the second.
        world: a zero-sum world or its name; exploitability is half of what is returned.
        samples: see above.
    """
    game = tree(world)
    chances = asked(game, policy, samples)
    gained = sum(_respond(game, chances, seat).value for seat in (0, 1))
    return float(gained - expected(game, chances, lambda rewards: rewards).sum())


def perfect_value(world: World | str) -> float:
    """Return the expected return of the first seat where both play perfectly and see everything: minimax."""
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


def expected(game: Tree, chances: list[Floats], pay: Callable[[Floats], Floats], once: bool = False) -> Floats:
    """Return what the game is worth, [K], where all move by chances; `pay` makes [E, K] of rewards [E, 2].

    With `once` it pays at the end alone.
    """
    ahead = np.zeros((0, pay(np.zeros((1, 2))).shape[1]))
    for layer, chance in zip(reversed(game.layers), reversed(chances), strict=True):
        paid = pay(layer.rewards)
        if once:
            paid = np.where(layer.child[:, None] < 0, paid, 0.0)
        worth = chance[layer.parent, layer.action, None] * _after(layer, paid, ahead)
        ahead = np.zeros((len(layer.states), worth.shape[1]))
        np.add.at(ahead, layer.parent, worth)
    value: Floats = game.chance @ ahead
    return value


def _respond(game: Tree, chances: list[Floats], seat: int) -> Response:
    reach, reaches = game.chance, []
    for layer, chance in zip(game.layers, chances, strict=True):  # how likely the other and chance bring it about
        reaches.append(reach)
        going, taken = layer.child >= 0, chance[layer.parent, layer.action]
        taken = np.where(layer.mover[layer.parent] == seat, 1.0, taken)
        reach = np.bincount(layer.child[going], (reach[layer.parent] * taken)[going])
    ahead, actions = np.zeros(0), {}
    for layer, chance, reach in zip(reversed(game.layers), reversed(chances), reversed(reaches), strict=True):
        worth = np.zeros(chance.shape)
        worth[layer.parent, layer.action] = _after(layer, layer.rewards[:, [seat]], ahead[:, None])[:, 0]
        sums = np.zeros(layer.legal.shape)
        np.add.at(sums, layer.info, reach[:, None] * worth)
        best = np.where(layer.legal != 0, sums, -np.inf).argmax(axis=1)
        mine = layer.mover == seat
        for k in np.unique(layer.info[mine]):
            actions[layer.observations[k].tobytes()] = int(best[k])
        played = np.where(mine[:, None], np.eye(chance.shape[1])[best[layer.info]], chance)
        ahead = (played * worth).sum(axis=1)
    return Response(seat, float(game.chance @ ahead), actions)


def _after(layer: Layer, pay: Floats, ahead: Floats) -> Floats:
    """Return what each move brings, [E, K], from what it pays and what the positions ahead are worth."""
    going, worth = layer.child >= 0, pay.copy()
    worth[going] += ahead[layer.child[going]]
    return worth
