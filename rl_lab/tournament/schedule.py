"""Schedules: the matches of a tournament, as a function of its settings and, for rounds, of the matches so far."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rl_lab.evaluation.evaluate import EVALUATION_SEED
from rl_lab.tournament.ledger import Match

SCHEDULES = "round-robin", "gauntlet", "swiss", "adaptive"
_SEPARATOR = "~"  # between the names of a pairing in the id of a match


@dataclass(frozen=True)
class Task:
    """A match to be played. Its id and seed follow from the tournament's seed, the entrants, the pair and the leg."""

    pairing: tuple[str, ...]  # names of the entrants, sorted
    pair: int
    leg: int
    entrants: tuple[str, ...]  # names of the entrants at the A seats
    seed: int  # of the world, the same in all legs of a pair; it is not used in training

    @property
    def id(self) -> str:
        """Return the match's id, which is unique in its tournament."""
        return f"{_SEPARATOR.join(self.pairing)}/{self.pair}/{self.leg}"


def hash_bits(*parts: object) -> int:
    """Return 64 bits of a hash of all parts, which is the same in every process and on every machine."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


@dataclass(frozen=True)
class Schedule:
    """The rule by which entrants meet.

    `legs` and `players_per_match` are those of `seat_rotation`. The kinds are:

    round-robin: every set of `players_per_match` entrants plays `pairs` pairs.
    gauntlet: every such set that contains the first entrant plays `pairs` pairs.
    swiss, adaptive: in each of `rounds` rounds, the entrants are divided into sets that play `pairs` pairs each. A
        swiss round joins neighbours in the standings that have not met. An adaptive round joins entrants whose order is
        least certain.
    """

    kind: str
    names: tuple[str, ...]
    players_per_match: int
    legs: tuple[tuple[int, ...], ...]
    pairs: int
    rounds: int
    seed: int

    @property
    def total(self) -> int:
        """Return the number of matches of the whole schedule."""
        return len(self._sets()) * self.pairs * len(self.legs)

    def _sets(self) -> list[tuple[str, ...]]:
        """Return the sets of entrants that meet, where they are known from the start; else as many empty sets."""
        if self.kind == "round-robin":
            return list(itertools.combinations(self.names, self.players_per_match))
        if self.kind == "gauntlet":
            return [
                (self.names[0], *rest) for rest in itertools.combinations(self.names[1:], self.players_per_match - 1)
            ]
        return [()] * (self.rounds * (len(self.names) // self.players_per_match))

    def missing(self, played: Mapping[str, Match]) -> list[Task]:
        """Return the tasks to play next for the matches so far by id; [] when the schedule is complete.

        A round begins when the round before is complete, and depends on nothing else. So a tournament that is resumed,
        or played by several workers, has the same matches.
        """
        if self.kind in ("round-robin", "gauntlet"):
            return [task for each in self._sets() for task in self._tasks(each, 0) if task.id not in played]
        past: list[Match] = []
        for _ in range(self.rounds):
            table = standings(self.names, past)
            divide = _swiss if self.kind == "swiss" else _adaptive
            sets = divide(table, self.players_per_match)
            tasks = [task for each in sets for task in self._tasks(each, table.pairs(each, len(self.legs)))]
            missing = [task for task in tasks if task.id not in played]
            if missing:
                return missing
            past += [played[task.id] for task in tasks]
        return []

    def task(self, pairing: Sequence[str], pair: int, leg: int) -> Task:
        """Return the task of one match."""
        pairing = tuple(sorted(pairing))
        seed = EVALUATION_SEED + hash_bits(self.seed, *pairing, pair) % 2**31
        return Task(pairing, pair, leg, tuple(pairing[k] for k in self.legs[leg]), seed)

    def _tasks(self, members: tuple[str, ...], first: int) -> list[Task]:
        pairs = range(first, first + self.pairs)
        return [self.task(members, pair, leg) for pair in pairs for leg in range(len(self.legs))]


def usual_rounds(kind: str, entrants: int) -> int:
    """Return the default number of rounds: that of swiss tournaments in chess, and twice as many for adaptive."""
    return math.ceil(math.log2(max(entrants, 2))) * (2 if kind == "adaptive" else 1)


@dataclass(frozen=True)
class SwissTable:
    """The standings: points (1 for a win, 1/2 for a draw) and games of each entrant, and the number of meetings."""

    points: dict[str, float]
    games: dict[str, int]
    meetings: dict[frozenset[str], int]  # of two entrants, and of a whole pairing, which _SEPARATOR marks

    def mean(self, name: str) -> float:
        """Return the mean score after adding one win and one loss, a prior that keeps it away from 0 and 1."""
        return (self.points[name] + 1) / (self.games[name] + 2)

    def separation(self, one: str, other: str) -> float:
        """Return the difference of two mean scores in standard errors; near 0, their order is uncertain."""
        variances = [self.mean(name) * (1 - self.mean(name)) / (self.games[name] + 2) for name in (one, other)]
        return abs(self.mean(one) - self.mean(other)) / math.sqrt(sum(variances))

    def together(self, names: Sequence[str]) -> int:
        """Return the number of meetings of any two of these entrants."""
        return sum(self.meetings.get(frozenset(two), 0) for two in itertools.combinations(names, 2))

    def pairs(self, names: Sequence[str], legs: int) -> int:
        """Return the number of pairs that exactly these entrants have played."""
        return self.meetings.get(frozenset((*names, _SEPARATOR)), 0) // legs


def standings(names: Sequence[str], matches: Sequence[Match]) -> SwissTable:
    """Return the standings; an entrant's points for a match are the share of others that it beats, a tie is half."""
    points, games, meetings = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0), dict[frozenset[str], int]()
    for match in matches:
        ranks = {name: match.rank(name) for name in match.pairing}
        for name, rank in ranks.items():
            beaten = sum((rank < other) + 0.5 * (rank == other) for other in ranks.values()) - 0.5
            points[name] += beaten / (len(ranks) - 1)
            games[name] += 1
        keys = [frozenset(two) for two in itertools.combinations(match.pairing, 2)]
        for key in (*keys, frozenset((*match.pairing, _SEPARATOR))):
            meetings[key] = meetings.get(key, 0) + 1
    return SwissTable(points, games, meetings)


