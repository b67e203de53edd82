"""Results: matches as arrays in a canonical order, so that nothing depends on the order in which they were played.

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
class Duels:
    """M games of two entrants, sorted by pairing, pair, first and outcome; made by `duels`.

    names     [n], sorted
    first     [M], who had the first seat, second [M], who had the other: indices into names
    outcome   [M], 1 where first won, 0.5 for a draw, 0 where it lost
    pairing   [M], the two entrants, whoever sits first: 0 for the first two that met, and so on, sorted
    cluster   [M], the pair of games with swapped seats, numbered from 0: what is independent of the rest
    """

    names: tuple[str, ...]
    first: Ints
    second: Ints
    outcome: Floats
    pairing: Ints
    cluster: Ints


@dataclass(frozen=True)
class Standings:
    """M matches of any number of entrants, in a canonical order; made by `standings`.

    names      [n], sorted
    entrants   of each match, indices into names, ascending, each once
    ranks      of each match, beside entrants: 1 best, equal ranks share
    pairing    [M], who met, numbered from 0
    cluster    [M], the matches of one pairing and pair number
    """

    names: tuple[str, ...]
    entrants: tuple[tuple[int, ...], ...]
    ranks: tuple[tuple[int, ...], ...]
    pairing: Ints
    cluster: Ints


def duels(
    names: Sequence[str], first: ArrayLike, second: ArrayLike, outcome: ArrayLike, pair: ArrayLike | None = None
) -> Duels:
    """Return games [M] of two entrants in their canonical order.

    Args:
        names: [n], what first and second index.
        first: int [M], the entrant in the first seat.
        second: int [M], the entrant in the other.
        outcome: [M], 1 where the first won, 0.5 for a draw, 0 where it lost.
        pair: int [M]; games of the same two entrants with the same number are one cluster. By default each is its own.

    Raises ValueError for other values, lengths that differ, names that repeat and for no games.
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
    # Games that are clusters of their own get their numbers now, from the canonical order.
    cluster = np.arange(len(order)) if pair is None else cluster
    return Duels(ordered, one[order], other[order], result[order], pairing, cluster)


def standings(
    names: Sequence[str],
    entrants: Sequence[Sequence[int]],
    ranks: Sequence[Sequence[float]],
    pair: Sequence[int] | None = None,
) -> Standings:
    """Return matches [M] in their canonical order.

    Args:
        names: [n], what entrants index.
        entrants: of each match, at least two, each once.
        ranks: beside entrants; lower is better, equal values share.
        pair: [M]; matches of the same entrants with the same number are one cluster. By default each is its own.

    Raises ValueError for anything else, and for no matches.
    """
    numbers = [0] * len(entrants) if pair is None else pair
    if not len(entrants) == len(ranks) == len(numbers) or not len(entrants):
        raise ValueError("entrants, ranks and pair must be of one length of at least 1")
    ordered, place = _sorted_names(names)
    rows = []
    for who, how, number in zip(entrants, ranks, numbers, strict=True):
        if len(who) < 2 or len(set(who)) < len(who) or len(who) != len(how):
            raise ValueError(f"a match needs at least two entrants, each once, and a rank for each, got {list(who)}")
        if min(who) < 0 or max(who) >= len(names):
            raise ValueError(f"entrants must be 0 to {len(names) - 1}, indices of names, got {list(who)}")
        levels = sorted(set(how))
        pairs = sorted((int(place[w]), levels.index(r) + 1) for w, r in zip(who, how, strict=True))
        rows.append((tuple(w for w, _ in pairs), int(number), tuple(r for _, r in pairs)))
    rows.sort()
    whos = [row[0] for row in rows]
    cluster = np.arange(len(rows)) if pair is None else _runs([row[:2] for row in rows])
    return Standings(ordered, tuple(whos), tuple(row[2] for row in rows), _runs(whos), cluster)


def collect(matches: Iterable[Any]) -> Duels | Standings:
    """Return matches as `Duels` where two entrants met in each, else as `Standings`.

    Each match is a dict or an object with `entrants`, the name in every seat; `ranks` beside them, 1 best, ties share;
    `pair`, an int; and `pairing`, the names of those who met. Where an entrant has several seats, as in a team, the
    mean of its ranks counts. Who sits first is who has the first seat. Raises ValueError for no matches.
    """
    met: list[tuple[list[str], list[float], int]] = []
    for match in matches:
        seats, ranks, pairing = list(_of(match, "entrants")), list(_of(match, "ranks")), _of(match, "pairing")
        # Two seats are two entrants, or one against itself, which says what a seat is worth.
        mean = None if len(seats) == 2 else mean_ranks(seats, ranks)
        if not set(pairing) <= set(seats) or (mean is not None and len(mean) < 2):
            raise ValueError(f"a match between {list(pairing)} has {seats} in its seats")
        met.append((*((seats, ranks) if mean is None else (list(mean), list(mean.values()))), int(_of(match, "pair"))))
    if not met:
        raise ValueError("there are no matches")
    names = sorted({name for who, _, _ in met for name in who})
    index = {name: k for k, name in enumerate(names)}
    pair = [number for _, _, number in met]
    if all(len(who) == 2 for who, _, _ in met):
        seats_of = np.array([[index[name] for name in who] for who, _, _ in met])
        gap = np.array([ranks[1] - ranks[0] for _, ranks, _ in met])
        return duels(names, seats_of[:, 0], seats_of[:, 1], (np.sign(gap) + 1) / 2, pair)
    kept = [entry for entry in met if len(set(entry[0])) > 1]
    return standings(
        names, [[index[x] for x in who] for who, _, _ in kept], [how for _, how, _ in kept], [k for _, _, k in kept]
    )


def mean_ranks(seats: Sequence[str], ranks: Sequence[float]) -> dict[str, float]:
    """Return the mean rank of each entrant over its seats, in the order of first seats."""
    found: dict[str, list[float]] = {}
    for name, rank in zip(seats, ranks, strict=True):
        found.setdefault(name, []).append(rank)
    return {name: sum(own) / len(own) for name, own in found.items()}


def check_connected(names: Sequence[str], one: Ints, other: Ints) -> None:
    """Raise ValueError, naming the groups, where entrants [n] fall into groups that never met: meetings [K]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(names)
    count, label = connected_components(coo_array((np.ones(len(one)), (one, other)), shape=(n, n)), directed=False)
    if count > 1:
        groups = [[name for name, k in zip(names, label, strict=True) if k == group] for group in range(count)]
        shown = "; ".join(", ".join(group[:6]) + (", ..." if len(group) > 6 else "") for group in groups[:8])
        raise ValueError(f"entrants fall into {count} groups that never met, so they have no common scale: {shown}")


def _of(match: Any, key: str) -> Any:
    return match[key] if isinstance(match, dict) else getattr(match, key)


def _sorted_names(names: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    """Return names sorted, and where each went."""
    if len(set(names)) < len(names):
        raise ValueError(f"names must differ, got {list(names)}")
    ordered = tuple(sorted(names))
    index = {name: k for k, name in enumerate(ordered)}
    return ordered, np.array([index[name] for name in names], np.int64)


def _groups(*keys: Ints) -> Ints:
    """Number the runs of equal keys [M] in sorted rows."""
    change = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        change[1:] |= key[1:] != key[:-1]
    return np.cumsum(change)


def _runs(keys: Sequence[Any]) -> Ints:
    numbers = {key: k for k, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)
