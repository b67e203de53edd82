"""This module finds Nash equilibria of small zero-sum games with hidden information by sequence-form linear programs.

`solve` is the entry point; it builds the world's game tree (cached by `game_tree`) and changes nothing.

A sequence of a seat is the list of its own actions on the way to a position. Its weight (realization probability) is
the product of the probabilities of these actions. Expected returns are linear in the weights of either seat, and in
each information set the weights of the continued sequences add up to that of the sequence that leads to it. So a best
policy against a best response is a linear program whose size is that of the game.

Shape letters: P positions of a layer, I information sets, S actions, E moves.

Source: Koller, Megiddo and von Stengel 1996, "Efficient computation of equilibria for extensive two-person games".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array, hstack

from rl_lab.core.world import Array, World
from rl_lab.games.game_tree import GameTree, GameTreeLayer, build_game_tree
from rl_lab.games.tabular_policy import TabularPolicy
from rl_lab.rating.results import Floats

_MIN_WEIGHT = 1e-12  # sums of weights below it are 0 but for the rounding errors of the linear program


@dataclass(frozen=True)
class Equilibrium(TabularPolicy):
    """A Nash equilibrium: the first seat's value, and one table for both seats, whose observations never coincide."""

    value: float


class _InformationSet(NamedTuple):
    """An information set of a seat, with the numbers of the seat's sequences before and after its actions."""

    parent: int  # the sequence that leads to it
    sequences: list[int]  # for each of `actions`, the sequence that ends with it
    observation: bytes
    actions: list[int]  # the legal ones


@dataclass
class _SeatSequences:
    """The information sets of one seat, and its sequences, numbered from 1 in the order of play; 0 is the empty one."""

    info_sets: list[_InformationSet] = field(default_factory=list)
    observations: set[bytes] = field(default_factory=set)  # of these information sets
    count: int = 1  # number of sequences

    def flow_constraints(self) -> csr_array:
        """Return the flow constraints, float64 [1 + information sets, sequences].

        Row 0 sets the weight of the empty sequence to 1; in the others, inflow and outflow of a set are equal.
        """
        rows, columns, signs = [0], [0], [1.0]
        for k, info_set in enumerate(self.info_sets, start=1):
            rows += [k] * (len(info_set.sequences) + 1)
            columns += [info_set.parent, *info_set.sequences]
            signs += [-1.0, *[1.0] * len(info_set.sequences)]
        return csr_array((signs, (rows, columns)), shape=(1 + len(self.info_sets), self.count))


def solve(world: World | str) -> Equilibrium:
    """Return an equilibrium of a zero-sum world with perfect recall.

    Perfect recall: an observation determines all earlier observations and actions of its seat.

    Raises:
        ValueError: the world is not zero-sum, a position can be reached in two ways, an observation does not
            determine the seat's earlier ones, or the linear program has no solution. For games without hidden
            information use `best_response.minimax_value`.
    """
    game = build_game_tree(world)
    if not game.world.zero_sum:
        raise ValueError(f"{game.world.name} does not promise to be zero-sum")
    first, second, payoff = _sequences_and_payoff(game)
    first_flow, second_flow = first.flow_constraints(), second.flow_constraints()
    # Maximize v[0], the first seat's return against a best response, over its weights x and over v, subject to
    # second_flow' v <= payoff' x and first_flow x = (1, 0, ..). The variables are x, then v.
    cost = np.zeros(first.count + second_flow.shape[0])
    cost[first.count] = -1.0
    upper = hstack([-payoff.T, second_flow.T])
    equal = hstack([first_flow, csr_array((first_flow.shape[0], second_flow.shape[0]))])
    equal_to = np.eye(1, first_flow.shape[0]).ravel()
    bounds = [(0, None)] * first.count + [(None, None)] * second_flow.shape[0]
    solution = linprog(
        cost, A_ub=upper, b_ub=np.zeros(second.count), A_eq=equal, b_eq=equal_to, bounds=bounds, method="highs"
    )
    if not solution.success:
        raise ValueError(f"{game.world.name}: {solution.message}")
    first_probs = _action_probs(first, solution.x[: first.count], game)
    # The dual of the first seat's program is the second seat's: its variables are the weights of that seat's sequences.
    second_probs = _action_probs(second, -solution.ineqlin.marginals, game)
    return Equilibrium(first_probs | second_probs, float(-solution.fun))


