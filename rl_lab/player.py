"""Agents at the seats of a batch of worlds: who decides for which rows. Shapes: N worlds, A agents, B = N x A rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .agent import Agent
from .batch import WorldInfo, Worlds
from .names import nearest
from .world import Array


class Player:
    """Agents at N worlds that do not reset by themselves: their holder says which begin, from which seed.

    `seating`, int64 [N, A], says which of the agents has which seat: the first has all of them until `sit` gives it
    some and the second the others. An agent whose `act` returns a state has one more method,
    `begin(state, fresh) -> state`: the state with the rows where fresh, bool [B], as they are before an episode's
    first step. Where there are several seats, agents must do without.
    """

    def __init__(self, agents: Agent | Sequence[Agent], worlds: Worlds, *, deterministic: bool) -> None:
        self.agents: list[Agent] = list(agents) if isinstance(agents, Sequence) else [agents]
        self.worlds, self.deterministic = worlds, deterministic
        self.seating = np.zeros(worlds.rewards.shape, np.int64)
        self._state: Any = None
        self._attends = False

    def sit(self, world: int, seats: tuple[int, ...]) -> None:
        """Give the first agent these seats of a world and the second, if there is one, the rest."""
        self.seating[world] = len(self.agents) - 1
        self.seating[world, seats] = 0

    def attend(self) -> None:
        """Let the agents take their seats, as they do before the first episode: those that draw begin anew."""
        for agent in self.agents:
            agent.attend(self.worlds)
        self._attends = True

    def begin(self, fresh: Array, seeds: Array) -> None:
        """Begin episodes where fresh, bool [N], from their seeds of int64 [N]; everywhere the first time."""
        self.worlds.seed(seeds)
        self.worlds.reset(fresh)
        if not self._attends:
            self.attend()
        elif self._state is not None:
            begin = getattr(self.agents[0], "begin", None)
            if begin is None:
                raise ValueError(f"agent {self.agents[0].name} returns a state but has no begin(state, fresh)")
            self._state = begin(self._state, fresh)

    def step(self) -> None:
        """Let the agents act and step the worlds; ValueError where actions have another shape or kind."""
        worlds = self.worlds
        if len(worlds.world.agents) > 1:
            for index, agent in enumerate(self.agents):
                rows = np.flatnonzero((self.seating == index) & worlds.active)
                if len(rows):
                    decide(agent, worlds, rows, deterministic=self.deterministic)
        else:
            self._state = decide(self.agents[0], worlds, None, state=self._state, deterministic=self.deterministic)
        worlds.step()


def decide(agent: Agent, worlds: Worlds, rows: Array | None, *, state: Any = None, deterministic: bool) -> Any:
    """Let an agent write the actions of these rows, int64 [R] (None: of all), and return its next state.

    Raises ValueError where its actions have another shape or kind, or where it keeps a state for some rows only.
    """
    observations, legal = (a.reshape(-1, *a.shape[2:]) for a in (worlds.observations, worlds.legal))
    taken = worlds.actions.reshape(-1, *worlds.actions.shape[2:])
    if rows is not None:
        observations, legal = observations[rows], legal[rows]
    asked: dict[str, Any] = {} if rows is None else {"rows": rows}  # an agent for one seat need not know of rows
    if worlds.world.masked:
        asked["legal"] = legal
    given, state = agent.act(observations, state=state, deterministic=deterministic, **asked)
    if rows is not None and state is not None:
        raise ValueError(f"agent {agent.name} keeps a state, which worlds of several agents do not support")
    actions, kinds = np.asarray(given), "iu" if taken.dtype.kind == "i" else "fiu"
    # Assigning would spread one action over all worlds, and cut a fractional one, in silence.
    expected = (len(observations), *taken.shape[1:])
    if actions.shape != expected or actions.dtype.kind not in kinds:
        raise ValueError(
            f"agent {agent.name} returned actions {actions.dtype} {list(actions.shape)}, "
            f"{worlds.world.name} takes {taken.dtype} {list(expected)}"
        )
    if rows is None:
        taken[...] = actions
    else:
        taken[rows] = actions
    return state


def roles_played(world: WorldInfo, wanted: str = "") -> list[tuple[int, ...]]:
    """Return the seats of a role or, in turn from episode to episode, of each: of each agent where all have one role.

    Raises ValueError naming the nearest role, or where a role leaves no seat to anybody else.
    """
    roles = world.roles
    if wanted and wanted not in roles:
        raise ValueError(f"{world.name} has no role {wanted!r}; {nearest(wanted, roles)}")
    if wanted and len(roles) == 1:
        raise ValueError(f"{world.name}: every agent is a {wanted}, none is left for an opponent; leave role= out")
    if len(roles) == 1:
        return [(seat,) for seat in next(iter(roles.values()))]
    return [roles[wanted]] if wanted else list(roles.values())
