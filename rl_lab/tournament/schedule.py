"""This module has the schedules: which matches a tournament plays next, given its settings and the matches so far.

`runner` calls `Schedule.missing`. All functions are pure: ids and seeds of matches follow from names and numbers by a
hash, so a tournament that is resumed, or played by several workers, has the same matches.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rl_lab.evaluation.evaluate import EVALUATION_SEED
from rl_lab.tournament.ledger import Match

SCHEDULES = "round-robin", "gauntlet", "swiss", "adaptive"  # valid values of `Schedule.kind`
_SEPARATOR = "~"  # between the names of a pairing in the id of a match; no name contains it


@dataclass(frozen=True)
class Task:
    """A match to be played. Its seed follows from the tournament's seed, the pairing and the pair."""

    pairing: tuple[str, ...]  # names of the entrants, sorted
    pair: int  # number of the pair; its matches have one seed and rotate the entrants through the seats
    leg: int  # number of the match within the pair, an index of `Schedule.seat_rotations`
    entrants: tuple[str, ...]  # names of the entrants at the A seats
    seed: int  # of the world, the same in all matches of a pair; it is not used in training

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

    `seat_rotations` and `players_per_match` are those of the module `seat_rotation`. The kinds are:

    round-robin: every set of `players_per_match` entrants plays `pairs` pairs.
    gauntlet: every such set that contains the first entrant plays `pairs` pairs.
    swiss, adaptive: in each of `rounds` rounds, the entrants are divided into sets that play `pairs` pairs each. A
        swiss round joins neighbours in the standings that have not met, as in chess. An adaptive round joins entrants
        whose order is least certain.
    """

    kind: str
    names: tuple[str, ...]
    players_per_match: int
    seat_rotations: tuple[tuple[int, ...], ...]
    pairs: int
    rounds: int
    seed: int

    @property
    def total(self) -> int:
        """Return the number of matches of the whole schedule."""
        return len(self._pairings()) * self.pairs * len(self.seat_rotations)

    def _pairings(self) -> list[tuple[str, ...]]:
        """Return the sets of entrants that meet, once for each time; with rounds, as many empty sets."""
        if self.kind == "round-robin":
            return list(itertools.combinations(self.names, self.players_per_match))
        if self.kind == "gauntlet":
            return [
                (self.names[0], *others)
                for others in itertools.combinations(self.names[1:], self.players_per_match - 1)
            ]
        return [()] * (self.rounds * (len(self.names) // self.players_per_match))

    def missing(self, matches: Mapping[str, Match]) -> list[Task]:
        """Return the tasks to play next for the matches so far by id; [] when the schedule is complete.

        A round begins when the round before is complete, and depends on nothing else. So a tournament that is resumed,
        or played by several workers, has the same matches.
        """
        if self.kind in ("round-robin", "gauntlet"):
            return [task for each in self._pairings() for task in self._tasks(each, 0) if task.id not in matches]
        earlier_matches: list[Match] = []  # of complete rounds
        make_pairings = _swiss_pairings if self.kind == "swiss" else _adaptive_pairings
        for _ in range(self.rounds):
            standings = compute_standings(self.names, earlier_matches)
            tasks = []
            for pairing in make_pairings(standings, self.players_per_match):
                first_pair = standings.num_matches(pairing) // len(self.seat_rotations)
                tasks += self._tasks(pairing, first_pair)
            missing = [task for task in tasks if task.id not in matches]
            if missing:
                return missing
            earlier_matches += [matches[task.id] for task in tasks]
        return []

    def task(self, pairing: Sequence[str], pair: int, leg: int) -> Task:
        """Return the task of one match."""
        pairing = tuple(sorted(pairing))
        seed = EVALUATION_SEED + hash_bits(self.seed, *pairing, pair) % 2**31
        return Task(pairing, pair, leg, tuple(pairing[k] for k in self.seat_rotations[leg]), seed)

    def _tasks(self, members: tuple[str, ...], first_pair: int) -> list[Task]:
        """Return the tasks of `pairs` pairs of these entrants, numbered from `first_pair`."""
        pairs = range(first_pair, first_pair + self.pairs)
        return [self.task(members, pair, leg) for pair in pairs for leg in range(len(self.seat_rotations))]


def default_rounds(kind: str, entrants: int) -> int:
    """Return the default number of rounds: that of swiss tournaments in chess, and twice as many for adaptive."""
    return math.ceil(math.log2(max(entrants, 2))) * (2 if kind == "adaptive" else 1)


@dataclass(frozen=True)
class Standings:
    """The points (1 for a win, 1/2 for a draw) and games of each entrant, and how often entrants have met."""

    points: dict[str, float]
    games: dict[str, int]
    meetings: dict[frozenset[str], int]  # matches that have these two entrants
    pairings: dict[frozenset[str], int]  # matches that have exactly these entrants

    def mean(self, name: str) -> float:
        """Return the mean score after adding one win and one loss, a prior that keeps it away from 0 and 1."""
        return (self.points[name] + 1) / (self.games[name] + 2)

    def separation(self, one: str, other: str) -> float:
        """Return the difference of two mean scores in standard errors; near 0, their order is uncertain."""
        variances = [self.mean(name) * (1 - self.mean(name)) / (self.games[name] + 2) for name in (one, other)]
        return abs(self.mean(one) - self.mean(other)) / math.sqrt(sum(variances))

    def num_meetings(self, names: Sequence[str]) -> int:
        """Return the number of matches of two of these entrants, summed over all two."""
        return sum(self.meetings.get(frozenset(two), 0) for two in itertools.combinations(names, 2))

    def num_matches(self, names: Sequence[str]) -> int:
        """Return the number of matches that exactly these entrants have played."""
        return self.pairings.get(frozenset(names), 0)


def compute_standings(names: Sequence[str], matches: Sequence[Match]) -> Standings:
    """Return the standings; an entrant's points for a match are the share of others that it beats, a tie is half."""
    points, games = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    meetings, pairings = Counter[frozenset[str]](), Counter[frozenset[str]]()
    for match in matches:
        ranks = {name: match.rank(name) for name in match.pairing}
        for name, rank in ranks.items():
            beaten = sum((rank < other) + 0.5 * (rank == other) for other in ranks.values()) - 0.5
            points[name] += beaten / (len(ranks) - 1)
            games[name] += 1
        meetings.update(frozenset(two) for two in itertools.combinations(match.pairing, 2))
        pairings[frozenset(match.pairing)] += 1
    return Standings(points, games, meetings, pairings)


