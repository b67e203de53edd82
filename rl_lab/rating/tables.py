"""Tables: matches in, plain data out, ready for JSON and for a terminal.

A match is a dict or an object with `entrants`, the name in every seat; `ranks` beside them, 1 best, ties share;
`pairing`, those who met; `pair`, an int, the same for games of swapped seats; and, where they have names, `seats`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from . import bradley_terry, games, plackett_luce
from .ratings import Effect, Ratings
from .results import Duels, Floats, collect, mean_ranks

Row = dict[str, Any]


def rate(matches: Iterable[Any], **options: Any) -> Ratings:
    """Return ratings: Bradley-Terry's where two entrants met in each match, else Plackett-Luce's.

    Options and errors are those of `bradley_terry.fit`.
    """
    found = collect(matches)
    if isinstance(found, Duels):
        return bradley_terry.fit(found, **options)
    options.pop("seat", None)
    return plackett_luce.fit(found, **options)


def ranking(matches: Iterable[Any], *, ratings: Ratings | None = None, **options: Any) -> list[Row]:
    """Return a row an entrant, best rating first.

    Each has `name`; `rating`, `low`, `high` in Elo points; `rank`, `rank_low`, `rank_high` (see
    `Ratings.rank_intervals`); `games`; `wins`, `draws`, `losses`: games in which it was the best alone, one of several
    best, neither; `score`, 0 to 1, the mean over its opponents of 1 for a better rank and 0.5 for the same; and
    `seats`, the same counts and score for each seat it had.

    Args:
        matches: as above.
        ratings: of the same matches, where they are known; else `rate` makes them with these options.
        options: those of `bradley_terry.fit`.
    """
    played = list(matches)
    ratings = rate(played, **options) if ratings is None else ratings
    low, high = ratings.rank_intervals()
    tallies = {name: _Tally() for name in ratings.names}
    seated: dict[str, dict[tuple[int, str], _Tally]] = {name: {} for name in ratings.names}
    alike = Counter((tuple(_get(m, "entrants")), tuple(_get(m, "ranks")), tuple(_get(m, "seats", ()))) for m in played)
    for (entrants, ranks, seats), times in sorted(alike.items()):
        by_name = mean_ranks(entrants, ranks)
        for name in by_name if len(by_name) > 1 else ():
            tallies[name].add(by_name, name, times)
            for seat in (k for k, each in enumerate(entrants) if each == name):
                shown = str(seats[seat]) if seats else str(seat)
                seated[name].setdefault((seat, shown), _Tally()).add(by_name, name, times)
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
            **tallies[ratings.names[k]].line(),
            "seats": [{"seat": seat, **t.line()} for (_, seat), t in sorted(seated[ratings.names[k]].items())],
        }
        for place, k in enumerate(order, start=1)
    ]


def effects(ratings: Ratings) -> Row:
    """Return what the first seat is worth, in Elo points, and the draw parameter, each {value, low, high} or None."""
    return {"seat": _plain(ratings.seat), "draw": _plain(ratings.draw)}


def superiority(ratings: Ratings) -> Row:
    """Return `names`, best first, and `probability`, a list of rows: how probably the row's is stronger."""
    order = np.argsort(-ratings.elo, kind="stable")
    table = ratings.superiority()[np.ix_(order, order)]
    return {"names": [ratings.names[k] for k in order], "probability": table.tolist()}


def cross_table(matches: Iterable[Any], names: Sequence[str] | None = None) -> Row:
    """Return `names`, `score` (rows against columns, 0 to 1, None where two never met) and `games`, lists of rows.

    Args:
        matches: as above.
        names: their order; by default from the highest mean score down.
    """
    ordered, score, count = _scores(matches, names)
    shown = [[None if math.isnan(x) else x for x in row] for row in score.tolist()]
    return {"names": ordered, "score": shown, "games": count.astype(int).tolist()}


def theory(matches: Iterable[Any], names: Sequence[str] | None = None) -> Row:
    """Return what game theory says of the cross table, see `games`.

    `names`; `alpha_rank` and `nash`, masses in that order; `nash_value`, what each scores against that mixture less one
    half; `condorcet`, a name or None; `smith`, names; all None where two never met, of whom `missing` counts the pairs.
    `cyclic_share`, 0 to 1, of log-odds of score with half a point added to either side: chance alone makes some of it.
    `worst`, for each its `opponent` and the `score` against it, or None.
    """
    ordered, score, count = _scores(matches, names)
    n = len(ordered)
    missing = int(np.isnan(score[np.triu_indices(n, 1)]).sum())
    points = np.nan_to_num(score) * count
    odds = np.log((points + 0.5) / (count - points + 0.5))
    found: Row = {"names": ordered, "missing": missing, "cyclic_share": games.cyclic_share((odds - odds.T) / 2, count)}
    worst = games.worst_opponents(score)
    found["worst"] = [w and {"opponent": ordered[w[0]], "score": w[1]} for w in worst]
    if missing:
        return found | dict.fromkeys(("alpha_rank", "nash", "nash_value", "condorcet", "smith"))
    even = np.where(np.eye(n, dtype=bool), 0.5, score)
    payoff = (even - even.T) / 2
    nash, value = games.maxent_nash(payoff)
    winner = games.condorcet(even)
    return found | {
        "alpha_rank": games.alpha_rank(payoff).tolist(),
        "nash": nash.tolist(),
        "nash_value": value.tolist(),
        "condorcet": None if winner is None else ordered[winner],
        "smith": [ordered[k] for k in games.smith_set(even)],
    }


