"""This module finds Nash equilibria of small zero-sum games with hidden information by sequence-form linear programs.

Source: Koller, Megiddo and von Stengel 1996, "Efficient computation of equilibria for extensive two-person games"
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array, hstack

from rl_lab.core.world import Array, World
from rl_lab.games.game_tree import GameTree, tree
from rl_lab.games.tabular_policy import TabularPolicy
from rl_lab.rating.results import Floats

_UNREACHED = 1e-12  # sums of weights below are the rounding errors of the linear program


@dataclass(frozen=True)
class Equilibrium(TabularPolicy):
    """A Nash equilibrium: the first seat's value, and one table for both seats, whose observations never coincide."""

    value: float


class _InformationSet(NamedTuple):
    """What a seat cannot tell apart, and the sequences of the seat's actions around it."""

    parent: int  # the sequence that leads to it
    sequences: list[int]  # those that its actions end
    observation: bytes
    actions: list[int]


@dataclass
class _SeatSequences:
    """The sequences of one seat's information sets and actions, numbered from 1 in the order of play; 0 is empty."""

    info: list[_InformationSet] = field(default_factory=list)
    seen_observations: set[bytes] = field(default_factory=set)
    count: int = 1  # number of sequences

    def flow(self) -> csr_array:
        """Return the flow constraints, float64 [1 + information sets, sequences].

        Row 0 sets the weight of the empty sequence to 1; in the others, inflow and outflow of a set are equal.
        """
        rows, columns, signs = [0], [0], [1.0]
        for k, info in enumerate(self.info, start=1):
            rows += [k] * (len(info.sequences) + 1)
            columns += [info.parent, *info.sequences]
            signs += [-1.0, *[1.0] * len(info.sequences)]
        return csr_array((signs, (rows, columns)), shape=(1 + len(self.info), self.count))


def solve(world: World | str) -> Equilibrium:
    """Return an equilibrium of a zero-sum world with perfect recall.

    Perfect recall: an observation determines all earlier observations and actions of its seat.

    Raises:
        ValueError: the world is not zero-sum, a position can be reached in two ways, an observation does not
            determine the seat's earlier ones, or the linear program has no solution. For games without hidden
            information use `best_response.perfect_value`.
    """
    game = tree(world)
    if not game.world.zero_sum:
        raise ValueError(f"{game.world.name} does not promise to be zero-sum")
    first, second, payoff = _sequences(game)
    flow, against = first.flow(), second.flow()
    # Maximize v[0], the first seat's return against a best response, over its seats x, subject to
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
    # The dual of the first seat's program is the second seat's: its variables are that seat's realization plan.
    second_probs = _behaviour(second, -solution.ineqlin.marginals, game)
    return Equilibrium(first_probs | second_probs, float(-solution.fun))


def _sequences(game: GameTree) -> tuple[_SeatSequences, _SeatSequences, csr_array]:
    """Return both seats' sequences, and the expected reward of the first seat for each pair, [first's, second's]."""
    seats = (_SeatSequences(), _SeatSequences())
    last = np.zeros((len(game.chance), 2), np.int64)  # [P, 2], each seat's last sequence in each position
    weight = game.chance  # float64 [P], the probability of what chance has done
    payments: list[tuple[Floats, Array]] = []
    for layer in game.layers:
        ending = np.zeros(layer.action_mask.shape, np.int64)  # [I, S], the sequence that ends with this action
        for k, (observation, action_mask) in enumerate(zip(layer.observations, layer.action_mask, strict=True)):
            rows = np.flatnonzero(layer.info == k)
            seat = int(layer.mover[rows[0]])
            own, key, parents = seats[seat], observation.tobytes(), np.unique(last[rows, seat])
            if len(parents) > 1 or key in own.seen_observations:
                agent = game.world.agents[seat]
                raise ValueError(
                    f"{game.world.name}: what {agent} observes does not determine its earlier observations"
                )
            actions = [int(a) for a in np.flatnonzero(action_mask)]
            sequences = list(range(own.count, own.count + len(actions)))
            own.count += len(actions)
            own.seen_observations.add(key)
            own.info.append(_InformationSet(int(parents[0]), sequences, key, actions))
            ending[k, actions] = sequences
        after = last[layer.parent]  # int64 [edges, 2], each seat's last sequence after the action
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
    shape = (seats[0].count, seats[1].count)
    return (*seats, coo_array((rewards, (ends[:, 0], ends[:, 1])), shape=shape).tocsr())


def _behaviour(seat: _SeatSequences, realization: Floats, game: GameTree) -> dict[bytes, Floats]:
    """Return the action probabilities of each information set, from the weights of sequences, float64 [sequences].

    They are uniform in sets that have no weight.
    """
    policy = {}
    for info in seat.info:
        probs = np.zeros(game.layers[0].action_mask.shape[1])
        weights = np.maximum(realization[info.sequences], 0.0)
        probs[info.actions] = weights / weights.sum() if weights.sum() > _UNREACHED else 1 / len(info.sequences)
        policy[info.observation] = probs
    return policy
