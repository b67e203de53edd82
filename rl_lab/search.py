"""Search: agents that look ahead by playing on in copies of a world's state, compiled once a world.

They see the whole state and know its rules, so they are for two agents who take turns, without chance or hidden cards.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from . import compiler
from .batch import WorldInfo, Worlds
from .desk import ANSWER, ENTRY, NODE, PLY, Board, Desk, Tree
from .engine import Batch
from .kernel import reached
from .record import PlainRecord
from .world import Array, World

SEEDS = 2**63
TRIALS = 64  # resets, to see whether they differ
LONGEST_LINE = 512  # plies looked ahead at most
MOST_NODES = 2**22  # rows of a tree: beyond it leaves stay leaves
WORTH_THREADS = 2e-3  # seconds that searches take in all, below which to begin a thread costs more than it saves


class SearchAgent:
    """Answers for the agents whose move it is. The same state with the same seed has the same answer.

    The state includes its world's random stream, so that worlds of a batch play different games; batch size and threads
    change nothing.
    """

    name: str
    template: str

    def __init__(self, world: WorldInfo, seed: int, longest: int) -> None:
        if not 0 <= seed < SEEDS or longest < 0:
            raise ValueError(f"seed={seed}, longest={longest}: expected at least 0")
        searchable(self.name, world)
        self.seed, self.longest = seed, longest
        self.worlds: Batch | None = None

    def attend(self, worlds: Worlds) -> None:
        """Keep the batch, whose states are searched from, and lay out what each thread needs."""
        world = searchable(self.name, worlds.world, getattr(worlds, "params", None))
        assert isinstance(worlds, Batch)
        self.worlds, self._search = worlds, program(world, self.template).search
        self._seats = [(self._desk(worlds), self.room(world)) for _ in range(worlds.threads)]
        self._cost = 0.0  # seconds that one search took lately

    def _desk(self, worlds: Batch) -> Desk:
        world, count = worlds.world, self.states_needed(worlds.world)
        roots, states = worlds.states.view(np.uint64).reshape(worlds.n, -1), world.State.zeros(count)
        words, mask = states.view(np.uint64).reshape(count, -1), np.zeros(world.mask_size, np.uint8)
        seed, rewards, stream = np.uint64(self.seed), np.zeros(2, np.float32), np.zeros(1, np.uint64)
        longest = self.longest or 2**62
        return Desk(roots, worlds.params, world.horizon, seed, longest, states, words, mask, rewards, stream)

    def states_needed(self, world: World) -> int:
        """Return how many states a search holds at a time."""
        raise NotImplementedError

    def room(self, world: World) -> Any:
        """Return a Tree or a Board."""
        raise NotImplementedError

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        legal: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`; call `attend` first. Whoever has not the move gets action 0."""
        if self.worlds is None:
            raise ValueError(f"agent {self.name} attends its worlds before it acts")
        rows = np.arange(self.worlds.active.size) if rows is None else np.asarray(rows)
        actions, moving = np.zeros(len(rows), np.int64), self.worlds.active.ravel()[rows]
        actions[moving] = self.answers(rows[moving] // 2, deterministic=deterministic)["action"]
        return actions, None

    def answers(self, which: Array, *, deterministic: bool = True) -> Array:
        """Return records ANSWER [R] for the movers of worlds `which`, int64 [R], that are under way."""
        answers, begin = np.zeros(len(which), ANSWER), time.perf_counter()
        seats = self._seats[: len(which) if self._cost * len(which) > WORTH_THREADS else 1]

        def search(k: int) -> None:
            desk, room = seats[k]
            room = room._replace(greedy=deterministic) if isinstance(room, Tree) else room
            self._search(np.asarray(which, np.int64), k, len(seats), desk, room, answers)

        if len(seats) < 2:
            for k in range(len(seats)):
                search(k)
        else:
            # Compiled code lets go of the interpreter's lock. numba's own threads would compile the search once more.
            with ThreadPoolExecutor(len(seats)) as pool:
                list(pool.map(search, range(len(seats))))
        self._cost = (time.perf_counter() - begin) * len(seats) / max(len(which), 1)
        return answers


class UctAgent(SearchAgent):
    """Monte Carlo tree search, see `uct.py`. Where not deterministic it plays as often as it visited."""

    name, template = "mcts", "uct"

    def __init__(self, world: WorldInfo, seed: int, longest: int, simulations: int, exploration: float) -> None:
        if not 1 <= simulations <= MOST_NODES:
            raise ValueError(f"simulations={simulations}: expected 1 to {MOST_NODES}")
        if not 0 <= exploration < np.inf:
            raise ValueError(f"exploration={exploration}: expected a number of at least 0")
        self.simulations, self.exploration = simulations, float(exploration)
        super().__init__(world, seed, longest)

    def states_needed(self, world: World) -> int:
        """One a simulation, the root's, and one to play on from."""
        return self.simulations + 2

    def room(self, world: World) -> Tree:
        """Return the tree; memory that is never written to costs nothing."""
        nodes = np.zeros(min(1 + self.simulations * int(world.action.n), MOST_NODES), NODE)  # type: ignore[union-attr]
        return Tree(nodes, self.simulations, self.exploration, True)


class AlphaBetaAgent(SearchAgent):
    """Minimax, see `alphabeta.py`."""

    name, template = "minimax", "alphabeta"

    def __init__(self, world: WorldInfo, seed: int, longest: int, depth: int, nodes: int, playouts: int) -> None:
        if min(depth, nodes, playouts) < 0:
            raise ValueError(f"depth={depth}, nodes={nodes}, playouts={playouts}: expected at least 0")
        self.depth, self.nodes, self.playouts = depth, nodes, playouts
        super().__init__(world, seed, longest)

    def plies(self, world: World) -> int:
        """Return how many plies may be looked ahead."""
        return min(self.depth or world.horizon or LONGEST_LINE, LONGEST_LINE)

    def states_needed(self, world: World) -> int:
        """One a ply, the root's, and one to play on from."""
        return self.plies(world) + 2

    def room(self, world: World) -> Board:
        """Return the board."""
        plies, actions = self.plies(world) + 1, int(world.action.n)  # type: ignore[union-attr]
        return Board(
            np.zeros(plies, PLY),
            np.zeros((plies, actions), np.int32),
            np.zeros(2**16, ENTRY),
            np.zeros((2, actions), np.int64),
            np.zeros(actions),
            np.zeros(actions, np.int64),
            np.zeros(3, np.int64),
            self.nodes,
            self.playouts,
        )


def searchable(agent: str, world: WorldInfo, params: Array | None = None) -> World:
    """Return the world. Raises ValueError where `agent` cannot search it, with these parameters or the default ones."""
    if not isinstance(world, World):
        raise ValueError(f"agent {agent} plays only the lab's own worlds, not {world.name}")
    if len(world.agents) != 2 or not world.turns:
        raise ValueError(f"agent {agent} is for two agents who take turns: {world.name} is no such world")
    if not world.zero_sum:
        raise ValueError(f"agent {agent} is for zero-sum worlds, and {world.name} does not promise to be one")
    if draws(world.step) or (world.legal and draws(world.legal)):
        raise ValueError(f"agent {agent} cannot look ahead in {world.name}: its step draws random numbers")
    perfect = world.perfect_information  # what the author says, if anything
    if perfect is None and deals(world, np.asarray(world.Params()) if params is None else params):
        promise = "World(..., perfect_information=True) says that it is not"
        raise ValueError(f"agent {agent} must not look into {world.name}: what reset draws may be hidden; {promise}")
    if perfect is False:
        raise ValueError(f"agent {agent} must not look into {world.name}: it has hidden information")
    return world


def draws(function: Any) -> bool:
    """Say whether a kernel, or one that it calls, reads its world's random stream."""
    return any({"rng_key", "rng_counter"} & set(each.__code__.co_names) for each in reached(function))


def deals(world: World, params: Array) -> bool:
    """Say whether episodes with parameters `params[0]` begin differently, judged by TRIALS of them."""
    if not draws(world.reset):
        return False
    starts = world.State.zeros(TRIALS)
    starts["rng_key"] = np.arange(TRIALS)
    for start in starts:
        world.reset(PlainRecord(start), PlainRecord(params[0]))
    starts["rng_key"] = starts["rng_counter"] = 0  # to have drawn is no difference
    return len({start.tobytes() for start in starts}) > 1


@cache
def program(world: World, template: str) -> ModuleType:
    """Return the compiled functions of `uct.py` or `alphabeta.py` over this world's kernels."""
    more = {"Desk": Desk, "Tree": Tree, "Board": Board}
    name, templates = f"{world.name}-{template}", ("playout", template)
    return compiler.program(world, name, templates, ("step", "legal"), more, sources=("desk",))
