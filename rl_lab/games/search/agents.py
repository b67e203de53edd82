"""This module has search agents: they continue a game in copies of a world's state, in compiled code.

`MctsAgent` and `AlphaBetaAgent` are made by `agents/mcts.py` and `agents/minimax.py`. They read the full state and call
the world's kernels, so they are for two agents that take turns, without chance or hidden cards; `require_searchable`
verifies this. `compile_search` compiles a file of `templates/` for a world. A search reads the states of the batch that
the agent is bound to, and writes only the agent's own buffers (`workspace`).
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from rl_lab.core.endless_loops import LoopError
from rl_lab.core.kernel import reachable_kernels
from rl_lab.core.protocols import BatchedEnv, EnvSpec
from rl_lab.core.record import PlainRecord
from rl_lab.core.stop_flag import check_flag, flag_address
from rl_lab.core.world import Array, World, WorldError
from rl_lab.engine import compiler
from rl_lab.engine.batch import Batch
from rl_lab.games.search.workspace import ANSWER, NODE, PLY, TABLE_ENTRY, AlphaBetaBuffers, MctsBuffers, SearchBuffers

SEEDS = 2**63  # number of valid seeds
NUM_COMPARED_RESETS = 64  # resets whose states are compared, to find whether reset draws random numbers
MAX_PLIES = 512
MAX_NODES = 2**22  # most rows of a tree; when they are used up, leaves get no children
# Seconds of all searches of a call, below which starting a thread costs more than it saves.
MIN_THREADED_SECONDS = 2e-3


class SearchAgent:
    """The base class of agents that search from the current state of every environment in which an agent is to move.

    The same state with the same seed has the same answer, whatever the batch size and the number of threads. The state
    includes its world's random stream, so that environments of a batch play different games.

    Subclasses set `name` and `template`, a file of `templates/`, and implement `num_states` and `algorithm_buffers`.
    """

    name: str
    template: str

    def __init__(self, world: EnvSpec, seed: int, max_playout_length: int) -> None:
        if not 0 <= seed < SEEDS or max_playout_length < 0:
            raise ValueError(f"seed={seed}, longest={max_playout_length}: expected at least 0")
        require_searchable(self.name, world)
        self.seed, self.max_playout_length = seed, max_playout_length
        self.envs: Batch | None = None

    def is_row_wise(self, *, deterministic: bool) -> bool:
        """See `Agent`."""
        return True

    def bind(self, envs: BatchedEnv) -> None:
        """Bind the batch, whose states are the roots of the searches, and allocate the buffers of each thread."""
        world = require_searchable(self.name, envs.world, getattr(envs, "params", None))
        assert isinstance(envs, Batch)
        self.envs, self._search = envs, compile_search(world, self.template).search
        # The buffers of each thread: those of every search, and those of this agent's search.
        self._buffers = [(self._search_buffers(envs), self.algorithm_buffers(world)) for _ in range(envs.threads)]
        self._seconds_per_search = 0.0  # measured in the last call

    def _search_buffers(self, envs: Batch) -> SearchBuffers:
        world, count = envs.world, self.num_states(envs.world)
        states = world.State.zeros(count)
        return SearchBuffers(
            roots=envs.states.view(np.uint64).reshape(envs.num_envs, -1),
            params=envs.params,
            horizon=world.horizon,
            seed=np.uint64(self.seed),
            max_playout_length=self.max_playout_length or 2**62,  # no limit
            states=states,
            words=states.view(np.uint64).reshape(count, -1),
            mask=np.zeros(world.mask_size, np.uint8),
            rewards=np.zeros(2, np.float32),
            rng_state=np.zeros(1, np.uint64),
            stop_address=flag_address(),
        )

    def num_states(self, world: World) -> int:
        """Return how many states a search holds at a time."""
        raise NotImplementedError

    def algorithm_buffers(self, world: World) -> Any:
        """Return new buffers that this search needs besides `SearchBuffers`: `MctsBuffers` or `AlphaBetaBuffers`."""
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
        actions[moving] = self.search_envs(rows[moving] // 2, deterministic=deterministic)["action"]
        return actions, None

    def search_envs(self, env_indices: Array, *, deterministic: bool = True) -> Array:
        """Return records ANSWER [R] for the agents that are to move in environments `env_indices`, int64 [R].

        The searches are divided among the batch's threads where they take long enough.
        """
        answers, begin = np.zeros(len(env_indices), ANSWER), time.perf_counter()
        is_slow = self._seconds_per_search * len(env_indices) > MIN_THREADED_SECONDS
        thread_buffers = self._buffers[: len(env_indices) if is_slow else 1]

        def search(thread: int) -> None:
            buffers, algorithm_buffers = thread_buffers[thread]
            if isinstance(algorithm_buffers, MctsBuffers):
                algorithm_buffers = algorithm_buffers._replace(greedy=deterministic)
            indices = np.asarray(env_indices, np.int64)
            try:
                self._search(indices, thread, len(thread_buffers), buffers, algorithm_buffers, answers)
            except LoopError as error:
                raise WorldError(str(error)) from None

        if len(thread_buffers) < 2:
            for thread in range(len(thread_buffers)):
                search(thread)
        else:
            # Compiled code releases the interpreter's lock. numba's own threads would compile the search once more.
            with ThreadPoolExecutor(len(thread_buffers)) as pool:
                list(pool.map(search, range(len(thread_buffers))))
        check_flag()  # raises if the user has interrupted: the answers are then not complete
        self._seconds_per_search = (time.perf_counter() - begin) * len(thread_buffers) / max(len(env_indices), 1)
        return answers


class MctsAgent(SearchAgent):
    """Monte Carlo tree search, see `templates/mcts.py`. Where not deterministic, it samples actions by their visits."""

    name = template = "mcts"
    samples_on_request = True  # where not deterministic; it is measured by its best actions alone

    def __init__(
        self, world: EnvSpec, seed: int, max_playout_length: int, simulations: int, exploration: float
    ) -> None:
        if not 1 <= simulations <= MAX_NODES:
            raise ValueError(f"simulations={simulations}: expected 1 to {MAX_NODES}")
        if not 0 <= exploration < np.inf:
            raise ValueError(f"exploration={exploration}: expected a number of at least 0")
        self.simulations, self.exploration = simulations, float(exploration)
        super().__init__(world, seed, max_playout_length)

    def num_states(self, world: World) -> int:
        """Return the states of all simulations, the root, and one for playouts."""
        return self.simulations + 2

    def algorithm_buffers(self, world: World) -> MctsBuffers:
        """Return the tree with as many rows as it can need; the system provides memory only where it is written to."""
        nodes = np.zeros(min(1 + self.simulations * int(world.action.n), MAX_NODES), NODE)  # type: ignore[union-attr]
        return MctsBuffers(nodes, self.simulations, self.exploration, True)


class AlphaBetaAgent(SearchAgent):
    """Minimax by alpha-beta search, see `templates/alphabeta.py`; it has the name `minimax` on the command line."""

    name, template = "minimax", "alphabeta"

    def __init__(
        self, world: EnvSpec, seed: int, max_playout_length: int, depth: int, nodes: int, playouts: int
    ) -> None:
        if min(depth, nodes, playouts) < 0:
            raise ValueError(f"depth={depth}, nodes={nodes}, playouts={playouts}: expected at least 0")
        self.depth, self.nodes, self.playouts = depth, nodes, playouts
        super().__init__(world, seed, max_playout_length)

    def plies(self, world: World) -> int:
        """Return the depth limit in plies."""
        return min(self.depth or world.horizon or MAX_PLIES, MAX_PLIES)

    def num_states(self, world: World) -> int:
        """Return the states of all plies, the root, and one for playouts."""
        return self.plies(world) + 2

    def algorithm_buffers(self, world: World) -> AlphaBetaBuffers:
        """Return the stack of plies and the transposition table, all zeros."""
        plies, actions = self.plies(world) + 1, int(world.action.n)  # type: ignore[union-attr]
        return AlphaBetaBuffers(
            plies=np.zeros(plies, PLY),
            legal_actions=np.zeros((plies, actions), np.int32),
            transpositions=np.zeros(2**16, TABLE_ENTRY),
            cutoff_weights=np.zeros((2, actions), np.int64),
            root_values=np.zeros(actions),
            best_root_actions=np.zeros(actions, np.int64),
            counters=np.zeros(3, np.int64),
            max_nodes=self.nodes,
            num_playouts=self.playouts,
        )


def require_searchable(agent: str, world: EnvSpec, params: Array | None = None) -> World:
    """Return the world. Raises ValueError where `agent` cannot search it, with these parameters or the default ones.

    `agent` is the agent's name, for the message.
    """
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
    """Return whether a kernel, or one that it calls, uses random numbers, that is, the fields of the random stream."""
    return any({"rng_key", "rng_counter"} & set(kernel.__code__.co_names) for kernel in reachable_kernels(function))


def has_random_reset(world: World, params: Array) -> bool:
    """Return whether any of TRIALS episodes with parameters `params[0]` begin in different states."""
    if not is_stochastic(world.reset):
        return False
    starts = world.State.zeros(NUM_COMPARED_RESETS)
    starts["rng_key"] = np.arange(NUM_COMPARED_RESETS)
    for start in starts:
        world.reset(PlainRecord(start), PlainRecord(params[0]))
    starts["rng_key"] = starts["rng_counter"] = 0  # the number of random numbers that reset has used is no difference
    return len({start.tobytes() for start in starts}) > 1


@cache
def compile_search(world: World, template: str) -> ModuleType:
    """Return the compiled functions of `mcts.py` or `alphabeta.py` over this world's kernels."""
    templates = ("games/search/templates/primitives", f"games/search/templates/{template}")
    sources = ("games/search/workspace", "engine/atomics")
    return compiler.specialize(world, f"{world.name}-{template}", templates, ("step", "action_mask"), sources)
