"""This module converts matches to arrays in a canonical order, so that ratings do not depend on the order of play.

Shape letters: M games or matches, C clusters (the games of one pair of swapped seats), n entrants.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[Any]  # float64
Ints = NDArray[Any]  # int64


@dataclass(frozen=True)
class PairwiseResults:
    """M games of two entrants, sorted by pairing, pair, first and outcome; `duels` makes it.

    names     [n], sorted
    first     [M], the entrant in the first seat, an index into names
    second    [M], the entrant in the other seat
    outcome   [M], 1 if first won, 0.5 for a draw, 0 if it lost
    pairing   [M], the number of the unordered pair of entrants, from 0, ascending
    cluster   [M], the number, from 0, of the pair of games with swapped seats; clusters are independent
    """

    names: tuple[str, ...]
    first: Ints
    second: Ints
    outcome: Floats
    pairing: Ints
    cluster: Ints


@dataclass(frozen=True)
class RankedResults:
    """M matches of any number of entrants, in a canonical order; `standings` makes it.

    names      [n], sorted
    entrants   for each match, indices into names, ascending, without repetition
    ranks      for each match, the entrants' ranks: 1 is the best, tied entrants have equal ranks
    pairing    [M], the number, from 0, of the set of entrants
    cluster    [M], the number of the pairing and pair number
    """

    names: tuple[str, ...]
    entrants: tuple[tuple[int, ...], ...]
    ranks: tuple[tuple[int, ...], ...]
    pairing: Ints
    cluster: Ints


def duels(
    names: Sequence[str], first: ArrayLike, second: ArrayLike, outcome: ArrayLike, pair: ArrayLike | None = None
) -> PairwiseResults:
    """Return games [M] of two entrants in their canonical order.

    Args:
        names: [n], the entrants; first and second are indices into it.
        first: int [M], the entrant in the first seat.
        second: int [M], the entrant in the other.
        outcome: [M], 1 if the first won, 0.5 for a draw, 0 if it lost.
        pair: int [M]; games of the same two entrants with the same number are one cluster. By default each game is one.

    Raises:
        ValueError: a value is invalid, lengths differ, names repeat, or there are no games.
    """
    one, other = np.asarray(first), np.asarray(second)
    result = np.asarray(outcome, np.float64)
    number = np.zeros(len(one), np.int64) if pair is None else np.asarray(pair)
    if len({one.shape, other.shape, result.shape, number.shape}) > 1 or one.ndim != 1 or not len(one):
        raise ValueError("first, second, outcome and pair must be arrays of one length of at least 1")
    if any(values.dtype.kind not in "iu" for values in (one, other, number)):
        raise ValueError("first, second and pair must be integers")
    if min(one.min(), other.min()) < 0 or max(one.max(), other.max()) >= len(names):
        raise ValueError(f"first and second must be 0 to {len(names) - 1}, indices of names")
    if not np.isin(result, (0.0, 0.5, 1.0)).all():
        raise ValueError("outcome must be 1, 0.5 or 0")
    ordered, place = _sorted_names(names)
    one, other = place[one], place[other]
    low, high = np.minimum(one, other), np.maximum(one, other)
    meeting = low * len(ordered) + high
    order = np.lexsort((result, one, number, meeting))
    pairing, cluster = _groups(meeting[order]), _groups(meeting[order], number[order])
    # Without pairs, each game is a cluster, numbered in the canonical order.
    cluster = np.arange(len(order)) if pair is None else cluster
    return PairwiseResults(ordered, one[order], other[order], result[order], pairing, cluster)


def standings(
    names: Sequence[str],
    entrants: Sequence[Sequence[int]],
    ranks: Sequence[Sequence[float]],
    pair: Sequence[int] | None = None,
) -> RankedResults:
    """Return matches [M] in their canonical order.

    Args:
        names: [n], the entrants.
        entrants: for each match, at least two indices into names, without repetition.
        ranks: for each match, the entrants' ranks; lower is better, equal values are ties.
        pair: [M]; matches of the same entrants with the same number are one cluster. By default each match is one.

    Raises:
        ValueError: a value is invalid, lengths differ, names repeat, or there are no matches.
    """
    numbers = [0] * len(entrants) if pair is None else pair
    if not len(entrants) == len(ranks) == len(numbers) or not len(entrants):
        raise ValueError("entrants, ranks and pair must be of one length of at least 1")
    ordered, place = _sorted_names(names)
    rows = []
    for indices, match_ranks, number in zip(entrants, ranks, numbers, strict=True):
        if len(indices) < 2 or len(set(indices)) < len(indices) or len(indices) != len(match_ranks):
            raise ValueError(
                f"a match needs at least two entrants, each once, and a rank for each, got {list(indices)}"
            )
        if min(indices) < 0 or max(indices) >= len(names):
            raise ValueError(f"entrants must be 0 to {len(names) - 1}, indices of names, got {list(indices)}")
        levels = sorted(set(match_ranks))
        pairs = sorted((int(place[k]), levels.index(r) + 1) for k, r in zip(indices, match_ranks, strict=True))
        rows.append((tuple(k for k, _ in pairs), int(number), tuple(r for _, r in pairs)))
    rows.sort()
    sets = [row[0] for row in rows]
    cluster = np.arange(len(rows)) if pair is None else _number([row[:2] for row in rows])
    return RankedResults(ordered, tuple(sets), tuple(row[2] for row in rows), _number(sets), cluster)


def collect(matches: Iterable[Any]) -> PairwiseResults | RankedResults:
    """Return matches as `PairwiseResults` if each is between two entrants, else as `RankedResults`.

    Each match is a dict or an object with `entrants`, the name in every seat; `ranks`, the rank of every seat, 1 for
    the best, equal for ties; `pair`, an int; and `pairing`, the names of the players of the match. For an entrant with
    several seats, as in a team, the mean of its ranks counts. Raises ValueError for no matches.
    """
    records: list[tuple[list[str], list[float], int]] = []
    for match in matches:
        seats, ranks, pairing = list(_get(match, "entrants")), list(_get(match, "ranks")), _get(match, "pairing")
        # Two seats are two entrants, or one against itself, which informs about the first seat's advantage.
        mean = None if len(seats) == 2 else mean_ranks(seats, ranks)
        if not set(pairing) <= set(seats) or (mean is not None and len(mean) < 2):
            raise ValueError(f"a match between {list(pairing)} has {seats} in its seats")
        players, player_ranks = (seats, ranks) if mean is None else (list(mean), list(mean.values()))
        records.append((players, player_ranks, int(_get(match, "pair"))))
    if not records:
        raise ValueError("there are no matches")
    names = sorted({name for players, _, _ in records for name in players})
    index = {name: k for k, name in enumerate(names)}
    pair = [number for _, _, number in records]
    if all(len(players) == 2 for players, _, _ in records):
        seats_of = np.array([[index[name] for name in players] for players, _, _ in records])
        gap = np.array([ranks[1] - ranks[0] for _, ranks, _ in records])
        return duels(names, seats_of[:, 0], seats_of[:, 1], (np.sign(gap) + 1) / 2, pair)
    records = [record for record in records if len(set(record[0])) > 1]
    entrants = [[index[name] for name in players] for players, _, _ in records]
    return standings(names, entrants, [ranks for _, ranks, _ in records], [number for _, _, number in records])


def mean_ranks(seats: Sequence[str], ranks: Sequence[float]) -> dict[str, float]:
    """Return the mean rank of each entrant over its seats, in the order of their first seats."""
    by_name: dict[str, list[float]] = {}
    for name, rank in zip(seats, ranks, strict=True):
        by_name.setdefault(name, []).append(rank)
    return {name: sum(values) / len(values) for name, values in by_name.items()}


def check_connected(names: Sequence[str], one: Ints, other: Ints) -> None:
    """Raise ValueError if the entrants, names [n], fall into groups that never met; pairs that met are one, other [K].

    The message names the groups.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(names)
    count, label = connected_components(coo_array((np.ones(len(one)), (one, other)), shape=(n, n)), directed=False)
    if count > 1:
        groups = [[name for name, k in zip(names, label, strict=True) if k == group] for group in range(count)]
        listing = "; ".join(", ".join(group[:6]) + (", ..." if len(group) > 6 else "") for group in groups[:8])
        raise ValueError(f"entrants fall into {count} groups that never met, so they have no common scale: {listing}")


def _get(match: Any, key: str) -> Any:
    return match[key] if isinstance(match, dict) else getattr(match, key)


def _sorted_names(names: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    """Return sorted names, and the new index of each. Raises ValueError if names repeat."""
    if len(set(names)) < len(names):
        raise ValueError(f"names must differ, got {list(names)}")
    ordered = tuple(sorted(names))
    index = {name: k for k, name in enumerate(ordered)}
    return ordered, np.array([index[name] for name in names], np.int64)


def _groups(*keys: Ints) -> Ints:
    """Return the number, from 0, of the run of equal keys [M] that each row belongs to; rows are sorted."""
    change = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        change[1:] |= key[1:] != key[:-1]
    return np.cumsum(change)


def _number(keys: Sequence[Any]) -> Ints:
    """Return the number of each key, from 0 in the order of first occurrence."""
    numbers = {key: k for k, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)
