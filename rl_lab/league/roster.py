"""A learner's opponents: the league's learners as they are now, the anchors, and whoever has been frozen since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..agent import Agent
from ..batch import Worlds
from ..chance import choices
from ..rivals import Rivals
from ..world import Array
from .actors import Actors, Asked, Dice


class Roster(Rivals):
    """Rivals some of whom are `actors` and decide together; they draw their actions, a world's own, from the seed.

    Of `agents`, None is an actor: the k-th of them is actor k. As long as there are no actors, they move at random.
    """

    actors: Actors | Asked | None = None
    _worlds: Worlds | None = None
    _dice: Dice

    def __init__(self, agents: Sequence[Agent | None]) -> None:
        super().__init__([])
        self._actor = np.zeros(0, np.int64)  # of each rival, -1 where it is none
        for agent in agents:
            self.add(agent)

    def add(self, agent: Agent | None) -> None:
        """Let somebody join; nobody meets it before `chances` say so."""
        number = int((self._actor >= 0).sum()) if agent is None else -1
        self._actor = np.append(self._actor, number)
        self.agents.append(_Seatless() if agent is None else agent)
        self.chances = np.append(self.chances, 0.0)
        if agent is not None and self._worlds is not None:
            agent.attend(self._worlds)

    def replace(self, number: int, agent: Agent) -> None:
        """Put another in a rival's place."""
        self.agents[number], self._actor[number] = agent, -1
        if self._worlds is not None:
            agent.attend(self._worlds)

    def cut(self, count: int) -> None:
        """Let only the first so many stay."""
        self.agents, self._actor, self.chances = self.agents[:count], self._actor[:count], self.chances[:count]

    def seed(self, seed: int, first: int, worlds: Worlds) -> None:
        """See `Rivals.seed`."""
        self._dice = Dice(seed, first, *worlds.active.shape)

    def attend(self, worlds: Worlds) -> None:
        """See `Rivals.attend`."""
        self._worlds = worlds
        super().attend(worlds)

    def decide(self, worlds: Worlds, rows: Array, who: Array, *, deterministic: bool) -> None:
        """See `Rivals.decide`."""
        acting = self._actor[who] >= 0
        if acting.any():
            own = rows[acting]
            legal = worlds.legal.reshape(worlds.active.size, -1)[own] if worlds.world.masked else None
            observations = worlds.observations.reshape(worlds.active.size, *worlds.observations.shape[2:])[own]
            if self.actors is not None:
                chances = self.actors.probabilities(observations, self._actor[who[acting]], legal)
            else:
                count = int(worlds.world.action.n)  # type: ignore[union-attr]  # a league's actions are discrete
                allowed = np.ones((len(own), count)) if legal is None else legal.astype(np.float64)
                chances = allowed / allowed.sum(axis=1, keepdims=True)
            chosen = chances.argmax(axis=1) if deterministic else choices(chances, self._dice.throw(own))
            worlds.actions.reshape(worlds.active.size)[own] = chosen
        if not acting.all():
            super().decide(worlds, rows[~acting], who[~acting], deterministic=deterministic)

    def snapshot(self) -> dict[str, Array]:
        """See `Rivals.snapshot`; with how often each row has drawn."""
        return {**super().snapshot(), "thrown": self._dice.thrown.copy()}

    def restore(self, snapshot: dict[str, Array]) -> None:
        """See `Rivals.restore`."""
        super().restore(snapshot)
        thrown, own = snapshot.get("thrown"), self._dice.thrown
        if thrown is None or thrown.shape != own.shape or thrown.dtype != own.dtype:
            raise ValueError("snapshot of another game: it does not say what its rivals have drawn")
        own[...] = thrown


class _Seatless:
    """Stands for an actor, whom nobody asks one by one."""

    name = "actor"

    def attend(self, worlds: Worlds) -> None:
        """It needs nothing of them."""

    def act(self, observations: Array, **_: Any) -> tuple[Array, Any]:
        raise NotImplementedError("actors decide together")
