"""Equilibria of small zero-sum games with hidden cards, by linear programming over sequences of a player's own moves.

Source: Koller, Megiddo and von Stengel 1996, "Efficient computation of equilibria for extensive two-person games"
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array, hstack

from ..world import Array, World
from .policies import Table
from .results import Floats
from .tree import Tree, tree


@dataclass(frozen=True)
class Equilibrium(Table):
    """A Nash equilibrium: a policy for both seats, told apart by their observations, and the first seat's value."""

    value: float


@dataclass
class _Plan:
    """One seat's sequences: of information sets and actions, numbered from 1 in the order of play; 0 is empty."""

    info: list[tuple[int, list[int], bytes, list[int]]]  # parent sequence, own sequences, observation, their actions
    known: dict[bytes, int]
    count: int = 1

    def flow(self) -> csr_array:
        """Return [1 + information sets, sequences]: what enters an information set leaves it."""
        rows, columns, signs = [0], [0], [1.0]
        for k, (parent, own, _, _) in enumerate(self.info, start=1):
            rows += [k] * (len(own) + 1)
            columns += [parent, *own]
            signs += [-1.0, *[1.0] * len(own)]
        return csr_array((signs, (rows, columns)), shape=(1 + len(self.info), self.count))


def solve(world: World | str) -> Equilibrium:
    """Return an equilibrium of a zero-sum world in which each seat observes all that it has seen and done.

    Raises ValueError where positions can be reached in two ways, so that a seat forgets what it did; for games without
    hidden information use `exact.perfect_value`.
    """
    game = tree(world)
    if not game.world.zero_sum:
        raise ValueError(f"{game.world.name} does not promise to be zero-sum")
    first, second, payoff = _sequences(game)
    flow, against = first.flow(), second.flow()
    # Maximise v[0], the second's loss at best, over plans x of the first: against' v <= payoff' x, flow x = (1, 0, ..).
    cost = np.zeros(first.count + against.shape[0])
    cost[first.count] = -1.0
    limits = hstack([-payoff.T, against.T])
    start = np.eye(1, flow.shape[0]).ravel()
    equal = hstack([flow, csr_array((flow.shape[0], against.shape[0]))])
    bounds = [(0, None)] * first.count + [(None, None)] * against.shape[0]
    found = linprog(
        cost, A_ub=limits, b_ub=np.zeros(second.count), A_eq=equal, b_eq=start, bounds=bounds, method="highs"
    )
    if not found.success:
        raise ValueError(f"{game.world.name}: {found.message}")
    chances = _behaviour(first, found.x[: first.count], game) | _behaviour(second, -found.ineqlin.marginals, game)
    return Equilibrium(chances, float(-found.fun))


def _sequences(game: Tree) -> tuple[_Plan, _Plan, csr_array]:
    """Return both seats' sequences and what the first is paid at each pair of them, [first's, second's]."""
    plans = (_Plan([], {}), _Plan([], {}))
    last, weight = np.zeros((len(game.chance), 2), np.int64), game.chance
    paid: list[tuple[Floats, Array]] = []
    for layer in game.layers:
        taken = np.zeros(layer.legal.shape, np.int64)  # [I, S]: the sequence that ends with this action
        for k, (seen, legal) in enumerate(zip(layer.observations, layer.legal, strict=True)):
            rows = np.flatnonzero(layer.info == k)
            seat = int(layer.mover[rows[0]])
            plan, key, parents = plans[seat], seen.tobytes(), np.unique(last[rows, seat])
            if len(parents) > 1 or key in plan.known:
                raise ValueError(f"{game.world.name}: {game.world.agents[seat]} forgets what it has seen or done")
            actions = [int(a) for a in np.flatnonzero(legal)]
            own = list(range(plan.count, plan.count + len(actions)))
            plan.known[key], plan.count = len(plan.info), plan.count + len(actions)
            plan.info.append((int(parents[0]), own, key, actions))
            taken[k, actions] = own
        after = last[layer.parent]
        after[np.arange(len(after)), layer.mover[layer.parent]] = taken[layer.info[layer.parent], layer.action]
        paid.append((weight[layer.parent] * layer.rewards[:, 0], after))
        going = layer.child >= 0
        size = int(layer.child.max(initial=-1)) + 1
        if going.sum() != size:
            raise ValueError(f"{game.world.name} reaches positions in several ways: see exact.perfect_value")
        last, weight_next = np.zeros((size, 2), np.int64), np.zeros(size)
        last[layer.child[going]], weight_next[layer.child[going]] = after[going], weight[layer.parent][going]
        weight = weight_next
    money, ends = np.concatenate([m for m, _ in paid]), np.concatenate([e for _, e in paid])
    shape = (plans[0].count, plans[1].count)
    return (*plans, coo_array((money, (ends[:, 0], ends[:, 1])), shape=shape).tocsr())


def _behaviour(plan: _Plan, weight: Floats, game: Tree) -> dict[bytes, Floats]:
    """Return how likely each action is in each information set; where a plan never comes, all alike."""
    found = {}
    for _, own, key, actions in plan.info:
        chance = np.zeros(game.layers[0].legal.shape[1])
        share = np.maximum(weight[own], 0.0)
        chance[actions] = share / share.sum() if share.sum() > 1e-12 else 1 / len(own)
        found[key] = chance
    return found
