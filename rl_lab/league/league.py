"""A league: learners of three roles, who play each other and the pool of what they were. One resumable whole.

Each learner drives its own worlds, in which it has a seat and the league's players have the others; they advance in
turn, an iteration each. So anything that keeps to `agent.Learner` can be a member.

Source: Vinyals et al. 2019; what differs is named where it does
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..agent import Agent, Learner, Saved
from ..batch import Worlds
from ..seated import Seated
from ..team import joined, split
from .actors import Actors, Layers, layers_of
from .config import LeagueConfig
from .pool import Member, Pool
from .report import report
from .roster import Roster
from .selection import WinTable
from .whom import Numbers, ready, whom_to_play

_PLAY, _RESET = 0, 1  # what a generator is for, among the numbers it is made of


@dataclass
class Player:
    """A learner in the league."""

    name: str
    role: str
    view: Seated
    roster: Roster
    learner: Learner
    generation: int = 0  # how often it has begun anew
    past: int = 0  # steps of the generations before
    since: int = 0  # steps after which it was frozen last

    @property
    def steps(self) -> int:
        """Its steps in all generations."""
        return self.past + self.learner.steps


class League:
    """A learner made of learners. Rivals are numbered alike for all: learners, then anchors, then the pool's members.

    Args: `make(view, budget, seed)` returns a learner at some seats of worlds, `load(saved)` the agent that one saved;
    `seat(k, roster)` new worlds for learner k, whose opponents these are; `anchors()` a fresh set of agents that need
    no training; `settings` are the learners' hyperparameters.
    """

    def __init__(
        self,
        config: LeagueConfig,
        make: Callable[[Worlds, int, int], Learner],
        load: Callable[[Saved], Agent],
        seat: Callable[[int, Roster], Seated],
        anchors: Callable[[], Sequence[Agent]],
        *,
        settings: Any,
        budget: int,
        seed: int,
    ) -> None:
        roles = config.learners()
        self.config, self.settings, self.seed = config, settings, seed
        self._make, self._load = make, load
        self._budget = -(-budget // len(roles))  # of each
        self.pool, self.table, self.iteration = Pool(), WinTable(len(roles)), 0
        self.actors: Actors | None = None
        self.players: list[Player] = []
        self._spent: dict[str, float] = {}  # by generations that are over
        for index, (name, role) in enumerate(roles.items()):
            roster = Roster([*[None] * len(roles), *(own := anchors())])
            roster.chances[0] = 1.0  # the first episodes begin before anybody is there to be chosen
            self.anchors = [agent.name for agent in own]
            view = seat(index, roster)
            self.players.append(Player(name, role, view, roster, make(view, self._budget, seed + index)))
        self._first_member = len(roles) + len(self.anchors)
        first = self.players[0]
        if layers_of(first.learner.save_agent().tensors, settings, first.view.world) is not None:
            self.actors = Actors(settings.activation)
        for player in self.players:
            player.roster.actors = self.actors
        self._show()
        self.table.grow(self._first_member)

    def settle(self, run: Path) -> None:
        """Keep the pool in this run's folder."""
        self.pool.run = run

    @property
    def how(self) -> str:
        """See `Learner.how`."""
        return "; ".join(dict.fromkeys(player.learner.how for player in self.players))

    @property
    def steps(self) -> int:
        """Steps of all learners together, in all generations."""
        return sum(player.steps for player in self.players)

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went."""
        spent = dict(self._spent)
        for player in self.players:
            for key, value in player.learner.seconds.items():
                spent[key] = spent.get(key, 0.0) + value
        return spent

    def advance(self) -> dict[str, float]:
        """Let every learner collect and learn once, then freeze who is ready; metrics carry the learner's name.

        Opponents that learn, too, are as they were when the iteration began.
        """
        self._show()
        metrics: dict[str, float] = {}
        for index, player in enumerate(self.players):
            numbers, rates = self._numbers(), self.table.win_rates(index)
            generator = np.random.default_rng((self.seed, self.iteration, index, _PLAY))
            player.roster.chances = whom_to_play(player.role, rates, numbers, self.config, generator)
            values = player.learner.advance()
            results = player.view.results()
            self.table.add(index, results.sum(axis=1))
            metrics |= {f"{player.name}/{key}": value for key, value in values.items()}
            names = [*(other.name for other in self.players), *self.anchors]
            told = report(player.view, self.table, index, names, results)
            metrics |= {f"{player.name}/{key}": value for key, value in told.items()}
        for index, player in enumerate(self.players):
            since, rates = player.steps - player.since, self.table.win_rates(index)
            if ready(player.role, since, rates, self._numbers(), self.config):
                self._freeze(index)
        self.iteration += 1
        metrics["league/members"] = len(self.pool.members)
        main = f"{self.players[0].name}/rollout/return"
        return {**metrics, "rollout/return": metrics[main]} if main in metrics else metrics

    def _show(self) -> None:
        """Let everybody meet the learners as they are now."""
        for number, player in enumerate(self.players):
            if self.actors is not None:
                self.actors.put(number, self._layers(player.learner.save_agent()))
                continue
            for other in self.players:
                other.roster.replace(number, player.learner.agent())

    def _layers(self, saved: Saved) -> Layers:
        layers = layers_of(saved.tensors, self.settings, self.players[0].view.world)
        if layers is None:
            raise ValueError("an agent of the league is of another architecture")
        return layers

    def _numbers(self) -> Numbers:
        roles, frozen = {player.name: player.role for player in self.players}, self._first_member
        total = frozen + len(self.pool.members)
        owners = [roles[member.name] for member in self.pool.members]
        return Numbers(
            total,
            mains=[k for k, player in enumerate(self.players) if player.role == "main"],
            pool=range(len(self.players), total),
            frozen_mains=[frozen + k for k, role in enumerate(owners) if role == "main"],
            frozen_main_exploiters=[frozen + k for k, role in enumerate(owners) if role == "main_exploiter"],
        )

    def _freeze(self, index: int) -> None:
        """Let a copy of a learner join the pool, and an exploiter begin anew where its role says so."""
        player = self.players[index]
        self.pool.freeze(player.name, self.steps, player.learner.save_agent())
        self._join(self.pool.members[-1])
        player.since = player.steps
        chance = {"main": 0.0, "main_exploiter": 1.0, "league_exploiter": self.config.reset}[player.role]
        if np.random.default_rng((self.seed, self.iteration, index, _RESET)).random() < chance:
            for key, value in player.learner.seconds.items():
                self._spent[key] = self._spent.get(key, 0.0) + value
            player.past = player.steps
            self._begin_anew(index, player.generation + 1)
            self.table.forget(index)

    def _begin_anew(self, index: int, generation: int) -> None:
        """Give a player another learner, whose seed is its generation's own."""
        player = self.players[index]
        player.generation, seed = generation, (self.seed + index + len(self.players) * generation) % 2**31
        player.learner = self._make(player.view, self._budget, seed)

    def _join(self, member: Member) -> None:
        number = len(self.players) + self.pool.members.index(member)
        if self.actors is not None:
            self.actors.put(number, self._layers(member.saved))
        for player in self.players:
            player.roster.add(None if self.actors is not None else self._load(member.saved))
        self.table.grow(self._first_member + len(self.pool.members))

    def agent(self) -> Agent:
        """Return the first main agent as it is now."""
        return self.players[0].learner.agent()

    def save_agent(self) -> Saved:
        """Return the first main agent's state."""
        return self.players[0].learner.save_agent()

    def save(self) -> Saved:
        """Return every learner's state, the table, and which members the pool has: they have files of their own."""
        learners = joined({player.name: player.learner.save() for player in self.players})
        counts = {p.name: [p.generation, p.past, p.since] for p in self.players}
        state = {"learners": learners.state, "counts": counts, "members": self.pool.listed()}
        tensors = {**learners.tensors, "league": {"games": self.table.games}}
        return Saved(tensors, {**state, "iteration": self.iteration})

    def recall(self, state: Any) -> None:
        """Bring the pool's members back, before the worlds they play in are restored. ValueError where they are not.

        Learners that had begun anew do so again: what one draws from its seed is no part of its state.
        """
        self.pool.recall(state.get("members"), [player.name for player in self.players])
        for player in self.players:
            player.roster.cut(self._first_member)
        members, self.pool.members = self.pool.members, []
        for member in members:
            self.pool.members.append(member)
            self._join(member)
        for index, player in enumerate(self.players):
            generation = state["counts"][player.name][0]
            if not 0 <= _whole(generation) < 2**31:
                raise ValueError("the league's counters are no counters")
            if generation != player.generation:
                self._begin_anew(index, generation)

    def restore(self, saved: Saved) -> None:
        """Go on from `save`; the pool and the worlds have been restored already."""
        state, games = saved.state, saved.tensors["league"]["games"]
        numbers = [state["iteration"], *(n for player in self.players for n in state["counts"][player.name])]
        if not all(0 <= _whole(n) < 2**62 for n in numbers):
            raise ValueError("the league's counters are no counters")
        wanted = (len(self.players), self._first_member + len(self.pool.members), 3)
        if games.shape != wanted or games.dtype != np.float64 or not (np.isfinite(games) & (games >= 0)).all():
            raise ValueError("the league's table of games does not fit")
        self.iteration, self.table.games = state["iteration"], games
        parts = split(Saved(saved.tensors, state["learners"]), [player.name for player in self.players])
        for player in self.players:
            _, player.past, player.since = state["counts"][player.name]
            player.learner.restore(parts[player.name])


def _whole(value: Any) -> int:
    """Return a whole number as it is, -1 for anything else."""
    return value if type(value) is int else -1
