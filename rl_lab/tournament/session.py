"""A session: tasks on their way through the worlds of one batch, each beginning where another has ended."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..batch import Worlds
from ..chance import move_at_random
from ..evaluate import LONGEST, EndlessEpisodeError
from ..world import Array
from .asking import Chair, Wrong
from .ledger import Fault, Match
from .schedule import Task, drawn

if TYPE_CHECKING:
    from .play import Hall


@dataclass(frozen=True)
class Played:
    """A match and its actions, int64 [T, A] or float32 [T, A, k]: 0 for who did not act."""

    match: Match
    actions: Array


class Session:
    """N worlds, in each of which one match is under way; see `Hall.play`."""

    def __init__(self, hall: Hall, worlds: Worlds, tasks: Sequence[Task]) -> None:
        self.hall, self.worlds, self.waiting = hall, worlds, list(reversed(tasks))
        n, agents = worlds.rewards.shape
        self.names = sorted({name for task in tasks for name in task.entrants})
        self.index = {name: k for k, name in enumerate(self.names)}
        self.seating = np.full((n, agents), -1)  # whose each seat is, by number
        self.keys, self.openings = np.zeros(n * agents, np.uint64), np.zeros(n * agents, np.uint64)
        self.clock, self.busy = np.zeros(n, np.int64), np.zeros(n, np.bool_)
        self.seeds, self.at = np.zeros(n, np.int64), [tasks[0]] * n
        self.taken = np.zeros((n, 64, *worlds.actions.shape[1:]), worlds.actions.dtype)  # [N, T, A], doubled when full
        self.chairs: list[Chair] = []

    def go(self, look: Callable[[], None] | None) -> Iterator[Played]:
        """Play all tasks."""
        self._fill(np.arange(self.worlds.n))
        timeout, mark = self.hall.setup.timeout, self.hall.mark
        for name in self.names:
            self.chairs.append(Chair(self.hall.agents[name], self.worlds, self.keys, self.clock, timeout, mark))
        while self.busy.any():
            if look is not None:
                look()
            free = []
            for slot, match, actions in self._step():
                free.append(slot)
                yield Played(match, actions)
            if free:
                self._fill(np.array(free))

    def _fill(self, slots: Array) -> None:
        """Begin the next matches in these worlds."""
        fresh, agents = np.zeros(self.worlds.n, np.bool_), self.seating.shape[1]
        self.busy[slots] = False
        for slot in slots[: len(self.waiting)].tolist():
            task, rows = self.waiting.pop(), slice(slot * agents, (slot + 1) * agents)
            self.at[slot], self.seeds[slot] = task, task.seed
            self.seating[slot] = [self.index[name] for name in task.entrants]
            seed, seats = self.hall.setup.seed, np.arange(agents, dtype=np.uint64)
            self.keys[rows] = np.uint64(drawn("match", seed, task.id)) + seats
            self.openings[rows] = np.uint64(drawn("opening", seed, *task.pairing, task.pair)) + seats
            fresh[slot] = self.busy[slot] = True
        self.clock[fresh] = 0
        self.worlds.held[...] = ~self.busy
        if fresh.any():
            # The others' seeds do not take hold.
            self.worlds.seed(self.seeds)
            self.worlds.reset(fresh)

    def _step(self) -> list[tuple[int, Match, Array]]:
        """Ask everybody, step the worlds, and return the matches that are over, by world."""
        worlds, agents = self.worlds, self.seating.shape[1]
        acting = worlds.active & self.busy[:, None]
        opening = acting & (self.clock < self.hall.setup.opening)[:, None]
        if opening.any():
            rows = np.flatnonzero(opening)
            move_at_random(worlds, rows, self.openings[rows], self.clock[rows // agents])
        wrong: dict[int, Wrong] = {}
        asked = np.where(acting & ~opening, self.seating, -1).ravel()
        for index, chair in enumerate(self.chairs):
            rows = np.flatnonzero(asked == index)
            if len(rows):
                wrong |= chair.ask(rows)
        lost: dict[int, tuple[int, Wrong]] = {}
        for row in sorted(wrong, reverse=True):  # of several in a match the first seat's counts
            lost[row // agents] = row % agents, wrong[row]
        over = [self._forfeited(slot, *fault) for slot, fault in lost.items()]
        live = self.busy.copy()
        live[list(lost)] = False
        worlds.held[...] = ~live
        self._note(live, acting)
        worlds.step()
        self.clock[live] += 1
        if worlds.world.horizon == 0 and self.clock.max() >= LONGEST:
            raise EndlessEpisodeError(
                f"{worlds.world.name}: a match has not ended after {LONGEST:,} steps; give the world a horizon"
            )
        for slot in np.flatnonzero(live & worlds.ended).tolist():
            ended = "terminated" if worlds.terminated[slot] else "truncated"
            over.append((slot, *self._finished(slot, worlds.episode_returns[slot], ended, None)))
        return over

    def _note(self, live: Array, acting: Array) -> None:
        """Keep the actions that are about to be taken."""
        if self.clock[live].max(initial=0) == self.taken.shape[1]:
            self.taken = np.concatenate([self.taken, np.zeros_like(self.taken)], axis=1)
        actions, worlds = self.worlds.actions, np.flatnonzero(live)
        acted = acting.reshape(*acting.shape, *(1,) * (actions.ndim - 2))
        self.taken[worlds, self.clock[worlds]] = np.where(acted, actions, 0)[worlds]

    def _forfeited(self, slot: int, seat: int, wrong: Wrong) -> tuple[int, Match, Array]:
        """End a match in which somebody was at fault: as an illegal move ends one where the engine counts it a loss."""
        world: Any = self.worlds.world
        own = self.seating[slot] == self.seating[slot, seat]
        price = float(getattr(world, "forfeit", -1.0))
        gain = -price * own.sum() / (~own).sum() if getattr(world, "zero_sum", False) else 0.0
        returns = self.worlds.running_returns[slot] + np.where(own, price, gain)
        fault = Fault(seat, self.at[slot].entrants[seat], *wrong)
        return (slot, *self._finished(slot, returns, "forfeit", fault))

    def _finished(self, slot: int, returns: Array, ended: str, fault: Fault | None) -> tuple[Match, Array]:
        task, hall = self.at[slot], self.hall
        actions = self.taken[slot, : self.clock[slot]].copy()
        match = Match(
            id=task.id,
            world=hall.setup.world,
            version=hall.version,
            params=hall.setup.params,
            pairing=task.pairing,
            pair=task.pair,
            leg=task.leg,
            entrants=task.entrants,
            hashes=tuple(hall.entrants[name].hash for name in task.entrants),
            seats=tuple(hall.world.agents),
            seed=task.seed,
            returns=tuple(returns.tolist()),
            ranks=ranks(task.entrants, returns, fault),
            steps=len(actions),
            ended=ended,
            fault=fault,
            trace=hashlib.sha256(actions.tobytes()).hexdigest(),
        )
        return match, actions


def ranks(entrants: Sequence[str], returns: Array, fault: Fault | None) -> tuple[int, ...]:
    """Return each seat's rank: that of its entrant, by the mean return of all its seats; whoever forfeits is last."""
    own: dict[str, list[float]] = {}
    for name, value in zip(entrants, returns.tolist(), strict=True):
        own.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in own.items()}
    if fault is not None:
        means[fault.entrant] = -np.inf
    places = {name: 1 + sum(other > mean for other in means.values()) for name, mean in means.items()}
    return tuple(places[name] for name in entrants)
