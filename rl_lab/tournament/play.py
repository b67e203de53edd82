"""Playing: many matches at once, in the worlds of one batch. How a match comes out depends on itself alone."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from .. import batch
from ..batch import FOREIGN, WorldInfo
from ..chance import move_at_random
from ..evaluate import untouched_generators
from ..kernel import fingerprint
from ..search import SearchAgent
from ..world import World
from .asking import Chair, Mark
from .entrants import Entrant, make
from .functions import FunctionAgent
from .schedule import Task
from .session import Played, Session

_WORLDS, _FOREIGN_WORLDS = 1024, 8
_SLOW_WORLDS = 128  # where somebody thinks about one row after the other: more would only put off the first results
_ROOM = 2**26  # bytes of observations of a batch, about


@dataclass(frozen=True)
class Setup:
    """All that a match depends on besides its task; goes to workers."""

    world: str
    params: dict[str, Any]
    entrants: tuple[Entrant, ...]
    seed: int  # the tournament's
    opening: int = 0  # steps at the start that are random, the same in all legs of a pair
    timeout: float = 0.0  # seconds of processor time a move, 0: none


class Hall:
    """The entrants of a tournament, made and ready. Raises UsageError where one cannot play this world."""

    def __init__(self, setup: Setup, *, only: set[str] | None = None) -> None:
        self.setup, self.mark = setup, Mark()
        one = batch.make(setup.world, 1, setup.params, threads=1)
        self.world, self.version = one.world, version(one.world)
        one.close()
        self.entrants = {each.name: each for each in setup.entrants if only is None or each.name in only}
        self.agents = {name: make(each, self.world) for name, each in self.entrants.items()}

    def play(
        self, tasks: Sequence[Task], *, worlds: int | None = None, look: Callable[[], None] | None = None
    ) -> Iterator[Played]:
        """Yield the matches as they end; `worlds` at a time (what pays off by default), `look` is called every step.

        Raises EndlessEpisodeError and NonFiniteError as `evaluate` does: these are the world's mistakes.
        """
        if not tasks:
            return
        with _alone():
            n = min(worlds or self._worlds(), len(tasks))
            played = batch.make(self.setup.world, n, self.setup.params, autoreset=AutoresetMode.DISABLED, threads=1)
            try:
                yield from Session(self, played, tasks).go(look)
            finally:
                played.close()

    def warm(self) -> None:
        """Let everything that compiles at its first use do so now, at no entrant's expense; code is not run."""
        with _alone():
            worlds = batch.make(self.setup.world, 1, self.setup.params, autoreset=AutoresetMode.DISABLED, threads=1)
            worlds.reset()
            rows, clock = np.flatnonzero(worlds.active), np.zeros(1, np.int64)
            for name, agent in self.agents.items():
                if self.entrants[name].kind != "function":
                    Chair(agent, worlds, np.zeros(worlds.active.size, np.uint64), clock, 0.0, Mark()).ask(rows)
            move_at_random(worlds, rows, np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.int64))
            worlds.step()
            worlds.close()

    def _worlds(self) -> int:
        if self.setup.world.startswith(FOREIGN):
            return _FOREIGN_WORLDS
        if any(isinstance(agent, SearchAgent | FunctionAgent) for agent in self.agents.values()):
            return _SLOW_WORLDS
        space = self.world.observation
        size = int(np.prod(space.shape)) * space.low.dtype.itemsize * len(self.world.agents)
        return max(min(_WORLDS, _ROOM // size), 1)


@contextmanager
def _alone() -> Iterator[None]:
    """Leave everybody's random generators as they are, and torch with one thread: processes run in parallel."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    with untouched_generators():
        try:
            if torch:
                torch.set_num_threads(1)
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


def version(world: WorldInfo) -> str:
    """Return a fingerprint of a world's rules, the same in every process: what a match was played by."""
    if not isinstance(world, World):
        package = world.name.partition(":")[0]
        return hashlib.sha256(json.dumps([world.name, metadata.version(package)]).encode()).hexdigest()[:20]
    said = [world.turns, world.present, world.horizon, world.zero_sum, world.forfeit, list(world.agents)]
    records = [repr(record.dtype.descr) for record in (world.State, world.Params)]
    spaces = [repr(space) for space in (*world.observation_spaces, *world.action_spaces)]
    return fingerprint([world.reset, world.step, world.observe, world.legal], said, records, spaces)
