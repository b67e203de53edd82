"""This module summarizes a tournament: ratings, tables and game-theoretic solutions, missing matches and forfeits.

`commands.tournament` and `report` call `summarize`, which returns a dictionary for JSON, and `render_summary`, which
formats it for a terminal. The tables are those of `rating.tables`. Nothing is printed or written here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rl_lab.core.agent_spaces import roles_of
from rl_lab.core.errors import UsageError, nearest, one_line
from rl_lab.core.text_table import format_table
from rl_lab.rating import tables
from rl_lab.tournament.ledger import Match
from rl_lab.tournament.store import Tournament

MIN_DISTINCT_SHARE = 0.25  # share of different games below which a summary warns
_MAX_FAULT_ROWS, _MAX_REASON_LENGTH = 20, 90  # of the table of forfeits for a terminal
_MAX_SEAT_COLUMNS = 6  # of the ranking for a terminal; the JSON has all of them


def summarize(
    tournament: Tournament, matches: Sequence[Match], total: int, *, anchor: str = "", intervals: str = "sandwich"
) -> dict[str, Any]:
    """Return the summary of these matches, of `total` in the schedule, as a dictionary for JSON.

    The tables are those of `rating.tables`. `anchor` is `NAME` or `NAME=ELO`. The order of matches does not matter.

    Raises:
        UsageError: the anchor has no match, or the entrants form groups that never met; the message names the groups.
    """
    names_with_matches = {each for match in matches for each in match.pairing}
    name, elo = (anchor, 0.0) if anchor in names_with_matches else _anchor(anchor)
    forfeits = Counter(match.fault.entrant for match in matches if match.fault)
    result: dict[str, Any] = {
        "dir": str(tournament.path),
        "world": tournament.world,
        "schedule": tournament.schedule,
        "matches": len(matches),
        "missing": max(total - len(matches), 0),
        "complete": len(matches) >= total,
        "different": len({(match.entrants, match.trace) for match in matches}),
        "faults": sum(forfeits.values()),
        "forfeits": dict(sorted(forfeits.items())),
        "fault_groups": fault_groups(matches),
        "unplayed": [each.name for each in tournament.entrants if each.name not in names_with_matches],
        "anchor": {"name": name, "elo": elo} if name else None,
        "confidence": 0.95,
    }
    if not matches:
        return (
            result | dict.fromkeys(("table", "cross_table"), []) | dict.fromkeys(("effects", "theory", "superiority"))
        )
    try:
        build_ratings = tables.fit_ratings(matches, anchor=name or None, anchor_elo=elo, intervals=intervals)
    except ValueError as error:
        done = f"{len(matches):,} of {total:,} matches were played"
        raise UsageError(f"{tournament.path}: {one_line(error)} ({done})") from None
    rows = tables.ranking(matches, ratings=build_ratings)
    names, roles = [row["name"] for row in rows], roles_of(matches[0].seats)
    return result | {
        "table": [row | {"seats": _by_role(row["seats"], matches[0].seats, roles)} for row in rows],
        "effects": tables.effects(build_ratings),
        "cross_table": tables.cross_table(matches, names),
        "superiority": tables.superiority(build_ratings),
        "theory": tables.game_theory(matches, names),
    }


def fault_groups(matches: Sequence[Match]) -> list[dict[str, Any]]:
    """Return a row for each `entrant` and `kind` of fault, with the `count`, and `reason` and `match` of the first.

    The groups are sorted by count, the largest first. The first match of a group is that with the lowest pairing, pair
    and leg.
    """
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for match in sorted((each for each in matches if each.fault), key=lambda each: (each.pairing, each.pair, each.leg)):
        fault = match.fault
        assert fault is not None
        first = {"entrant": fault.entrant, "kind": fault.kind, "count": 0, "reason": fault.reason, "match": match.id}
        groups.setdefault((fault.entrant, fault.kind), first)["count"] += 1
    return sorted(groups.values(), key=lambda each: (-each["count"], each["entrant"], each["kind"]))


def check_anchor(text: str, names: Sequence[str]) -> None:
    """Raise UsageError where `text` is not `NAME`, `NAME=ELO` or "" with a name of these entrants."""
    name = text if text in names else _anchor(text)[0]
    if name and name not in names:
        raise UsageError(f"--anchor {text}: no entrant {name!r}; {nearest(name, names)}")


def _anchor(text: str) -> tuple[str, float]:
    """Return the name of the anchor, "" for none, and its rating."""
    name, equals, value = text.rpartition("=")
    try:
        number = float(value) if equals else 0.0
        if abs(number) < 1e6:
            return (name if equals else text), number
    except ValueError:
        pass
    raise UsageError(f"--anchor {text}: expected NAME, or NAME=ELO with a number between -1e6 and 1e6")


def _by_role(by_seat: list[Any], seats: Sequence[str], roles: dict[str, tuple[int, ...]]) -> list[Any]:
    """Return a ranking row's counts by seat or, in a world with several roles, by role.

    All seats of a role belong to one entrant, so the counts of its first seat are those of the role.
    """
    if len(roles) == 1:
        return by_seat
    role_of_seat = {seats[members[0]]: role for role, members in roles.items()}
    return [each | {"seat": role_of_seat[each["seat"]]} for each in by_seat if each["seat"] in role_of_seat]


def render_summary(result: dict[str, Any]) -> str:
    """Return what `summarize` has returned as text for a terminal."""
    lines, rows = [], result["table"]
    total = result["matches"] + result["missing"]
    if result["complete"]:
        lines.append(f"{result['world']}: all {total:,} matches of the schedule ({result['schedule']}) were played")
    else:
        lines.append(f"INCOMPLETE: {result['matches']:,} of {total:,} matches were played")
    if result["unplayed"]:
        lines.append(f"not played yet: {', '.join(result['unplayed'])}")
    if result["faults"]:
        lines.append(f"FORFEITS: {result['faults']:,} matches")
        lines += _fault_lines(result["fault_groups"])
    else:
        lines.append("no forfeits")
    if not rows:
        return "\n".join([*lines, "no matches"])
    if result["different"] < MIN_DISTINCT_SHARE * result["matches"]:
        lines.append(
            f"only {result['different']:,} different games: deterministic entrants repeat themselves; see --opening"
        )
    narrow = [row | {"seats": row["seats"] if len(row["seats"]) <= _MAX_SEAT_COLUMNS else []} for row in rows]
    lines += ["", tables.render_ranking(narrow, result["confidence"]), f"  {_scale_line(result)}"]
    lines += ["", "score in percent, rows against columns", tables.render_cross_table(result["cross_table"])]
    return "\n".join([*lines, "", *_theory_lines(result["theory"])])


def _fault_lines(groups: list[dict[str, Any]]) -> list[str]:
    """Return a table of forfeits with entrant, kind, number of matches, and the reason of the first match."""
    cells = [("entrant", "fault", "matches", "reason of the first")]
    for each in groups[:_MAX_FAULT_ROWS]:
        reason = each["reason"]
        reason = reason if len(reason) <= _MAX_REASON_LENGTH else reason[: _MAX_REASON_LENGTH - 3] + "..."
        cells.append((each["entrant"], each["kind"], f"{each['count']:,}", reason))
    lines = format_table(cells, left=(0, 1, 3), indent="  ").splitlines()
    return [*lines, *([f"  and {len(groups) - _MAX_FAULT_ROWS} more"] if len(groups) > _MAX_FAULT_ROWS else [])]


def _scale_line(result: dict[str, Any]) -> str:
    """Return a line about the scale of the ratings, the advantage of the first seat, and draws."""
    anchor, seat, draw = result["anchor"], (result["effects"] or {}).get("seat"), (result["effects"] or {}).get("draw")
    parts = [f"Elo, {anchor['name']} is {anchor['elo']:g}" if anchor else "Elo, the mean is 0"]
    if seat:
        parts.append(f"the first seat is worth {seat['value']:+.0f} ({seat['low']:+.0f} to {seat['high']:+.0f})")
    if draw:
        parts.append(f"between equals a draw is {draw['value']:.2g} times as likely as a win")
    return "; ".join(parts)


def _theory_lines(theory: dict[str, Any]) -> list[str]:
    """Return the game-theoretic results: one line for each entrant, then lines about all of them."""
    cells = []
    for k, name in enumerate(theory["names"]):
        worst, row = theory["worst"][k], [name]
        if theory["nash"] is not None:
            row += [f"alpha-rank {theory['alpha_rank'][k]:6.1%}", f"Nash {theory['nash'][k]:6.1%}"]
        cells.append([*row, f"least against {worst['opponent']} ({worst['score']:.1%})" if worst else ""])
    table = format_table(cells, left=range(len(cells[0])), indent="  ")
    lines = ["game theory of the cross table", *table.splitlines()]
    if theory["missing"]:
        lines.append(f"{theory['missing']:,} pairings never met, so there is no alpha-rank, Nash or Smith set")
    elif theory["condorcet"]:
        lines.append(f"{theory['condorcet']} scores above one half against every other entrant (Condorcet winner)")
    else:
        lines.append(f"no Condorcet winner; each of the Smith set beats all outside: {', '.join(theory['smith'])}")
    return [*lines, f"cyclic share {theory['cyclic_share']:.1%}: what no rating explains, chance included"]