def _sequences_and_payoff(game: GameTree) -> tuple[_SeatSequences, _SeatSequences, csr_array]:
    """Return both seats' sequences, and the expected reward of the first seat for each pair, [first's, second's]."""
    seats = (_SeatSequences(), _SeatSequences())
    sequence = np.zeros((len(game.chance_probs), 2), np.int64)  # [P, 2], each seat's sequence in each position
    chance_probs = game.chance_probs  # float64 [P], the probability of what chance has done on the way to each position
    payments: list[tuple[Floats, Array]] = []  # of each layer: rewards [E] times chance, and pairs of sequences [E, 2]
    for layer in game.layers:
        next_sequence = _add_information_sets(game, layer, sequence, seats)
        after = sequence[layer.parent]  # int64 [E, 2], each seat's sequence after the move
        info_set, seat_to_move = layer.info_set[layer.parent], layer.seat_to_move[layer.parent]
        after[np.arange(len(after)), seat_to_move] = next_sequence[info_set, layer.action]
        payments.append((chance_probs[layer.parent] * layer.rewards[:, 0], after))
        continues = layer.child >= 0
        size = int(layer.child.max(initial=-1)) + 1
        if continues.sum() != size:
            raise ValueError(f"{game.world.name} reaches positions in several ways: see best_response.minimax_value")
        sequence, next_chance_probs = np.zeros((size, 2), np.int64), np.zeros(size)
        sequence[layer.child[continues]] = after[continues]
        next_chance_probs[layer.child[continues]] = chance_probs[layer.parent][continues]
        chance_probs = next_chance_probs
    rewards, pairs = np.concatenate([r for r, _ in payments]), np.concatenate([p for _, p in payments])
    shape = (seats[0].count, seats[1].count)
    return (*seats, coo_array((rewards, (pairs[:, 0], pairs[:, 1])), shape=shape).tocsr())


def _add_information_sets(
    game: GameTree, layer: GameTreeLayer, sequence: Array, seats: tuple[_SeatSequences, _SeatSequences]
) -> Array:
    """Add a layer's information sets and their sequences to the seats; return the new sequences, int64 [I, S].

    `sequence`, int64 [P, 2], is each seat's sequence in each position of the layer. Raises ValueError where a seat has
    an observation that does not determine its sequence.
    """
    next_sequence = np.zeros(layer.action_mask.shape, np.int64)
    for k, (observation, action_mask) in enumerate(zip(layer.observations, layer.action_mask, strict=True)):
        rows = np.flatnonzero(layer.info_set == k)
        seat = int(layer.seat_to_move[rows[0]])
        own, key, parents = seats[seat], observation.tobytes(), np.unique(sequence[rows, seat])
        if len(parents) > 1 or key in own.observations:
            agent = game.world.agents[seat]
            raise ValueError(f"{game.world.name}: what {agent} observes does not determine its earlier observations")
        actions = [int(a) for a in np.flatnonzero(action_mask)]
        sequences = list(range(own.count, own.count + len(actions)))
        own.count += len(actions)
        own.observations.add(key)
        own.info_sets.append(_InformationSet(int(parents[0]), sequences, key, actions))
        next_sequence[k, actions] = sequences
    return next_sequence


def _action_probs(seat: _SeatSequences, weights: Floats, game: GameTree) -> dict[bytes, Floats]:
    """Return the action probabilities of each information set, from the weights of sequences, float64 [sequences].

    They are uniform in sets that have no weight.
    """
    policy = {}
    for info_set in seat.info_sets:
        probs = np.zeros(game.layers[0].action_mask.shape[1])
        own = np.maximum(weights[info_set.sequences], 0.0)
        probs[info_set.actions] = own / own.sum() if own.sum() > _MIN_WEIGHT else 1 / len(info_set.sequences)
        policy[info_set.observation] = probs
    return policy
