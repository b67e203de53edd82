"""The whole of a small game, grown from a world's own rules: every position, every move, and every deal of chance.

Chance is enumerated where a world's reset draws integers; a world whose step draws, or that draws other numbers, is
refused. Positions that agree in all but their random stream are one.

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

from .. import rng, worlds
from ..engine import Batch
from ..kernel import link
from ..record import PlainRecord
from ..search import draws
from ..world import Array, World
from .results import Floats, Ints

MOST_POSITIONS = 200_000
_STREAM = ("rng_key", "rng_counter")


@dataclass(frozen=True)
class Layer:
    """The positions after so many moves, and every move from them.

    An information set is what the mover of a position observes: it cannot tell its positions apart.
    """

    states: Array  # State [P]
    mover: Ints  # [P], a seat
    info: Ints  # [P], the position's information set
    observations: Array  # [I, *shape], the mover's
    legal: Array  # uint8 [I, S]
    parent: Ints  # [E]: the position that a move was made in
    action: Ints  # [E]
    child: Ints  # [E]: the position of the next layer that it led to, -1 where it ended the game
    rewards: Floats  # [E, 2]


@dataclass(frozen=True)
class Tree:
    """A world's game: its first layer's positions have probabilities `chance` [P]."""

    world: World
    chance: Floats
    layers: tuple[Layer, ...]

    @property
    def positions(self) -> int:
        """Return how many positions there are that are not ends."""
        return sum(len(layer.states) for layer in self.layers)


def tree(world: World | str) -> Tree:
    """Return the whole game of a world, or of the world of this name, with its default parameters; kept once grown.

    Raises ValueError for a world that is not one of two agents who take turns, that has more than MOST_POSITIONS
    positions, or whose chance cannot be enumerated.
    """
    return _grow(worlds.load(world) if isinstance(world, str) else world)


@cache
def _grow(world: World) -> Tree:
    if len(world.agents) != 2 or not world.turns or not isinstance(world.action, Discrete):
        raise ValueError(f"{world.name} is not a game of two who take turns to choose from a few actions")
    if draws(world.step) or (world.legal and draws(world.legal)):
        raise ValueError(f"{world.name}'s step draws random numbers, which are not enumerated")
    dealt = list(_deals(world))
    states = np.concatenate([state for state, _ in dealt])
    roots, first, merged = _distinct(states)
    chance = np.bincount(merged, [probability for _, probability in dealt])
    states, layers, count = states[first], [], 0
    while len(states):
        count += len(states)
        if count > MOST_POSITIONS:
            raise ValueError(f"{world.name} has more than {MOST_POSITIONS:,} positions")
        layer, states = _moves(world, states)
        layers.append(layer)
    return Tree(world, chance, tuple(layers))


def put(world: World, states: Array) -> Batch:
    """Return a batch of worlds in these states, [N]."""
    batch = Batch(world, len(states), threads=1, autoreset=AutoresetMode.DISABLED)
    batch.reset()
    batch.states[...] = states
    batch.observe()
    return batch


def _moves(world: World, states: Array) -> tuple[Layer, Array]:
    """Return the layer of these positions, and the positions of the next."""
    before, mover = put(world, states), states[world.turns].astype(np.int64)
    rows = np.arange(len(states))
    observed, legal = before.observations[rows, mover].copy(), before.legal[rows, mover].copy()
    if not world.masked:
        assert isinstance(world.action, Discrete)
        legal = np.ones((len(states), int(world.action.n)), np.uint8)
    first, info = _same(mover, observed)
    parent, action = np.nonzero(legal)
    after = put(world, states[parent])
    after.actions[np.arange(len(parent)), mover[parent]] = action
    after.step()
    child, going = np.full(len(parent), -1), np.flatnonzero(~after.ended)
    kept = going[:0]
    if len(going):
        _, where, merged = _distinct(after.states[going])
        child[going], kept = merged, going[where]
    rewards = after.rewards.astype(np.float64)
    layer = Layer(states, mover, info, observed[first], legal[first], parent, action, child, rewards)
    return layer, after.states[kept].copy()


def _distinct(states: Array) -> tuple[Array, Ints, Ints]:
    """Return the different states [D], random stream aside, their indices [D], and which one each is, [N]."""
    names = [name for name in states.dtype.names or () if name not in _STREAM]
    first, merged = _same(*(np.asarray(states[name]) for name in names))
    return states[first], first, merged


def _same(*columns: Array) -> tuple[Ints, Ints]:
    """Return the first row of each kind, [D], and each row's kind, [N]: alike in all columns [N, ...]."""
    n = len(columns[0])
    parts = [np.ascontiguousarray(column).reshape(n, -1).view(np.uint8).reshape(n, -1) for column in columns]
    rows = np.ascontiguousarray(np.concatenate(parts, axis=1))
    _, first, kind = np.unique(rows.view(f"V{rows.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    return first, kind.reshape(-1)


def _deals(world: World) -> Iterator[tuple[Array, float]]:
    """Yield every state, [1], that reset can lead to, and its probability: reset runs once for each way to draw."""
    script: list[list[int]] = []  # of each draw so far: what was drawn, of how many
    drawn = 0

    def integers(s: Any, n: Any) -> int:
        nonlocal drawn
        if drawn == len(script):
            script.append([0, int(n)])
        drawn += 1
        return script[drawn - 1][0]

    def unknown(*_: Any) -> Any:
        return object()  # may be dropped, but nothing can be computed with it

    replaced: dict[Any, Any] = {rng.integers: integers}
    replaced |= {kernel: unknown for kernel in (rng.bits, rng.uniform, rng.normal)}
    reset, params = link(world.reset, lambda function: function, replaced), PlainRecord(world.Params()[0])
    while True:
        drawn, state = 0, world.State.zeros(1)
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
