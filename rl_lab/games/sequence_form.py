"""This module finds Nash equilibria of small zero-sum games with hidden information by sequence-form linear programs.

Source: Koller, Megiddo and von Stengel 1996, "Efficient computation of equilibria for extensive two-person games"
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array, hstack

from rl_lab.core.world import Array, World
from rl_lab.games.game_tree import GameTree, tree
from rl_lab.games.tabular_policy import TabularPolicy
from rl_lab.rating.results import Floats


@dataclass(frozen=True)
class Equilibrium(TabularPolicy):
    """A Nash equilibrium: a policy for both seats, whose observations differ, and the first seat's value."""

    value: float


@dataclass
class _SequencePlan:
    """The sequences of one seat's information sets and actions, numbered from 1 in the order of play; 0 is empty."""

    # For each information set: the sequence that leads to it, its own sequences, its observation, and its actions.
    info: list[tuple[int, list[int], bytes, list[int]]]
    known: dict[bytes, int]  # index in `info` by observation
    count: int = 1  # number of sequences

    def flow(self) -> csr_array:
        """Return the flow constraints, [1 + information sets, sequences]: inflow and outflow of a set are equal."""
        rows, columns, signs = [0], [0], [1.0]
        for k, (parent, sequences, _, _) in enumerate(self.info, start=1):
            rows += [k] * (len(sequences) + 1)
            columns += [parent, *sequences]
            signs += [-1.0, *[1.0] * len(sequences)]
        return csr_array((signs, (rows, columns)), shape=(1 + len(self.info), self.count))


def solve(world: World | str) -> Equilibrium:
    """Return an equilibrium of a zero-sum world whose observations determine all earlier observations and actions.

    Raises:
        ValueError: the world is not zero-sum, a position can be reached in two ways, or an observation does not
            determine the seat's earlier ones. For games without hidden information use `best_response.perfect_value`.
    """
    game = tree(world)
    if not game.world.zero_sum:
        raise ValueError(f"{game.world.name} does not promise to be zero-sum")
    first, second, payoff = _sequences(game)
    flow, against = first.flow(), second.flow()
    # Maximize v[0], the first seat's return against a best response, over its plans x, subject to
    # against' v <= payoff' x and flow x = (1, 0, ..).
    cost = np.zeros(first.count + against.shape[0])
    cost[first.count] = -1.0
    limits = hstack([-payoff.T, against.T])
    start = np.eye(1, flow.shape[0]).ravel()
    equal = hstack([flow, csr_array((flow.shape[0], against.shape[0]))])
    bounds = [(0, None)] * first.count + [(None, None)] * against.shape[0]
    solution = linprog(
        cost, A_ub=limits, b_ub=np.zeros(second.count), A_eq=equal, b_eq=start, bounds=bounds, method="highs"
    )
    if not solution.success:
        raise ValueError(f"{game.world.name}: {solution.message}")
    first_probs = _behaviour(first, solution.x[: first.count], game)
    second_probs = _behaviour(second, -solution.ineqlin.marginals, game)
    return Equilibrium(first_probs | second_probs, float(-solution.fun))


def _sequences(game: GameTree) -> tuple[_SequencePlan, _SequencePlan, csr_array]:
    """Return both seats' sequences, and the expected reward of the first seat for each pair, [first's, second's]."""
    plans = (_SequencePlan([], {}), _SequencePlan([], {}))
    last, weight = np.zeros((len(game.chance), 2), np.int64), game.chance
    payments: list[tuple[Floats, Array]] = []
    for layer in game.layers:
        ending = np.zeros(layer.action_mask.shape, np.int64)  # [I, S], the sequence that ends with this action
        for k, (observation, action_mask) in enumerate(zip(layer.observations, layer.action_mask, strict=True)):
            rows = np.flatnonzero(layer.info == k)
            seat = int(layer.mover[rows[0]])
            plan, key, parents = plans[seat], observation.tobytes(), np.unique(last[rows, seat])
            if len(parents) > 1 or key in plan.known:
                agent = game.world.agents[seat]
                raise ValueError(
                    f"{game.world.name}: what {agent} observes does not determine its earlier observations"
                )
            actions = [int(a) for a in np.flatnonzero(action_mask)]
            sequences = list(range(plan.count, plan.count + len(actions)))
            plan.known[key], plan.count = len(plan.info), plan.count + len(actions)
            plan.info.append((int(parents[0]), sequences, key, actions))
            ending[k, actions] = sequences
        after = last[layer.parent]
        after[np.arange(len(after)), layer.mover[layer.parent]] = ending[layer.info[layer.parent], layer.action]
        payments.append((weight[layer.parent] * layer.rewards[:, 0], after))
        continues = layer.child >= 0
        size = int(layer.child.max(initial=-1)) + 1
        if continues.sum() != size:
            raise ValueError(f"{game.world.name} reaches positions in several ways: see best_response.perfect_value")
        last, next_weight = np.zeros((size, 2), np.int64), np.zeros(size)
        last[layer.child[continues]] = after[continues]
        next_weight[layer.child[continues]] = weight[layer.parent][continues]
        weight = next_weight
    rewards, ends = np.concatenate([r for r, _ in payments]), np.concatenate([e for _, e in payments])
    shape = (plans[0].count, plans[1].count)
    return (*plans, coo_array((rewards, (ends[:, 0], ends[:, 1])), shape=shape).tocsr())


def _behaviour(plan: _SequencePlan, weight: Floats, game: GameTree) -> dict[bytes, Floats]:
    """Return the action probabilities of each information set; uniform for sets that the plan never reaches."""
    policy = {}
    for _, sequences, key, actions in plan.info:
        probs = np.zeros(game.layers[0].action_mask.shape[1])
        share = np.maximum(weight[sequences], 0.0)
        probs[actions] = share / share.sum() if share.sum() > 1e-12 else 1 / len(sequences)
        policy[key] = probs
    return policy
