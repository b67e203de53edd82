"""This module builds the complete game tree of a small world: every position, every move and every random reset.

`build_game_tree` is the entry point. It steps batches of the world, one layer of the tree after another, and caches the
trees of a process. `best_response`, `sequence_form` and `tabular_policy` compute on them, and only read them.

A world's reset may use random integers, which are enumerated; worlds with other random numbers, or with random steps,
are not supported. Positions that differ only in their random stream are merged.

Shapes: P positions of a layer, E moves made from them, I information sets, S actions, D groups of equal rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode

from rl_lab.core import rng
from rl_lab.core.kernel import compile_kernel_graph
from rl_lab.core.record import PlainRecord
from rl_lab.core.world import Array, World
from rl_lab.core.world_errors import StuckError
from rl_lab.engine import world_registry
from rl_lab.engine.batch import Batch
from rl_lab.games.search.agents import is_stochastic
from rl_lab.rating.results import Floats, Ints

MAX_POSITIONS = 200_000
_RNG_FIELDS = ("rng_key", "rng_counter")  # of a State: its random stream


@dataclass(frozen=True)
class GameTreeLayer:
    """The positions after a number of moves, and every move from them.

    An information set is a set of positions in which the same seat is to move and has the same observation.
    """

    states: Array  # State [P]
    seat_to_move: Ints  # [P], the seat to move
    info_set: Ints  # [P], the position's information set, 0 to I - 1
    observations: Array  # [I, *shape], of the seat to move
    action_mask: Array  # uint8 [I, S], of the seat to move
    parent: Ints  # [E], the position in which the move is made
    action: Ints  # [E]
    child: Ints  # [E], the next layer's position to which the move leads, -1 if it ends the game
    rewards: Floats  # [E, 2]


@dataclass(frozen=True)
class GameTree:
    """The game tree of a world; `chance_probs`, [P], has the probabilities of the positions of the first layer."""

    world: World
    chance_probs: Floats
    layers: tuple[GameTreeLayer, ...]

    @property
    def positions(self) -> int:
        """Return the number of positions in which the game is not over."""
        return sum(len(layer.states) for layer in self.layers)


def build_game_tree(world: World | str) -> GameTree:
    """Return the game tree of a world with default parameters; `world` may be a name. Trees are cached.

    Raises:
        ValueError: the world is not one of two agents that take turns, has more than MAX_POSITIONS positions, or has
            random numbers that cannot be enumerated.
        StuckError: a seat that is to move has no legal action in a position.
    """
    return _build_cached(world_registry.load(world) if isinstance(world, str) else world)


@cache
def _build_cached(world: World) -> GameTree:
    """Build the tree; see `build_game_tree`."""
    if len(world.agents) != 2 or not world.current_player_field or not isinstance(world.action, Discrete):
        raise ValueError(
            f"{world.name} is not a game of two agents that take turns and choose from finitely many actions"
        )
    if is_stochastic(world.step) or (world.action_mask and is_stochastic(world.action_mask)):
        raise ValueError(f"{world.name}'s step draws random numbers, which are not enumerated")
    resets = list(_enumerate_resets(world))
    states = np.concatenate([state for state, _ in resets])
    first, group_of = _merge_positions(states)
    chance_probs = np.bincount(group_of, [probability for _, probability in resets])
    states, layers, count = states[first], [], 0
    while len(states):
        count += len(states)
        if count > MAX_POSITIONS:
            raise ValueError(f"{world.name} has more than {MAX_POSITIONS:,} positions")
        layer, states = _expand(world, states)
        layers.append(layer)
    return GameTree(world, chance_probs, tuple(layers))


def batch_from_states(world: World, states: Array) -> Batch:
    """Return a new batch of worlds in these states, [N], which are copied, with their observations and masks."""
    batch = Batch(world, len(states), threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    batch.states[...] = states
    batch.observe()
    return batch


def _expand(world: World, states: Array) -> tuple[GameTreeLayer, Array]:
    """Return the layer of these positions, and the states of the next layer."""
    before, seat_to_move = batch_from_states(world, states), states[world.current_player_field].astype(np.int64)
    rows = np.arange(len(states))
    position_observations = before.observations[rows, seat_to_move].copy()
    position_masks = before.action_mask[rows, seat_to_move].copy()
    if not world.has_action_mask:
        assert isinstance(world.action, Discrete)
        position_masks = np.ones((len(states), int(world.action.n)), np.uint8)
    if not (can_move := position_masks.any(axis=1)).all():
        stuck = int(np.argmin(can_move))
        raise StuckError(world.name, world.agents[seat_to_move[stuck]], int(states["t"][stuck]))
    first, info_set = _group_equal_rows(seat_to_move, position_observations)
    # All moves are made at once, by a batch with a world for each of them.
    parent, action = np.nonzero(position_masks)
    after = batch_from_states(world, states[parent])
    after.actions[np.arange(len(parent)), seat_to_move[parent]] = action
    after.step()
    child, unfinished = np.full(len(parent), -1), np.flatnonzero(~after.done)
    representatives = unfinished[:0]
    if len(unfinished):
        first_rows, group_of = _merge_positions(after.states[unfinished])
        child[unfinished], representatives = group_of, unfinished[first_rows]
    rewards = after.rewards.astype(np.float64)
    observations, action_mask = position_observations[first], position_masks[first]  # one of each information set
    layer = GameTreeLayer(states, seat_to_move, info_set, observations, action_mask, parent, action, child, rewards)
    return layer, after.states[representatives].copy()


def _merge_positions(states: Array) -> tuple[Ints, Ints]:
    """Group states [N] that differ at most in their random streams, as `_group_equal_rows` does."""
    names = [name for name in states.dtype.names or () if name not in _RNG_FIELDS]
    return _group_equal_rows(*(np.asarray(states[name]) for name in names))


def _group_equal_rows(*columns: Array) -> tuple[Ints, Ints]:
    """Return the first row of each group [D], and each row's group [N]; rows of a group are equal in all columns."""
    n = len(columns[0])
    parts = [np.ascontiguousarray(column).reshape(n, -1).view(np.uint8).reshape(n, -1) for column in columns]
    rows = np.ascontiguousarray(np.concatenate(parts, axis=1))
    rows_as_bytes = rows.view(f"V{rows.shape[1]}")[:, 0]
    _, first, group_of = np.unique(rows_as_bytes, return_index=True, return_inverse=True)
    return first, group_of.reshape(-1)


