"""Play many matches at once in one batch. The result of a match does not depend on the other matches."""

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
from rl_lab.tournament.code_loading import LONGEST_LOAD
from rl_lab.tournament.entrant_calls import EntrantRunner
from rl_lab.tournament.entrant_guard import seed_generators
from rl_lab.tournament.entrants import Entrant, make
from rl_lab.tournament.functions import CodeAgent
from rl_lab.tournament.schedule import Task, hash_bits
from rl_lab.tournament.session import MatchResult, Session

_NUM_ENVS, _NUM_FOREIGN_ENVS = 1024, 8  # matches at a time
# Matches at a time where an entrant acts for one row after the other. More would only delay the first results.
_NUM_SLOW_ENVS = 128
_MAX_OBSERVATION_BYTES = 2**26  # approximate limit of a batch


@dataclass(frozen=True)
class MatchSetup:
    """Everything besides its task that a match depends on; it is sent to worker processes."""

    world: str
    params: dict[str, Any]
    entrants: tuple[Entrant, ...]
    seed: int  # of the tournament
    random_opening_moves: int = 0  # number of random steps at the start, the same in all legs of a pair
    timeout: float = 0.0  # limit of processor time for a move in seconds, 0 for no limit
    code: user_code.UserCode | None = None  # the code of a user's world, which may run in workers too


class MatchEngine:
    """The world and the agents of a tournament's entrants, which play matches.

    With `code` False, entrants that are user code are left out; `only` selects entrants by name. Raises UsageError
    where an entrant cannot play this world.
    """

    def __init__(
        self,
        setup: MatchSetup,
        *,
        only: set[str] | None = None,
        code: bool = True,
        call_record: CallRecord | None = None,
    ) -> None:
        self.setup, self.call_record = setup, call_record or CallRecord()
        if setup.code is not None:
            user_code.permit(setup.code)
        envs = make_batch(setup.world, 1, setup.params, threads=1)
        self.world, self.version = envs.world, version(envs.world)
        envs.close()
        self.entrants = {each.name: each for each in setup.entrants if only is None or each.name in only}
        self.agents = {
            name: self._make_code(each) if each.kind == "function" else make(each, self.world)
            for name, each in self.entrants.items()
            if code or each.kind != "function"
        }

    def _make_code(self, entrant: Entrant) -> Any:
        """Make an entrant that is user code, whose import and constructor draw the same numbers in every process."""
        with preserve_global_rng():
            seed_generators(hash_bits("entrant", self.setup.seed, entrant.name), 0)
            self.call_record.begin(-1, time.monotonic() + LONGEST_LOAD)
            try:
                return make(entrant, self.world)
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

    def warm(self) -> None:
        """Compile what is compiled at its first use, so that no entrant's time includes it; user code is not run."""
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


def version(world: EnvSpec) -> str:
    """Return a fingerprint of a world's rules, which is the same in every process."""
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