def render(rows: list[Row], confidence: float = 0.95) -> str:
    """Return the ranking as a table for a terminal: rating with its interval, ranks, games and score by seat."""
    longest = max(rows, key=lambda row: len(row["seats"]))["seats"]
    seats = list(dict.fromkeys(each["seat"] for each in [*longest, *(e for row in rows for e in row["seats"])]))
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
        split = {each["seat"]: f"{each['score']:.1%}" for each in row["seats"]}
        interval = f"{row['low']:+.0f} to {row['high']:+.0f}"
        ranks = f"{row['rank_low']} to {row['rank_high']}"
        counts = [f"{row[key]:,}" for key in ("games", "wins", "draws", "losses")]
        cells.append([str(row["rank"]), row["name"], f"{row['rating']:+.0f}", interval, ranks, *counts])
        cells[-1] += ["-" if row["score"] is None else f"{row['score']:.1%}", *(split.get(seat, "-") for seat in seats)]
    return _aligned(cells, left=(1,))


def render_cross(table: Row) -> str:
    """Return a cross table for a terminal: scores in percent of rows against columns, numbered as the rows are."""
    names = table["names"]
    cells = [["", "", *(str(k) for k in range(1, len(names) + 1))]]
    for k, (name, row) in enumerate(zip(names, table["score"], strict=True), start=1):
        cells.append([str(k), name, *("-" if x is None else f"{100 * x:.0f}" for x in row)])
    return _aligned(cells, left=(1,))


def _plain(effect: Effect | None) -> Row | None:
    return None if effect is None else {key: float(value) for key, value in vars(effect).items()}


class _Tally:
    """Counts of one entrant's games."""

    def __init__(self) -> None:
        self.games = self.wins = self.draws = self.losses = 0
        self.points = 0.0

    def add(self, ranks: dict[str, float], name: str, times: int) -> None:
        others = [rank for other, rank in ranks.items() if other != name]
        own, best = ranks[name], min(others)
        self.games += times
        self.wins += times * (own < best)
        self.draws += times * (own == best)
        self.losses += times * (own > best)
        self.points += times * sum((own < other) + (own == other) / 2 for other in others) / len(others)

    def line(self) -> Row:
        score = self.points / self.games if self.games else None
        return {k: int(getattr(self, k)) for k in ("games", "wins", "draws", "losses")} | {"score": score}


def _scores(matches: Iterable[Any], names: Sequence[str] | None) -> tuple[list[str], Floats, Floats]:
    """Return names, mean scores [n, n], nan where two never met and on the diagonal, and the games they are of."""
    played = collect(matches)
    n = len(played.names)
    points, count = np.zeros((n, n)), np.zeros((n, n))
    if isinstance(played, Duels):
        for one, other, gained in (
            (played.first, played.second, played.outcome),
            (played.second, played.first, 1 - played.outcome),
        ):
            points += np.bincount(one * n + other, gained, n * n).reshape(n, n)
            count += np.bincount(one * n + other, minlength=n * n).reshape(n, n)
    else:
        for who, ranks in zip(played.entrants, played.ranks, strict=True):
            rank, where = np.array(ranks), np.ix_(who, who)
            points[where] += (rank[:, None] < rank) + 0.5 * (rank[:, None] == rank)
            count[where] += 1
    np.fill_diagonal(count, 0)
    score = np.divide(points, count, out=np.full((n, n), np.nan), where=count > 0)
    mean = [float(np.nanmean(row)) if (c > 0).any() else 0.0 for row, c in zip(score, count, strict=True)]
    ordered = sorted(played.names, key=lambda x: (-mean[played.names.index(x)], x)) if names is None else list(names)
    if sorted(ordered) != list(played.names):
        raise ValueError(f"names must be those of the matches: {', '.join(played.names)}")
    order = [played.names.index(name) for name in ordered]
    return ordered, score[np.ix_(order, order)], count[np.ix_(order, order)]


def _get(match: Any, key: str, default: Any = ...) -> Any:
    if isinstance(match, dict):
        return match[key] if default is ... else match.get(key, default)
    return getattr(match, key) if default is ... else getattr(match, key, default)


def _aligned(cells: list[list[str]], left: tuple[int, ...]) -> str:
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    fit = [str.ljust if k in left else str.rjust for k in range(len(widths))]
    lines = ["  ".join(f(c, w) for f, c, w in zip(fit, row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)
