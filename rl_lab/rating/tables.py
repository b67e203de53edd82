"""This module makes tables of matches: plain data for JSON, and text for a terminal.

`tournament.summary` calls it. Functions that take matches compute; `render_ranking` and `render_cross_table` only
format what these return. Nothing is printed or written here.

A match is a dict or an object with `entrants`, the name in every seat; `ranks`, the rank of every seat, 1 for the best,
equal for ties; `pairing`, the names of the match's players; `pair`, an int, the same for games with swapped seats; and,
if they have names, `seats`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rl_lab.core.text_table import format_table
from rl_lab.rating import bradley_terry, metagame, plackett_luce
from rl_lab.rating.ratings import Effect, Ratings
from rl_lab.rating.results import Floats, PairwiseResults, convert_matches, mean_ranks

Row = dict[str, Any]


def fit_ratings(matches: Iterable[Any], **options: Any) -> Ratings:
    """Return Bradley-Terry ratings if each match is between two entrants, else Plackett-Luce ratings.

    Options and errors are those of `bradley_terry.fit`.
    """
    results = convert_matches(matches)
    if isinstance(results, PairwiseResults):
        return bradley_terry.fit(results, **options)
    options.pop("seat", None)
    return plackett_luce.fit(results, **options)


def ranking(matches: Iterable[Any], *, ratings: Ratings | None = None, **options: Any) -> list[Row]:
    """Return one row per entrant, the best rating first.

    A row has `name`; `rating`, `low`, `high` in Elo points; `rank`, `rank_low`, `rank_high` (see
    `Ratings.rank_intervals`); `games`; `wins`, `draws` and `losses`, the games in which it was the only best, one of
    several best, or neither; `score`, 0 to 1, the mean over its opponents of 1 for a better rank and 0.5 for an equal
    one; and `seats`, the same counts and score for each seat.

    Args:
        matches: see the module.
        ratings: the ratings of these matches; if None, `fit_ratings` makes them with these options.
        options: options of `bradley_terry.fit`.
    """
    matches = list(matches)
    ratings = fit_ratings(matches, **options) if ratings is None else ratings
    low, high = ratings.rank_intervals()
    totals, by_seat = _count_results(matches, ratings.names)
    order = sorted(range(len(ratings.names)), key=lambda k: (-ratings.elo[k], ratings.names[k]))
    return [
        {
            "rank": place,
            "name": ratings.names[k],
            "rating": float(ratings.elo[k]),
            "low": float(ratings.low[k]),
            "high": float(ratings.high[k]),
            "rank_low": int(low[k]),
            "rank_high": int(high[k]),
            **totals[ratings.names[k]].to_dict(),
            "seats": [{"seat": seat, **c.to_dict()} for (_, seat), c in sorted(by_seat[ratings.names[k]].items())],
        }
        for place, k in enumerate(order, start=1)
    ]


def effects(ratings: Ratings) -> Row:
    """Return the first seat's advantage, in Elo points, and the draw parameter, each {value, low, high} or None."""
    return {"seat": _effect_to_dict(ratings.seat), "draw": _effect_to_dict(ratings.draw)}


def superiority(ratings: Ratings) -> Row:
    """Return `names`, best first, and `probability`, rows of the probability that the row's entrant is stronger."""
    order = np.argsort(-ratings.elo, kind="stable")
    table = ratings.superiority()[np.ix_(order, order)]
    return {"names": [ratings.names[k] for k in order], "probability": table.tolist()}


def cross_table(matches: Iterable[Any], names: Sequence[str] | None = None) -> Row:
    """Return `names`, `score` (rows against columns, 0 to 1, None for two that never met) and `games`, lists of rows.

    Args:
        matches: see the module.
        names: the order of rows; by default, the highest mean score is first.
    """
    ordered, score, count = _mean_scores(matches, names)
    scores = [[None if math.isnan(x) else x for x in row] for row in score.tolist()]
    return {"names": ordered, "score": scores, "games": count.astype(int).tolist()}