def _swiss_pairings(standings: Standings, size: int) -> list[tuple[str, ...]]:
    """Return sets of `size` neighbours in the standings that have met least; the remainder does not play this round."""
    # An entrant that has sat out before has fewer games. The last entrants among those with the most games sit out.
    max_games = max(standings.games.values())
    order = sorted(standings.points, key=lambda name: (-standings.mean(name), name))
    idle = [name for name in reversed(order) if standings.games[name] == max_games][: len(order) % size]
    idle += [name for name in reversed(order) if name not in idle][: len(order) % size - len(idle)]
    remaining, pairings = [name for name in order if name not in idle], []
    while remaining:
        members = [remaining.pop(0)]
        while len(members) < size:
            # Of several that have met least, the nearest in the standings: `min` returns the first one.
            members.append(min(remaining, key=lambda name: standings.num_meetings([*members, name])))
            remaining.remove(members[-1])
        pairings.append(tuple(members))
    return pairings


def _adaptive_pairings(standings: Standings, size: int) -> list[tuple[str, ...]]:
    """Return sets of `size` entrants; each begins with the two remaining entrants whose order is least certain."""

    def priority(two: tuple[str, str]) -> tuple[float, int, int, tuple[str, str]]:
        """Return a sort key: the least certain order first, then those that have met and played least."""
        return standings.separation(*two), standings.num_meetings(two), sum(standings.games[name] for name in two), two

    remaining, pairings = set(standings.points), []
    for two in sorted(itertools.combinations(sorted(remaining), 2), key=priority):
        if remaining.issuperset(two) and len(remaining) >= size:
            others = sorted(remaining.difference(two), key=lambda name: priority((two[0], name)))
            pairings.append((*two, *others[: size - 2]))
            remaining.difference_update(pairings[-1])
    return pairings