def _swiss(table: SwissTable, size: int) -> list[tuple[str, ...]]:
    """Return sets of `size` neighbours in the standings that have met least; the remainder does not play this round."""
    # An entrant that has sat out before has fewer games. The last entrants among those with the most games sit out.
    max_games = max(table.games.values())
    order = sorted(table.points, key=lambda name: (-table.mean(name), name))
    idle = [name for name in reversed(order) if table.games[name] == max_games][: len(order) % size]
    idle += [name for name in reversed(order) if name not in idle][: len(order) % size - len(idle)]
    remaining, sets = [name for name in order if name not in idle], []
    while remaining:
        members = [remaining.pop(0)]
        while len(members) < size:
            members.append(min(remaining, key=lambda name: (table.together([*members, name]), remaining.index(name))))
            remaining.remove(members[-1])
        sets.append(tuple(members))
    return sets


def _adaptive(table: SwissTable, size: int) -> list[tuple[str, ...]]:
    """Return sets of `size` entrants; each begins with the two remaining entrants whose order is least certain."""

    def priority(two: tuple[str, str]) -> tuple[float, int, int, tuple[str, str]]:
        return table.separation(*two), table.together(two), sum(table.games[name] for name in two), two

    remaining, sets = set(table.points), []
    for two in sorted(itertools.combinations(sorted(remaining), 2), key=priority):
        if remaining.issuperset(two) and len(remaining) >= size:
            nearest = sorted(remaining.difference(two), key=lambda name: priority((two[0], name)))
            sets.append((*two, *nearest[: size - 2]))
            remaining.difference_update(sets[-1])
    return sets
