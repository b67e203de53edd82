"""This module has the `MatchEngine`, which plays matches in the current process, many at once in one batch.

`workers` and `worker` call `play` with tasks and get a result for each. The result of a match does not depend on which
other matches are played, nor on their order. Playing makes a new batch; it preserves the global random generators and
sets torch to one thread for that time (`_single_threaded`). Nothing is written to disk.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from rl_lab.adapters.make import is_foreign
from rl_lab.adapters.make import make as make_batch
from rl_lab.core.kernel import fingerprint
from rl_lab.core.protocols import EnvSpec
from rl_lab.core.random_actions import write_random_actions
from rl_lab.core.world import World
from rl_lab.engine import user_code
from rl_lab.evaluation.evaluate import preserve_global_rng
from rl_lab.games.search.agents import SearchAgent
from rl_lab.tournament.call_record import CallRecord
from rl_lab.tournament.code_loading import MAX_LOAD_SECONDS
from rl_lab.tournament.entrant_calls import EntrantRunner
from rl_lab.tournament.entrant_guard import seed_global_rngs
from rl_lab.tournament.entrants import Entrant, make_agent
from rl_lab.tournament.functions import CodeAgent
from rl_lab.tournament.schedule import Task, hash_bits
from rl_lab.tournament.session import MatchResult, Session

# Matches at a time: in the lab's own worlds; in environments of Gymnasium and PettingZoo; and where an entrant acts for
# one row after the other, so that more would only delay the first results.
_NUM_ENVS, _NUM_FOREIGN_ENVS, _NUM_SLOW_ENVS = 1024, 8, 128
_MAX_OBSERVATION_BYTES = 2**26  # approximate limit of a batch's observations


@dataclass(frozen=True)
class MatchSetup:
    """Everything besides its task that a match depends on; it is sent to worker processes."""

    world: str
    params: dict[str, Any]
    entrants: tuple[Entrant, ...]
    seed: int  # of the tournament
    random_opening_moves: int = 0  # number of random steps at the start, the same in all matches of a pair
    timeout: float = 0.0  # limit of processor time for a move in seconds, 0 for no limit
    code: user_code.UserCode | None = None  # the code of a user's world, which may run in workers too


class MatchEngine:
    """The world and the agents of a tournament's entrants, which play matches.

    Args:
        setup: what the matches depend on besides their tasks.
        load_code: whether to import entrants that are user code; without it, they are left out and their matches cannot
            be played.
        call_record: the record of calls to entrants; by default a new one in this process's own memory.

    Raises:
        UsageError: an entrant cannot play this world.
    """

    def __init__(
        self,
        setup: MatchSetup,
        *,
        load_code: bool = True,
        call_record: CallRecord | None = None,
    ) -> None:
        self.setup, self.call_record = setup, call_record or CallRecord()
        if setup.code is not None:
            user_code.permit(setup.code)
        envs = make_batch(setup.world, 1, setup.params, threads=1)
        self.world, self.version = envs.world, world_version(envs.world)
        envs.close()
        self.entrants = {each.name: each for each in setup.entrants}
        self.agents = {
            name: self._make_code(each) if each.kind == "function" else make_agent(each, self.world)
            for name, each in self.entrants.items()
            if load_code or each.kind != "function"
        }

    def _make_code(self, entrant: Entrant) -> Any:
        """Make an entrant that is user code, whose import and constructor draw the same numbers in every process."""
        with preserve_global_rng():
            seed_global_rngs(hash_bits("entrant", self.setup.seed, entrant.name), 0)
            self.call_record.begin(-1, time.monotonic() + MAX_LOAD_SECONDS)  # -1: no seat
            try:
                return make_agent(entrant, self.world)
            finally:
                self.call_record.end()

    def play(
        self, tasks: Sequence[Task], *, num_envs: int | None = None, poll: Callable[[], None] | None = None
    ) -> Iterator[MatchResult]:
        """Yield the matches as they end; `poll` is called before every step.

        At most `num_envs` matches are played at a time; the default depends on the world and the entrants.

        Raises:
            EndlessEpisodeError, StuckError, NonFiniteError: as in `Session.play`; these are errors of the world.
        """
        if not tasks:
            return
        with _single_threaded():
            n = min(num_envs or self._default_num_envs(), len(tasks))
            envs = make_batch(self.setup.world, n, self.setup.params, autoreset=AutoresetMode.DISABLED, threads=1)
            try:
                yield from Session(self, envs, tasks).play(poll)
            finally:
                envs.close()

    def compile_ahead(self) -> None:
        """Play one step, so that what is compiled at its first use is compiled; user code is not run.

        Otherwise the time of the first moves would include it.
        """
        with _single_threaded():
            envs = make_batch(self.setup.world, 1, self.setup.params, autoreset=AutoresetMode.DISABLED, threads=1)
            envs.reset()
            rows, clock = np.flatnonzero(envs.acting), np.zeros(1, np.int64)
            keys = np.zeros(envs.acting.size, np.uint64)
            for agent in self.agents.values():
                if not isinstance(agent, CodeAgent):
                    EntrantRunner(agent, envs, keys, clock, 0.0, CallRecord()).request_actions(rows)
            write_random_actions(envs, rows, np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.int64))
            envs.step()
            envs.close()

    def _default_num_envs(self) -> int:
        """Return how many matches are played at a time."""
        if is_foreign(self.setup.world, self.setup.params):
            return _NUM_FOREIGN_ENVS
        if any(isinstance(agent, SearchAgent | CodeAgent) for agent in self.agents.values()):
            return _NUM_SLOW_ENVS
        space = self.world.observation
        size = int(np.prod(space.shape)) * space.low.dtype.itemsize * len(self.world.agents)
        return max(min(_NUM_ENVS, _MAX_OBSERVATION_BYTES // size), 1)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Preserve the global random generators, and limit torch to one thread, because processes run in parallel."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    with preserve_global_rng():
        try:
            if torch:
                torch.set_num_threads(1)
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


def world_version(world: EnvSpec) -> str:
    """Return a fingerprint of a world's rules, which is the same in every process; matches record it."""
    if not isinstance(world, World):
        if (code := user_code.permitted(world.name)) is not None:
            return code.sha256[:20]
        package = world.name.partition(":")[0]
        return hashlib.sha256(json.dumps([world.name, metadata.version(package)]).encode()).hexdigest()[:20]
    settings = [
        world.current_player_field,
        world.alive_field,
        world.horizon,
        world.zero_sum,
        world.illegal_action_reward,
        list(world.agents),
    ]
    records = [repr(record.dtype.descr) for record in (world.State, world.Params)]
    spaces = [repr(space) for space in (*world.observation_spaces, *world.action_spaces)]
    return fingerprint([world.reset, world.step, world.observe, world.action_mask], settings, records, spaces)
