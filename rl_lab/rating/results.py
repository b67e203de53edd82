"""This module converts matches to arrays in a canonical order, so that ratings do not depend on the order of play.

Sums of floating-point numbers depend on the order of their terms; sorted games give the same bits in any order of play.
`convert_matches` takes matches of a tournament; `pairwise_results` and `ranked_results` take plain arrays. All of them
check their input and return new arrays.

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
    """M games of two entrants, sorted by pairing, pair, first and outcome; `pairwise_results` makes it.

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
    """M matches of any number of entrants, in a canonical order; `ranked_results` makes it.

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


def pairwise_results(
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
    first_index, second_index = np.asarray(first), np.asarray(second)
    outcomes = np.asarray(outcome, np.float64)
    pair_number = np.zeros(len(first_index), np.int64) if pair is None else np.asarray(pair)
    if (
        len({first_index.shape, second_index.shape, outcomes.shape, pair_number.shape}) > 1
        or first_index.ndim != 1
        or not len(first_index)
    ):
        raise ValueError("first, second, outcome and pair must be arrays of one length of at least 1")
    if any(values.dtype.kind not in "iu" for values in (first_index, second_index, pair_number)):
        raise ValueError("first, second and pair must be integers")
    if min(first_index.min(), second_index.min()) < 0 or max(first_index.max(), second_index.max()) >= len(names):
        raise ValueError(f"first and second must be 0 to {len(names) - 1}, indices of names")
    if not np.isin(outcomes, (0.0, 0.5, 1.0)).all():
        raise ValueError("outcome must be 1, 0.5 or 0")
    sorted_names, new_index = _sort_names(names)
    first_index, second_index = new_index[first_index], new_index[second_index]
    # One number for each unordered pair of entrants.
    pairing_key = np.minimum(first_index, second_index) * len(sorted_names) + np.maximum(first_index, second_index)
    order = np.lexsort((outcomes, first_index, pair_number, pairing_key))  # the last key is the most significant one
    pairing = _number_runs(pairing_key[order])
    # Without pairs, each game is a cluster, numbered in the canonical order.
    cluster = np.arange(len(order)) if pair is None else _number_runs(pairing_key[order], pair_number[order])
    return PairwiseResults(sorted_names, first_index[order], second_index[order], outcomes[order], pairing, cluster)


def ranked_results(
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
    pair_numbers = [0] * len(entrants) if pair is None else pair
    if not len(entrants) == len(ranks) == len(pair_numbers) or not len(entrants):
        raise ValueError("entrants, ranks and pair must be of one length of at least 1")
    sorted_names, new_index = _sort_names(names)
    rows = []  # of each match: its entrants, the number of its pair, and its ranks
    for indices, match_ranks, pair_number in zip(entrants, ranks, pair_numbers, strict=True):
        if len(indices) < 2 or len(set(indices)) < len(indices) or len(indices) != len(match_ranks):
            raise ValueError(
                f"a match needs at least two entrants, each once, and a rank for each, got {list(indices)}"
            )
        if min(indices) < 0 or max(indices) >= len(names):
            raise ValueError(f"entrants must be 0 to {len(names) - 1}, indices of names, got {list(indices)}")
        distinct = sorted(set(match_ranks))  # their positions are ranks 1, 2, ... without gaps
        ranked = sorted((int(new_index[k]), distinct.index(r) + 1) for k, r in zip(indices, match_ranks, strict=True))
        rows.append((tuple(k for k, _ in ranked), int(pair_number), tuple(r for _, r in ranked)))
    rows.sort()
    entrant_sets = [row[0] for row in rows]
    cluster = np.arange(len(rows)) if pair is None else _number_by_first_occurrence([row[:2] for row in rows])
    pairing = _number_by_first_occurrence(entrant_sets)
    return RankedResults(sorted_names, tuple(entrant_sets), tuple(row[2] for row in rows), pairing, cluster)


def convert_matches(matches: Iterable[Any]) -> PairwiseResults | RankedResults:
    """Return matches as `PairwiseResults` if each is between two entrants, else as `RankedResults`.

    Each match is a dict or an object with `entrants`, the name in every seat; `ranks`, the rank of every seat, 1 for
    the best, equal for ties; `pair`, an int; and `pairing`, the names of the players of the match. For an entrant with
    several seats, as in a team, the mean of its ranks counts. Raises ValueError for no matches.
    """
    records: list[tuple[list[str], list[float], int]] = []  # of each match: entrants, ranks, number of its pair
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
    pair = [pair_number for _, _, pair_number in records]
    if all(len(players) == 2 for players, _, _ in records):
        seats_of = np.array([[index[name] for name in players] for players, _, _ in records])
        rank_difference = np.array([ranks[1] - ranks[0] for _, ranks, _ in records])
        return pairwise_results(names, seats_of[:, 0], seats_of[:, 1], (np.sign(rank_difference) + 1) / 2, pair)
    # Matches of one entrant against itself say nothing where the model has no parameter for seats.
    records = [record for record in records if len(set(record[0])) > 1]
    entrants = [[index[name] for name in players] for players, _, _ in records]
    pair = [pair_number for _, _, pair_number in records]
    return ranked_results(names, entrants, [ranks for _, ranks, _ in records], pair)


def mean_ranks(seats: Sequence[str], ranks: Sequence[float]) -> dict[str, float]:
    """Return the mean rank of each entrant over its seats, in the order of their first seats."""
    by_name: dict[str, list[float]] = {}
    for name, rank in zip(seats, ranks, strict=True):
        by_name.setdefault(name, []).append(rank)
    return {name: sum(values) / len(values) for name, values in by_name.items()}


def check_connected(names: Sequence[str], one: Ints, other: Ints) -> None:
    """Raise ValueError if the entrants, names [n], fall into groups that never met; the message names the groups.

    Entrants one[k] and other[k], indices [K], have met.
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


def _sort_names(names: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    """Return sorted names, and the new index of each. Raises ValueError if names repeat."""
    if len(set(names)) < len(names):
        raise ValueError(f"names must differ, got {list(names)}")
    sorted_names = tuple(sorted(names))
    index = {name: k for k, name in enumerate(sorted_names)}
    return sorted_names, np.array([index[name] for name in names], np.int64)


def _number_runs(*keys: Ints) -> Ints:
    """Return the number, from 0, of the run of equal keys [M] that each row belongs to; rows are sorted."""
    change = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        change[1:] |= key[1:] != key[:-1]
    return np.cumsum(change)


def _number_by_first_occurrence(keys: Sequence[Any]) -> Ints:
    """Return the number of each key, from 0 in the order of first occurrence."""
    numbers = {key: k for k, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)