def _enumerate_resets(world: World) -> Iterator[tuple[Array, float]]:
    """Yield every state, [1], that reset can make, and its probability.

    Reset runs in plain Python once for each combination of random integers, with `rng.integers` replaced by a function
    that returns the next combination's values. Combinations are counted up like the digits of a number, the last
    integer fastest, because how many values it has, or whether it is drawn at all, may depend on those before it.
    """
    digits: list[list[int]] = []  # of each random integer: its value in this combination, and the number of values
    num_drawn = 0  # random integers drawn in this run of reset

    def integers(s: Any, n: Any) -> int:
        nonlocal num_drawn
        if num_drawn == len(digits):
            digits.append([0, int(n)])
        num_drawn += 1
        return digits[num_drawn - 1][0]

    def not_enumerated(*_: Any) -> Any:
        # Arithmetic with it, comparing it by order, or storing it as a number raises TypeError. Ignoring it does not.
        return object()

    replacements: dict[Any, Any] = {rng.integers: integers}
    replacements |= {kernel: not_enumerated for kernel in (rng.bits, rng.uniform, rng.normal)}
    reset = compile_kernel_graph(world.reset, lambda function: function, replacements)
    params = PlainRecord(world.Params()[0])
    while True:
        num_drawn, state = 0, world.State.zeros(1)
        try:
            reset(PlainRecord(state[0]), params)
        except TypeError as error:
            raise ValueError(f"{world.name}'s reset draws numbers that are not enumerated: {error}") from None
        yield state, float(np.prod([1.0 / n for _, n in digits]))
        while digits and digits[-1][0] == digits[-1][1] - 1:
            digits.pop()
        if not digits:
            return
        digits[-1][0] += 1
