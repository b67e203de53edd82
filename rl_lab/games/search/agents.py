"""Search: agents that look ahead by continuing the game in copies of a world's state, compiled for each world.

They read the full state and use the world's kernels, so they are for two agents that take turns, without chance or
hidden cards.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from rl_lab.core.endless_loops import LoopError
from rl_lab.core.interrupts import check_flag, flag_address
from rl_lab.core.kernel import reachable_kernels
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.core.record import PlainRecord
from rl_lab.core.world import Array, World, WorldError
from rl_lab.engine import compiler
from rl_lab.engine.batch import Batch
from rl_lab.games.search.workspace import ANSWER, FRAME, NODE, TT_ENTRY, AlphaBetaBuffers, MctsBuffers, SearchBuffers

SEEDS = 2**63
TRIALS = 64  # resets that are compared
LONGEST_LINE = 512  # maximum of plies
MOST_NODES = 2**22  # maximum of rows of a tree; beyond it, leaves get no children
WORTH_THREADS = 2e-3  # seconds of all searches together, below which starting a thread costs more than it saves


class SearchAgent:
    """Searches for the agents that are to move. The same state with the same seed has the same answer.

    The state includes its world's random stream, so that worlds of a batch play different games; batch size and threads
    change nothing.
    """

    name: str
    template: str

    def __init__(self, world: EnvSpec, seed: int, max_playout_length: int) -> None:
        if not 0 <= seed < SEEDS or max_playout_length < 0:
            raise ValueError(f"seed={seed}, longest={max_playout_length}: expected at least 0")
        searchable(self.name, world)
        self.seed, self.max_playout_length = seed, max_playout_length
        self.envs: Batch | None = None

    def is_row_wise(self, *, deterministic: bool) -> bool:
        """See `Agent`."""
        return True

    def bind(self, envs: BatchedEnv) -> None:
        """Bind the batch, whose states are the roots of the searches, and allocate the buffers of each thread."""
        world = searchable(self.name, envs.world, getattr(envs, "params", None))
        assert isinstance(envs, Batch)
        self.envs, self._search = envs, specialize(world, self.template).search
        self._buffers = [(self._thread_buffers(envs), self.room(world)) for _ in range(envs.threads)]
        self._cost = 0.0  # seconds of one search in the last call

    def _thread_buffers(self, envs: Batch) -> SearchBuffers:
        world, count = envs.world, self.states_needed(envs.world)
        roots, states = envs.states.view(np.uint64).reshape(envs.num_envs, -1), world.State.zeros(count)
        words, mask = states.view(np.uint64).reshape(count, -1), np.zeros(world.mask_size, np.uint8)
        seed, rewards, stream = np.uint64(self.seed), np.zeros(2, np.float32), np.zeros(1, np.uint64)
        max_playout_length = self.max_playout_length or 2**62
        settings = (world.horizon, seed, max_playout_length)
        return SearchBuffers(roots, envs.params, *settings, states, words, mask, rewards, stream, flag_address())

    def states_needed(self, world: World) -> int:
        """Return how many states a search holds at a time."""
        raise NotImplementedError

    def room(self, world: World) -> Any:
        """Return the memory that this kind of search needs besides SearchBuffers."""
        raise NotImplementedError

    def act(
        self,
        observations: Array,
        *,
        state: Any = None,
        action_mask: Array | None = None,
        rows: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Any]:
        """See `agent.Agent.act`; call `bind` first. Agents that are not to move get action 0."""
        if self.envs is None:
            raise ValueError(f"agent {self.name} must be bound to its environments (`bind`) before it acts")
        rows = np.arange(self.envs.acting.size) if rows is None else np.asarray(rows)
        actions, moving = np.zeros(len(rows), np.int64), self.envs.acting.ravel()[rows]
        actions[moving] = self.answers(rows[moving] // 2, deterministic=deterministic)["action"]
        return actions, None

    def answers(self, which: Array, *, deterministic: bool = True) -> Array:
        """Return records ANSWER [R] for the agents that are to move in environments `which`, int64 [R]."""
        answers, begin = np.zeros(len(which), ANSWER), time.perf_counter()
        buffers_of_threads = self._buffers[: len(which) if self._cost * len(which) > WORTH_THREADS else 1]

        def search(k: int) -> None:
            buffers, room = buffers_of_threads[k]
            room = room._replace(greedy=deterministic) if isinstance(room, MctsBuffers) else room
            try:
                self._search(np.asarray(which, np.int64), k, len(buffers_of_threads), buffers, room, answers)
            except LoopError as error:
                raise WorldError(str(error)) from None

        if len(buffers_of_threads) < 2:
            for k in range(len(buffers_of_threads)):
                search(k)
        else:
            # Compiled code releases the interpreter's lock. numba's own threads would compile the search once more.
            with ThreadPoolExecutor(len(buffers_of_threads)) as pool:
                list(pool.map(search, range(len(buffers_of_threads))))
        check_flag()
        self._cost = (time.perf_counter() - begin) * len(buffers_of_threads) / max(len(which), 1)
        return answers


class MctsAgent(SearchAgent):
    """Monte Carlo tree search, see `templates/mcts.py`. Where not deterministic, it samples actions by their visits."""

    name = template = "mcts"
    samples_on_request = True  # where not deterministic; it is measured by its best actions alone

    def __init__(
        self, world: EnvSpec, seed: int, max_playout_length: int, simulations: int, exploration: float
    ) -> None:
        if not 1 <= simulations <= MOST_NODES:
            raise ValueError(f"simulations={simulations}: expected 1 to {MOST_NODES}")
        if not 0 <= exploration < np.inf:
            raise ValueError(f"exploration={exploration}: expected a number of at least 0")
        self.simulations, self.exploration = simulations, float(exploration)
        super().__init__(world, seed, max_playout_length)

    def states_needed(self, world: World) -> int:
        """Return the states of all simulations, the root, and one for playouts."""
        return self.simulations + 2

    def room(self, world: World) -> MctsBuffers:
        """Return the tree; memory that is never written to costs nothing."""
        nodes = np.zeros(min(1 + self.simulations * int(world.action.n), MOST_NODES), NODE)  # type: ignore[union-attr]
        return MctsBuffers(nodes, self.simulations, self.exploration, True)


class AlphaBetaAgent(SearchAgent):
    """Minimax, see `templates/alphabeta.py`."""

    name, template = "minimax", "alphabeta"

    def __init__(
        self, world: EnvSpec, seed: int, max_playout_length: int, depth: int, nodes: int, playouts: int
    ) -> None:
        if min(depth, nodes, playouts) < 0:
            raise ValueError(f"depth={depth}, nodes={nodes}, playouts={playouts}: expected at least 0")
        self.depth, self.nodes, self.playouts = depth, nodes, playouts
        super().__init__(world, seed, max_playout_length)

    def plies(self, world: World) -> int:
        """Return the maximum of plies."""
        return min(self.depth or world.horizon or LONGEST_LINE, LONGEST_LINE)

    def states_needed(self, world: World) -> int:
        """Return the states of all plies, the root, and one for playouts."""
        return self.plies(world) + 2

    def room(self, world: World) -> AlphaBetaBuffers:
        """Return the stack of plies and the table of positions."""
        plies, actions = self.plies(world) + 1, int(world.action.n)  # type: ignore[union-attr]
        return AlphaBetaBuffers(
            np.zeros(plies, FRAME),
            np.zeros((plies, actions), np.int32),
            np.zeros(2**16, TT_ENTRY),
            np.zeros((2, actions), np.int64),
            np.zeros(actions),
            np.zeros(actions, np.int64),
            np.zeros(3, np.int64),
            self.nodes,
            self.playouts,
        )


def searchable(agent: str, world: EnvSpec, params: Array | None = None) -> World:
    """Return the world. Raises ValueError where `agent` cannot search it, with these parameters or the default ones."""
    if not isinstance(world, World):
        raise ValueError(f"agent {agent} plays only the lab's own worlds, not {world.name}")
    if len(world.agents) != 2 or not world.current_player_field:
        raise ValueError(f"agent {agent} is for two agents that take turns: {world.name} is no such world")
    if not world.zero_sum:
        raise ValueError(f"agent {agent} is for zero-sum worlds, and {world.name} does not promise to be one")
    if is_stochastic(world.step) or (world.action_mask and is_stochastic(world.action_mask)):
        raise ValueError(f"agent {agent} cannot look ahead in {world.name}: its step draws random numbers")
    perfect = world.perfect_information  # None where the world's author has not declared it
    if perfect is None and has_random_reset(world, np.asarray(world.Params()) if params is None else params):
        promise = "World(..., perfect_information=True) says that it is not"
        raise ValueError(f"agent {agent} must not look into {world.name}: what reset draws may be hidden; {promise}")
    if perfect is False:
        raise ValueError(f"agent {agent} must not look into {world.name}: it has hidden information")
    return world


def is_stochastic(function: Any) -> bool:
    """Return whether a kernel, or one that it calls, reads its world's random stream."""
    return any({"rng_key", "rng_counter"} & set(each.__code__.co_names) for each in reachable_kernels(function))


def has_random_reset(world: World, params: Array) -> bool:
    """Return whether any of TRIALS episodes with parameters `params[0]` begin in different states."""
    if not is_stochastic(world.reset):
        return False
    starts = world.State.zeros(TRIALS)
    starts["rng_key"] = np.arange(TRIALS)
    for start in starts:
        world.reset(PlainRecord(start), PlainRecord(params[0]))
    starts["rng_key"] = starts["rng_counter"] = 0  # the number of random numbers that reset has used is no difference
    return len({start.tobytes() for start in starts}) > 1


@cache
def specialize(world: World, template: str) -> ModuleType:
    """Return the compiled functions of `mcts.py` or `alphabeta.py` over this world's kernels."""
    templates = ("games/search/templates/primitives", f"games/search/templates/{template}")
    sources = ("games/search/workspace", "engine/atomics")
    return compiler.specialize(world, f"{world.name}-{template}", templates, ("step", "action_mask"), sources)