def game_theory(matches: Iterable[Any], names: Sequence[str] | None = None) -> Row:
    """Return the game-theoretic analysis of the cross table by `metagame`.

    The keys are `names`; `alpha_rank` and `nash`, masses in the order of names; `nash_value`, each entrant's score
    against the Nash mixture less one half; `condorcet`, a name or None; and `smith`, names. All but `names` are None if
    some pairs never met; `missing` is the number of these pairs. `cyclic_share`, 0 to 1, is that of the log-odds of
    scores, after half a point is added to both sides; it is above 0 by chance alone. `worst` has each entrant's worst
    `opponent` and the `score` against it, or None.
    """
    ordered, score, count = _mean_scores(matches, names)
    n = len(ordered)
    missing = int(np.isnan(score[np.triu_indices(n, 1)]).sum())
    points = np.nan_to_num(score) * count
    log_odds = np.log((points + 0.5) / (count - points + 0.5))
    analysis: Row = {
        "names": ordered,
        "missing": missing,
        "cyclic_share": metagame.cyclic_share((log_odds - log_odds.T) / 2, count),
    }
    worst = metagame.worst_opponents(score)
    analysis["worst"] = [w and {"opponent": ordered[w[0]], "score": w[1]} for w in worst]
    if missing:
        return analysis | dict.fromkeys(("alpha_rank", "nash", "nash_value", "condorcet", "smith"))
    score_with_self = np.where(np.eye(n, dtype=bool), 0.5, score)  # an entrant scores one half against itself
    payoff = (score_with_self - score_with_self.T) / 2
    nash, value = metagame.maxent_nash(payoff)
    winner = metagame.condorcet(score_with_self)
    return analysis | {
        "alpha_rank": metagame.alpha_rank(payoff).tolist(),
        "nash": nash.tolist(),
        "nash_value": value.tolist(),
        "condorcet": None if winner is None else ordered[winner],
        "smith": [ordered[k] for k in metagame.smith_set(score_with_self)],
    }


def render_ranking(rows: list[Row], confidence: float = 0.95) -> str:
    """Return the ranking as text for a terminal: rating with its interval, ranks, games and score by seat."""
    # Columns of seats are in the order of the row that has most of them; the seats of other rows may be fewer.
    most_seats = max(rows, key=lambda row: len(row["seats"]))["seats"]
    seats = list(dict.fromkeys(each["seat"] for each in [*most_seats, *(e for row in rows for e in row["seats"])]))
    cells = [
        [
            "rank",
            "name",
            "rating",
            f"{confidence:.0%} interval",
            "ranks",
            "games",
            "won",
            "drawn",
            "lost",
            "score",
            *seats,
        ]
    ]
    for row in rows:
        score_by_seat = {each["seat"]: f"{each['score']:.1%}" for each in row["seats"]}
        is_anchor = row["low"] == row["rating"] == row["high"]
        interval = "anchor" if is_anchor else f"{row['low']:+.0f} to {row['high']:+.0f}"
        rating = f"{row['rating']:.0f}" if is_anchor else f"{row['rating']:+.0f}"
        ranks = f"{row['rank_low']} to {row['rank_high']}"
        counts = [f"{row[key]:,}" for key in ("games", "wins", "draws", "losses")]
        cells.append([str(row["rank"]), row["name"], rating, interval, ranks, *counts])
        cells[-1] += ["-" if row["score"] is None else f"{row['score']:.1%}"]
        cells[-1] += [score_by_seat.get(seat, "-") for seat in seats]
    return format_table(cells, left=(1,))


def render_cross_table(table: Row) -> str:
    """Return a cross table as text for a terminal: scores in percent; columns have the numbers of the rows."""
    names = table["names"]
    cells = [["", "", *(str(k) for k in range(1, len(names) + 1))]]
    for k, (name, row) in enumerate(zip(names, table["score"], strict=True), start=1):
        cells.append([str(k), name, *("-" if x is None else f"{100 * x:.0f}" for x in row)])
    return format_table(cells, left=(1,))


def _effect_to_dict(effect: Effect | None) -> Row | None:
    return None if effect is None else {key: float(value) for key, value in vars(effect).items()}


