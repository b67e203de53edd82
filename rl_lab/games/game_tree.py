"""This module builds the complete game tree of a small world: every position, every move and every random reset.

A world's reset may use random integers, which are enumerated; worlds with other random numbers, or with random steps,
are not supported. Positions that differ only in their random stream are merged.

Shapes: P positions of a layer, E moves made from them, I information sets, S actions.
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

MOST_POSITIONS = 200_000
_STREAM = ("rng_key", "rng_counter")


@dataclass(frozen=True)
class Layer:
    """The positions after a number of moves, and every move from them.

    An information set is a set of positions in which the same seat is to move and has the same observation.
    """

    states: Array  # State [P]
    mover: Ints  # [P], the seat to move
    info: Ints  # [P], the position's information set
    observations: Array  # [I, *shape], of the seat to move
    action_mask: Array  # uint8 [I, S]
    parent: Ints  # [E], the position in which the move is made
    action: Ints  # [E]
    child: Ints  # [E], the next layer's position to which the move leads, -1 if it ends the game
    rewards: Floats  # [E, 2]


@dataclass(frozen=True)
class GameTree:
    """The game tree of a world; the positions of its first layer have probabilities `chance` [P]."""

    world: World
    chance: Floats
    layers: tuple[Layer, ...]

    @property
    def positions(self) -> int:
        """Return the number of positions in which the game is not over."""
        return sum(len(layer.states) for layer in self.layers)


def tree(world: World | str) -> GameTree:
    """Return the game tree of a world with default parameters; `world` may be a name. Trees are cached.

    Raises:
        ValueError: the world is not one of two agents that take turns, has more than MOST_POSITIONS positions, or has
            random numbers that cannot be enumerated.
    """
    return _build(world_registry.load(world) if isinstance(world, str) else world)


@cache
def _build(world: World) -> GameTree:
    if len(world.agents) != 2 or not world.current_player_field or not isinstance(world.action, Discrete):
        raise ValueError(
            f"{world.name} is not a game of two agents that take turns and choose from finitely many actions"
        )
    if is_stochastic(world.step) or (world.action_mask and is_stochastic(world.action_mask)):
        raise ValueError(f"{world.name}'s step draws random numbers, which are not enumerated")
    resets = list(_enumerate_resets(world))
    states = np.concatenate([state for state, _ in resets])
    _, first, merged = _distinct(states)
    chance = np.bincount(merged, [probability for _, probability in resets])
    states, layers, count = states[first], [], 0
    while len(states):
        count += len(states)
        if count > MOST_POSITIONS:
            raise ValueError(f"{world.name} has more than {MOST_POSITIONS:,} positions")
        layer, states = _expand(world, states)
        layers.append(layer)
    return GameTree(world, chance, tuple(layers))


def batch_from_states(world: World, states: Array) -> Batch:
    """Return a batch of worlds in these states, [N]."""
    batch = Batch(world, len(states), threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    batch.states[...] = states
    batch.observe()
    return batch


def _expand(world: World, states: Array) -> tuple[Layer, Array]:
    """Return the layer of these positions, and the states of the next layer."""
    before, mover = batch_from_states(world, states), states[world.current_player_field].astype(np.int64)
    rows = np.arange(len(states))
    observed, action_mask = before.observations[rows, mover].copy(), before.action_mask[rows, mover].copy()
    if not world.has_action_mask:
        assert isinstance(world.action, Discrete)
        action_mask = np.ones((len(states), int(world.action.n)), np.uint8)
    if not (can_move := action_mask.any(axis=1)).all():
        stuck = int(np.argmin(can_move))
        raise StuckError(world.name, world.agents[mover[stuck]], int(states["t"][stuck]))
    first, info = _group(mover, observed)
    parent, action = np.nonzero(action_mask)
    after = batch_from_states(world, states[parent])
    after.actions[np.arange(len(parent)), mover[parent]] = action
    after.step()
    child, unfinished = np.full(len(parent), -1), np.flatnonzero(~after.done)
    representatives = unfinished[:0]
    if len(unfinished):
        _, first_rows, merged = _distinct(after.states[unfinished])
        child[unfinished], representatives = merged, unfinished[first_rows]
    rewards = after.rewards.astype(np.float64)
    layer = Layer(states, mover, info, observed[first], action_mask[first], parent, action, child, rewards)
    return layer, after.states[representatives].copy()


def _distinct(states: Array) -> tuple[Array, Ints, Ints]:
    """Return the states that differ in more than their random streams [D], their indices [D], and all groups [N]."""
    names = [name for name in states.dtype.names or () if name not in _STREAM]
    first, merged = _group(*(np.asarray(states[name]) for name in names))
    return states[first], first, merged


def _group(*columns: Array) -> tuple[Ints, Ints]:
    """Return the first row of each group [D], and each row's group [N]; rows of a group are equal in all columns."""
    n = len(columns[0])
    parts = [np.ascontiguousarray(column).reshape(n, -1).view(np.uint8).reshape(n, -1) for column in columns]
    rows = np.ascontiguousarray(np.concatenate(parts, axis=1))
    _, first, kind = np.unique(rows.view(f"V{rows.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    return first, kind.reshape(-1)


def _enumerate_resets(world: World) -> Iterator[tuple[Array, float]]:
    """Yield every state, [1], that reset can make, and its probability; reset runs once for each combination."""
    script: list[list[int]] = []  # for each random integer: its value, and the number of values
    count = 0

    def integers(s: Any, n: Any) -> int:
        nonlocal count
        if count == len(script):
            script.append([0, int(n)])
        count += 1
        return script[count - 1][0]

    def unknown(*_: Any) -> Any:
        return object()  # reset may ignore it, but any computation with it raises TypeError

    replaced: dict[Any, Any] = {rng.integers: integers}
    replaced |= {kernel: unknown for kernel in (rng.bits, rng.uniform, rng.normal)}
    reset, params = (
        compile_kernel_graph(world.reset, lambda function: function, replaced),
        PlainRecord(world.Params()[0]),
    )
    while True:
        count, state = 0, world.State.zeros(1)
        try:
            reset(PlainRecord(state[0]), params)
        except TypeError as error:
            raise ValueError(f"{world.name}'s reset draws numbers that are not enumerated: {error}") from None
        yield state, float(np.prod([1.0 / n for _, n in script]))
        while script and script[-1][0] == script[-1][1] - 1:
            script.pop()
        if not script:
            return
        script[-1][0] += 1
