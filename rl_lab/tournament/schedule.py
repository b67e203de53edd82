"""Schedules: which matches are played, as a pure function of the tournament and, round by round, of its ledger."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..evaluate import EVALUATION_SEED
from .ledger import Match

SCHEDULES = "round-robin", "gauntlet", "swiss", "adaptive"
_MARK = "~"  # between the names of a pairing


@dataclass(frozen=True)
class Task:
    """A match to be played. Its id and its seed follow from the tournament's seed, who meets, pair and leg."""

    pairing: tuple[str, ...]  # sorted
    pair: int
    leg: int
    entrants: tuple[str, ...]  # at the A seats
    seed: int  # of the world, the same in all legs of a pair; no training has it

    @property
    def id(self) -> str:
        """The match's name, unique in its tournament."""
        return f"{_MARK.join(self.pairing)}/{self.pair}/{self.leg}"


def drawn(*parts: object) -> int:
    """Return 64 bits that depend on all parts: equal in every process and on every machine."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


@dataclass(frozen=True)
class Schedule:
    """Who meets whom how often. `legs` as `seating.legs` returns them, `met` as `seating.meeting`.

    round-robin: every set of `met` entrants plays `pairs` pairs. gauntlet: every one with the first entrant in it.
    swiss and adaptive: `rounds` rounds; in each, entrants form sets and play `pairs` pairs. A swiss round puts together
    neighbours in the standings who have not met; an adaptive one those whose order is least certain.
    """

    kind: str
    names: tuple[str, ...]
    met: int
    legs: tuple[tuple[int, ...], ...]
    pairs: int
    rounds: int
    seed: int

    @property
    def total(self) -> int:
        """How many matches there are in all."""
        return len(self._sets()) * self.pairs * len(self.legs)

    def _sets(self) -> list[tuple[str, ...]]:
        """Return those who meet, where that is known from the start; else as many empty sets."""
        if self.kind == "round-robin":
            return list(itertools.combinations(self.names, self.met))
        if self.kind == "gauntlet":
            return [(self.names[0], *rest) for rest in itertools.combinations(self.names[1:], self.met - 1)]
        return [()] * (self.rounds * (len(self.names) // self.met))

    def missing(self, played: Mapping[str, Match]) -> list[Task]:
        """Return what is to be played next, given the matches by id so far; [] when all is done.

        In rounds, the next begins when the one before is complete, and depends on nothing else: so a tournament that is
        resumed, or played by several workers, has the same matches.
        """
        if self.kind in ("round-robin", "gauntlet"):
            return [task for each in self._sets() for task in self._tasks(each, 0) if task.id not in played]
        past: list[Match] = []
        for _ in range(self.rounds):
            found = standings(self.names, past)
            sets = _swiss(found, self.met) if self.kind == "swiss" else _adaptive(found, self.met)
            tasks = [task for each in sets for task in self._tasks(each, found.pairs(each, len(self.legs)))]
            missing = [task for task in tasks if task.id not in played]
            if missing:
                return missing
            past += [played[task.id] for task in tasks]
        return []

    def task(self, pairing: Sequence[str], pair: int, leg: int) -> Task:
        """Return one match."""
        pairing = tuple(sorted(pairing))
        seed = EVALUATION_SEED + drawn(self.seed, *pairing, pair) % 2**31
        return Task(pairing, pair, leg, tuple(pairing[k] for k in self.legs[leg]), seed)

    def _tasks(self, members: tuple[str, ...], first: int) -> list[Task]:
        pairs = range(first, first + self.pairs)
        return [self.task(members, pair, leg) for pair in pairs for leg in range(len(self.legs))]


def usual_rounds(kind: str, entrants: int) -> int:
    """Return how many rounds a schedule has where nobody says: swiss as in chess, adaptive twice as many."""
    return math.ceil(math.log2(max(entrants, 2))) * (2 if kind == "adaptive" else 1)


@dataclass(frozen=True)
class Standings:
    """What the matches so far say of the entrants: points (1 a win, 1/2 a draw) and games, and who has met whom."""

    points: dict[str, float]
    games: dict[str, int]
    met: dict[frozenset[str], int]

    def mean(self, name: str) -> float:
        """Return the mean score, with one win and one loss added that nobody played."""
        return (self.points[name] + 1) / (self.games[name] + 2)

    def doubt(self, one: str, other: str) -> float:
        """Return how far apart two are, in standard errors: near 0 their order is anybody's guess."""
        variances = [self.mean(name) * (1 - self.mean(name)) / (self.games[name] + 2) for name in (one, other)]
        return abs(self.mean(one) - self.mean(other)) / math.sqrt(sum(variances))

    def together(self, names: Sequence[str]) -> int:
        """Return how many matches any two of these have had with each other."""
        return sum(self.met.get(frozenset(two), 0) for two in itertools.combinations(names, 2))

    def pairs(self, names: Sequence[str], legs: int) -> int:
        """Return how many pairs exactly these have played."""
        return self.met.get(frozenset((*names, _MARK)), 0) // legs


def standings(names: Sequence[str], matches: Sequence[Match]) -> Standings:
    """Return the standings: a match of P entrants is won by beating everybody, and a draw is half of it."""
    points, games, met = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0), dict[frozenset[str], int]()
    for match in matches:
        ranks = {name: match.rank(name) for name in match.pairing}
        for name, rank in ranks.items():
            beaten = sum((rank < other) + 0.5 * (rank == other) for other in ranks.values()) - 0.5
            points[name] += beaten / (len(ranks) - 1)
            games[name] += 1
        keys = [frozenset(two) for two in itertools.combinations(match.pairing, 2)]
        for key in (*keys, frozenset((*match.pairing, _MARK))):
            met[key] = met.get(key, 0) + 1
    return Standings(points, games, met)


def _swiss(found: Standings, size: int) -> list[tuple[str, ...]]:
    # Whoever has played least cannot sit out again: those left over are the last of those who have played most.
    most = max(found.games.values())
    order = sorted(found.points, key=lambda name: (-found.mean(name), name))
    spare = [name for name in reversed(order) if found.games[name] == most][: len(order) % size]
    spare += [name for name in reversed(order) if name not in spare][: len(order) % size - len(spare)]
    waiting, sets = [name for name in order if name not in spare], []
    while waiting:
        chosen = [waiting.pop(0)]
        while len(chosen) < size:
            chosen.append(min(waiting, key=lambda name: (found.together([*chosen, name]), waiting.index(name))))
            waiting.remove(chosen[-1])
        sets.append(tuple(chosen))
    return sets


def _adaptive(found: Standings, size: int) -> list[tuple[str, ...]]:
    def urgency(two: tuple[str, str]) -> tuple[float, int, int, tuple[str, str]]:
        return found.doubt(*two), found.together(two), sum(found.games[name] for name in two), two

    waiting, sets = set(found.points), []
    for two in sorted(itertools.combinations(sorted(waiting), 2), key=urgency):
        if waiting.issuperset(two) and len(waiting) >= size:
            nearest = sorted(waiting.difference(two), key=lambda name: urgency((two[0], name)))
            sets.append((*two, *nearest[: size - 2]))
            waiting.difference_update(sets[-1])
    return sets