class _ResultCounts:
    """The numbers of one entrant's games, wins, draws and losses, and the sum of its points, 0 to 1 a game."""

    def __init__(self) -> None:
        self.games = self.wins = self.draws = self.losses = 0
        self.points = 0.0

    def add(self, ranks: dict[str, float], name: str, times: int) -> None:
        """Count `times` games of entrant `name` in which the entrants had these ranks."""
        others = [rank for other, rank in ranks.items() if other != name]
        rank, best = ranks[name], min(others)
        self.games += times
        self.wins += times * (rank < best)
        self.draws += times * (rank == best)
        self.losses += times * (rank > best)
        self.points += times * sum((rank < other) + (rank == other) / 2 for other in others) / len(others)

    def to_dict(self) -> Row:
        """Return the counts, and the mean score, None without games."""
        score = self.points / self.games if self.games else None
        return {k: int(getattr(self, k)) for k in ("games", "wins", "draws", "losses")} | {"score": score}


def _count_results(
    matches: Sequence[Any], names: Sequence[str]
) -> tuple[dict[str, _ResultCounts], dict[str, dict[tuple[int, str], _ResultCounts]]]:
    """Return each entrant's counts in all its games, and those by seat, whose keys are the seat's index and name."""
    totals = {name: _ResultCounts() for name in names}
    by_seat: dict[str, dict[tuple[int, str], _ResultCounts]] = {name: {} for name in names}
    # Matches with the same seating and result are counted at once.
    equal = Counter((tuple(_get(m, "entrants")), tuple(_get(m, "ranks")), tuple(_get(m, "seats", ()))) for m in matches)
    for (entrants, ranks, seats), times in sorted(equal.items()):
        by_name = mean_ranks(entrants, ranks)
        for name in by_name if len(by_name) > 1 else ():
            totals[name].add(by_name, name, times)
            for seat in (k for k, each in enumerate(entrants) if each == name):
                label = str(seats[seat]) if seats else str(seat)
                by_seat[name].setdefault((seat, label), _ResultCounts()).add(by_name, name, times)
    return totals, by_seat


def _mean_scores(matches: Iterable[Any], names: Sequence[str] | None) -> tuple[list[str], Floats, Floats]:
    """Return names, mean scores [n, n] (nan for two that never met and on the diagonal) and numbers of games [n, n].

    Without `names`, the entrant with the highest mean score is first.
    """
    results = convert_matches(matches)
    n = len(results.names)
    points, count = np.zeros((n, n)), np.zeros((n, n))
    if isinstance(results, PairwiseResults):
        for one, other, outcome in (
            (results.first, results.second, results.outcome),
            (results.second, results.first, 1 - results.outcome),
        ):
            points += np.bincount(one * n + other, outcome, n * n).reshape(n, n)
            count += np.bincount(one * n + other, minlength=n * n).reshape(n, n)
    else:
        for entrants, ranks in zip(results.entrants, results.ranks, strict=True):
            rank, block = np.array(ranks), np.ix_(entrants, entrants)
            points[block] += (rank[:, None] < rank) + 0.5 * (rank[:, None] == rank)
            count[block] += 1
    np.fill_diagonal(count, 0)
    score = np.divide(points, count, out=np.full((n, n), np.nan), where=count > 0)
    mean = [float(np.nanmean(row)) if (c > 0).any() else 0.0 for row, c in zip(score, count, strict=True)]
    ordered = sorted(results.names, key=lambda x: (-mean[results.names.index(x)], x)) if names is None else list(names)
    if sorted(ordered) != list(results.names):
        raise ValueError(f"names must be those of the matches: {', '.join(results.names)}")
    order = [results.names.index(name) for name in ordered]
    return ordered, score[np.ix_(order, order)], count[np.ix_(order, order)]


def _get(match: Any, key: str, default: Any = ...) -> Any:
    """Return an item of a dict or an attribute of another object; without a default, it must be there."""
    if isinstance(match, dict):
        return match[key] if default is ... else match.get(key, default)
    return getattr(match, key) if default is ... else getattr(match, key, default)
